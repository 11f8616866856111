// The device code on the CPU without Python, for the sanitizers: `selftest [which] [k]` runs `softargmax` or `solvers`, and leaves
// out the k-th __syncthreads of every block, which ThreadSanitizer must notice. Several blocks run at the same time.
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "softargmax_launch.cuh"
#include "solver_launch.cuh"

using namespace ldeq;

namespace {

int failures = 0;

void expect(bool good, const char* what) {
  if (!good) std::printf("wrong: %s\n", what), ++failures;
}

template <typename T>
std::vector<T> measurements(size_t count, int seed) {
  std::vector<T> out(count);
  for (size_t i = 0; i < count; ++i) out[i] = Element<T>::store(static_cast<float>(std::sin(double(i) * 1.7 + seed)));
  return out;
}

// Exactly sized buffers, so that AddressSanitizer sees the first element past the end.
template <typename T>
void softargmax(int maps, int height, int width) {
  using A = Accumulate<T>;
  const int64_t count = int64_t{height} * width;
  const auto input = measurements<T>(maps * count, 1), grad_heatmap = measurements<T>(maps * count, 2);
  const auto grad_xy = measurements<A>(maps * 2, 3), grad_std = measurements<A>(maps, 4);
  std::vector<T> heatmap(maps * count), grad(maps * count);
  std::vector<A> xy(maps * 2), std(maps);
  std::vector<double> stats(maps * kStats), parts(maps), beta{0.4};
  const Maps layout{count * maps, count, width, 1, maps, height, width, division_magic(width), short_division_magic(width)};
  const Axes<A> axes{1, 0, 1, 0};
  launch_softargmax_forward<T>(
      {layout, axes, A(1e-4), beta.data(), 0, 0, input.data(), heatmap.data(), xy.data(), std.data(), stats.data()}, maps, 0);
  launch_softargmax_backward<T>({layout, axes, nullptr, 0, beta[0], input.data(), stats.data(), grad_heatmap.data(), grad_xy.data(),
                                 grad_std.data(), grad.data(), parts.data()},
                                maps, 0);
  expect(std::isfinite(parts[0]) && xy[0] > 0 && xy[0] < width, "softargmax");
}

template <typename F, typename G>
void solvers(int64_t size, bool batch_stop) {
  constexpr int kBatch = 2, kM = 3, kSteps = 4, kColumns = kM + kGramColumns;
  std::vector<double> recorded(kBatch * kMeasurements, INFINITY), gram(kBatch * kM * kM);
  std::vector<int64_t> flags(kBatch * (kFlags + kM));
  std::vector<float> x(kBatch * size), x_next(kBatch * size), alpha(kBatch * kMaxHistory);
  std::vector<int> todo(kBatch);
  std::vector<F> rings[kM], kept(kBatch * size), best(kBatch * size);
  std::vector<G> g(kM * kBatch * size);
  const auto begin = [&](int columns) {
    recorded.assign(recorded.size(), INFINITY);
    for (int b = 0; b < kBatch; ++b) flags[b * columns + kActive] = 1, flags[b * columns + kBest] = kInStart;
  };
  const auto evaluate = [&] {
    std::vector<F> f(kBatch * size);
    for (size_t i = 0; i < f.size(); ++i) f[i] = Element<F>::store(0.8f * float(i % 7) / 7 * x[i] + 1);
    return f;
  };
  const auto leaving_of = [&](const F* from) {
    return Evicted{from, kept.data(), sizeof(F), size * sizeof(F) % 16 == 0 && aligned(from, 16) && aligned(kept.data(), 16)};
  };
  begin(kFlags + kM);
  AndersonStep<F, G> p{};
  p.decision.samples = {recorded.data(), flags.data(), kBatch, kM, 0, 1e-6, true, batch_stop};
  p.decision.todo = todo.data(), p.decision.gram = gram.data(), p.decision.alpha = alpha.data();
  p.decision.ridge = 1e-8, p.decision.safeguards = true;
  for (int i = 0; i < kM; ++i) p.g[i] = g.data() + i * kBatch * size;
  p.x = x.data(), p.size = size, p.damping = 0.1f;
  double first = 0;
  for (int step = 0; step < kSteps; ++step) {
    const int slot = step % kM;
    std::vector<F> evicted = rings[slot];
    rings[slot] = evaluate();
    for (int i = 0; i < kM; ++i) p.f[i] = rings[i].data();
    p.f_new = p.f[slot], p.g_new = p.g[slot], p.n = step < kM ? step + 1 : kM, p.x_next = step + 1 < kSteps ? x_next.data() : nullptr;
    p.evicted = leaving_of(evicted.empty() ? nullptr : evicted.data());
    p.decision.samples.slot = slot, p.decision.n = p.x_next ? p.n : 0, p.decision.columns = p.x_next ? kGramColumns + p.n : kNormColumns;
    p.decision.tiles = static_cast<int>(step_tiles(p));
    std::vector<double> partials(kBatch * kColumns * p.decision.tiles);
    p.decision.partials = partials.data();
    launch_step(p, 0);
    if (step == 0) first = recorded[kLast];
    x = x_next;
    p.x = x.data();
  }
  expect(recorded[kLast] < 0.5 * first, "anderson");
  BestSoFar<uint16_t> q{};
  const int64_t words = size * static_cast<int64_t>(sizeof(F) / sizeof(uint16_t));
  const auto as_words = [](auto& v) { return reinterpret_cast<uint16_t*>(v.data()); };
  for (int i = 0; i < kM; ++i) q.ring[i] = as_words(rings[i]);
  q.saved_best = q.start = as_words(kept), q.out = as_words(best), q.flags = flags.data();
  q.size = words, q.columns = kFlags + kM, q.n = kM, q.tiles = static_cast<int>(tiles_of(words, kBestTile));
  launch_gather_best(q, kBatch, 0);

  flags.assign(flags.size(), 0);
  begin(kFlags);
  FixedPointStep<F> r{};
  const std::vector<F> f = evaluate();
  r.decision = p.decision, r.decision.samples.m = 0, r.decision.samples.slot = 0, r.decision.n = 0, r.decision.columns = kNormColumns;
  // Far from converged: both samples go on; the second time they have stopped.
  r.f = f.data(), r.x = x.data(), r.x_next = x_next.data(), r.size = size, r.beta = 0.5f, r.evicted = leaving_of(f.data());
  r.decision.tiles = static_cast<int>(step_tiles(r));
  std::vector<double> partials(kBatch * kNormColumns * r.decision.tiles);
  r.decision.partials = partials.data();
  for (double tol : {0.0, 1e9}) {
    r.decision.samples.tol = tol;
    launch_step(r, 0);
  }
  expect(flags[kActive] == 0 && flags[kStatus] == kConverged && x_next == x, "fixed point");
}

}  // namespace

int main(int argc, char** argv) {
  const std::string which = argc > 1 ? argv[1] : "all";
  on_host::dropped_sync = argc > 2 ? std::atoi(argv[2]) : -1;
  on_host::concurrent_blocks = 3;
  if (which != "solvers") {
    softargmax<float>(3, 24, 24);
    if (on_host::dropped_sync < 0) {
      softargmax<__nv_bfloat16>(2, 7, 5);
      softargmax<float>(2, 13, 11);
      softargmax<__half>(1, 65, 65);
    }
  }
  if (which != "softargmax") {
    solvers<float, float>(2056, false);
    if (on_host::dropped_sync < 0) solvers<__nv_bfloat16, __nv_bfloat16>(513, true);
  }
  return failures == 0 ? 0 : 1;
}
