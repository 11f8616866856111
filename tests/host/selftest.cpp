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
std::vector<T> numbers(size_t count, int seed) {
  std::vector<T> out(count);
  for (size_t i = 0; i < count; ++i) out[i] = Element<T>::store(static_cast<float>(std::sin(double(i) * 1.7 + seed)));
  return out;
}

// Exactly sized buffers, so that AddressSanitizer sees the first element past the end.
template <typename T>
void softargmax(int maps, int height, int width) {
  using A = Accumulate<T>;
  const int64_t count = int64_t{height} * width;
  const auto input = numbers<T>(maps * count, 1), grad_heatmap = numbers<T>(maps * count, 2);
  const auto grad_xy = numbers<A>(maps * 2, 3), grad_std = numbers<A>(maps, 4);
  std::vector<T> heatmap(maps * count), grad(maps * count);
  std::vector<A> xy(maps * 2), std(maps), stats(maps * kStats), parts(maps), grad_beta(1), beta{A(0.4)};
  const Maps layout{count * maps, count, width, 1, maps, height, width, division_magic(width)};
  const Axes<A> axes{1, 0, 1, 0};
  launch_softargmax_forward<T>(
      {layout, axes, A(1e-4), beta.data(), 0, input.data(), heatmap.data(), xy.data(), std.data(), stats.data()}, maps, 0);
  launch_softargmax_backward<T>({layout, axes, A(1e-4), beta.data(), 0, input.data(), stats.data(), grad_heatmap.data(), grad_xy.data(),
                                 grad_std.data(), grad.data(), parts.data()},
                                maps, 0);
  launch_sum_beta_gradient<A>(parts.data(), grad_beta.data(), maps, 1, 0);
  expect(std::isfinite(grad_beta[0]) && xy[0] > 0 && xy[0] < width, "softargmax");
}

template <typename F, typename G>
void solvers(int64_t size) {
  constexpr int kBatch = 2, kM = 3, kSteps = 4;
  std::vector<uint8_t> active(kBatch, 1), mixed(kBatch, 0);
  std::vector<int64_t> status(kBatch, 0), iterations(kBatch, 0);
  std::vector<float> residual(kBatch, INFINITY), norm(kBatch, INFINITY), first(kBatch), lowest(kBatch, INFINITY);
  std::vector<int32_t> best(kBatch, -1);
  std::vector<unsigned> ticket(kBatch, 0);
  std::vector<uint32_t> valid(kBatch, 0);
  std::vector<double> gram(kBatch * kM * kM);
  std::vector<float> alpha(kBatch * kM), x(kBatch * size), trace(kSteps * kBatch);
  std::vector<float> partials(kBatch * (kM + 2) * step_tiles(size, step_is_wide(size)));
  std::vector<F> f(kBatch * size), value(kBatch * size), rings[kM];
  std::vector<G> g[kM];
  for (int i = 0; i < kM; ++i) rings[i].resize(kBatch * size), g[i].resize(kBatch * size);
  AndersonStep<F, G> p{};
  p.progress = {active.data(), status.data(), iterations.data(), residual.data(), norm.data(), first.data(), best.data(), trace.data(),
                kBatch,        0,             1e-6f,             true};
  p.mixing = {gram.data(), alpha.data(), valid.data(), mixed.data(), lowest.data(), kM, 1e-8, true};
  for (int i = 0; i < kM; ++i) p.f[i] = rings[i].data(), p.g[i] = g[i].data();
  p.f_new = f.data(), p.x = x.data(), p.value = value.data(), p.partials = partials.data(), p.ticket = ticket.data();
  p.size = size, p.beta = 0.9f;
  for (int step = 0; step < kSteps; ++step) {
    for (size_t i = 0; i < f.size(); ++i) f[i] = Element<F>::store(0.8f * float(i % 7) / 7 * x[i] + 1);
    p.progress.step = step, p.slot = step % kM, p.n = step < kM ? step + 1 : kM, p.last = step + 1 == kSteps;
    p.f_copy = rings[p.slot].data(), p.evicted = step < kM ? nullptr : rings[p.slot].data();
    launch_anderson_step(p, 0);
  }
  expect(trace[(kSteps - 1) * kBatch] < 0.5f * trace[0], "anderson");

  std::fill(active.begin(), active.end(), 1), std::fill(best.begin(), best.end(), -1);
  partials.assign(kBatch * 2 * fixed_point_tiles(size, step_is_wide(size)), 0);
  FixedPointStep<F> q{};
  q.progress = p.progress, q.progress.step = 0;
  q.f = f.data(), q.x = x.data(), q.x_out = x.data(), q.value = value.data(), q.partials = partials.data(), q.ticket = ticket.data();
  q.size = size, q.beta = 1;
  launch_fixed_point_step(q, 0);
  Finish<F, F> last{};
  last.ring[0] = f.data(), last.best_slot = best.data(), last.iterations = iterations.data(), last.value = value.data();
  last.size = size, last.steps = -1;
  launch_finish(last, kBatch, 0);
  expect(ticket[0] == 0, "ticket");
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
    solvers<float, float>(2056);
    if (on_host::dropped_sync < 0) solvers<__nv_bfloat16, __nv_bfloat16>(513);
  }
  return failures == 0 ? 0 : 1;
}
