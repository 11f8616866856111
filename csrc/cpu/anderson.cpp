// CPU side of the Anderson step: two passes over the states of a batch, and the small systems between them.
//
// Bytes in units of D, the state of one sample, at history n: pass 1 reads f, x and n - 1 older g and writes g; pass 2 reads n
// f and writes x. The ring of f is a list of references to what f returned, so nothing is copied into it. Samples go through
// both passes in groups, small enough for the second to find the newest f in a cache.

#include "sample_state.h"
#include "weights.h"

namespace ldeq::cpu {
namespace {

using torch::stable::parallel_for;

struct Step {
  Type state, work, history;
  int64_t batch, dim, tiles;
  int m, n, slot;
  double damping, ridge;
  bool safeguards;
  Stop stop;
  const void* x;
  std::vector<const void*> f;
  void* g;
  double* gram;
  double* measurements;
  int64_t* flags;
  void* x_next;  // null: norms only
  void* x_cast;
  Evicted evicted;

  int64_t* flags_of(int64_t b) const { return flags + b * (kFlags + m); }
  int64_t count(int64_t tile) const { return std::min(kTile, dim - tile * kTile); }
  int64_t offset(int64_t b, int64_t tile) const { return b * dim + tile * kTile; }
  char* g_at(int slot_, int64_t element) const { return at(g, slot_ * batch * dim + element, history); }
};

struct Mixture {
  int n = 0;
  int slots[kMaxHistory];
  double alpha[kMaxHistory];
};

int others(const Step& s, const int64_t* flags, int* slots) {
  int n = 0;
  for (int k = 0; k < s.n; ++k)
    if (k != s.slot && flags[kFlags + k]) slots[n++] = k;
  return n;
}

// Pass 1 over samples [first, last), then the sums of their tiles in a fixed order: `sums` has kMaxHistory + 3 per sample.
void measure_states(const Step& s, int64_t first, int64_t last, double* sums) {
  constexpr int kSums = kMaxHistory + 3;
  std::vector<double> partial((last - first) * s.tiles * kSums);
  parallel_for(0, (last - first) * s.tiles, grain(s.dim, kTile), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t b = first + i / s.tiles, tile = i % s.tiles, from = s.offset(b, tile);
      const int64_t* flags = s.flags_of(b);
      if (!flags[kActive] && !s.stop.batch) continue;
      Tile t{};
      int slots[kMaxHistory];
      t.state = s.state;
      t.history = s.history;
      t.count = s.count(tile);
      t.n = s.x_next ? others(s, flags, slots) : 0;
      t.f = at(s.f[s.slot], from, s.state);
      t.x = at(s.x, from, s.work);
      t.g = s.x_next ? s.g_at(s.slot, from) : nullptr;
      for (int k = 0; k < t.n; ++k) t.others[k] = s.g_at(slots[k], from);
      t.sums = partial.data() + i * kSums;
      kernels().measure(t);
    }
  });
  for (int64_t i = 0; i < last - first; ++i)
    for (int k = 0; k < kSums; ++k) {
      double total = 0;
      for (int64_t tile = 0; tile < s.tiles; ++tile) total += partial[(i * s.tiles + tile) * kSums + k];
      sums[i * kSums + k] = total;
    }
}

// The Gram row, the safeguards and the weights of one sample that goes on.
Mixture mixture_of(const Step& s, int64_t b, const double* sums, double norm) {
  int64_t* flags = s.flags_of(b);
  int64_t* valid = flags + kFlags;
  double* measurements = s.measurements + b * kMeasurements;
  double* gram = s.gram + b * s.m * s.m;
  int slots[kMaxHistory];
  const int older = others(s, flags, slots);
  gram[s.slot * s.m + s.slot] = sums[2];
  for (int k = 0; k < older; ++k) gram[s.slot * s.m + slots[k]] = gram[slots[k] * s.m + s.slot] = sums[3 + k];
  if (s.safeguards) {
    const bool advanced = norm <= kStallFactor * measurements[kMark];
    flags[kStalled] = advanced ? 0 : flags[kStalled] + 1;
    const bool drops = (flags[kMixed] && norm > kRestartFactor * measurements[kLowest]) || flags[kStalled] >= kStallHistories * s.m;
    if (drops) {
      std::fill(valid, valid + s.m, 0);
      flags[kStalled] = 0;
    }
    measurements[kLowest] = drops ? norm : std::min(norm, measurements[kLowest]);
    if (advanced || drops) measurements[kMark] = norm;
  }
  valid[s.slot] = 1;
  Mixture mix;
  for (int age = 0; age < s.n; ++age) {
    const int slot = (s.slot - age + s.n) % s.n;
    if (valid[slot]) mix.slots[mix.n++] = slot;
  }
  const double precision = s.work == Type::f64 ? std::numeric_limits<double>::epsilon() : std::numeric_limits<float>::epsilon();
  mixing_weights(gram, s.m, mix.slots, mix.n, s.ridge, precision, mix.alpha);
  if (s.safeguards) {
    double square = 0;
    for (int k = 0; k < mix.n; ++k) square += mix.alpha[k] * mix.alpha[k];
    const bool sane = precision * std::sqrt(square) <= kMaxWeightRounding;  // false for NaN
    flags[kMixed] = sane && mix.n > 1;
    if (!sane) {
      mix.n = 1;
      mix.slots[0] = s.slot;
      mix.alpha[0] = 1;
    }
  }
  return mix;
}

// Pass 2 over samples [first, last): the next x where a sample goes on, the same x where it has stopped.
void mix_states(const Step& s, int64_t first, int64_t last, const Mixture* mixtures) {
  parallel_for(0, (last - first) * s.tiles, grain(s.dim, kTile), [&](int64_t begin, int64_t end) {
    // Backwards: what pass 1 touched last is in the cache still.
    for (int64_t i = end - 1; i >= begin; --i) {
      const int64_t b = first + i / s.tiles, tile = i % s.tiles, from = s.offset(b, tile);
      const Mixture& mix = mixtures[i / s.tiles];
      Tile t{};
      t.state = s.state;
      t.history = s.history;
      t.count = s.count(tile);
      t.damping = s.damping;
      t.x_next = at(s.x_next, from, s.work);
      t.x_cast = s.x_cast ? at(s.x_cast, from, s.state) : nullptr;
      if (!s.flags_of(b)[kActive]) {
        double unused[2];
        t.x = at(s.x, from, s.work);
        t.sums = unused;
        kernels().move(t);
        continue;
      }
      t.n = mix.n;
      for (int k = 0; k < mix.n; ++k) {
        t.others[k] = at(s.f[mix.slots[k]], from, s.state);
        t.others_g[k] = s.g_at(mix.slots[k], from);
        t.alpha[k] = mix.alpha[k];
      }
      kernels().mix(t);
    }
  });
}

void run(Step& s) {
  constexpr int kSums = kMaxHistory + 3;
  // A group feeds all threads; a stop that looks at the whole batch needs the whole batch measured first.
  const int64_t enough = (int64_t)torch::stable::get_num_threads() * 8 * kTile;
  const int64_t group = s.stop.batch ? s.batch : std::max<int64_t>(1, enough / std::max<int64_t>(1, s.dim));
  for (int64_t first = 0; first < s.batch; first += group) {
    const int64_t last = std::min(s.batch, first + group);
    std::vector<double> sums((last - first) * kSums);
    std::vector<Measured> measured(last - first);
    std::vector<Mixture> mixtures(last - first);
    measure_states(s, first, last, sums.data());
    for (int64_t b = first; b < last; ++b)
      measured[b - first] = measure(s.state, sums[(b - first) * kSums], sums[(b - first) * kSums + 1], s.stop.relative);
    const bool together = s.stop.batch && batch_converged(s.state, measured, s.stop);
    for (int64_t b = first; b < last; ++b) {
      decide(b, s.measurements + b * kMeasurements, s.flags_of(b), measured[b - first], s.slot, together, s.stop, s.evicted);
      if (s.x_next && s.flags_of(b)[kActive])
        mixtures[b - first] = mixture_of(s, b, sums.data() + (b - first) * kSums, measured[b - first].norm);
    }
    s.evicted.copy();
    if (s.x_next) mix_states(s, first, last, mixtures.data());
  }
}

void anderson_step(const Tensor& x, std::vector<Tensor> f_ring, std::optional<Tensor> evicted, const Tensor& g_ring,
                   const Tensor& gram, const Tensor& measurements, const Tensor& flags, const Tensor& saved_best,
                   std::optional<Tensor> x_next, std::optional<Tensor> x_cast, int64_t slot, double beta, double ridge, double tol,
                   bool relative, bool batch_stop, bool safeguards) {
  check_anderson({x, measurements, flags, saved_best, evicted, x_next, x_cast}, f_ring, g_ring, gram, slot, DeviceType::CPU);
  const int64_t batch = x.size(0), dim = x.size(1), m = g_ring.size(0), n = (int64_t)f_ring.size();
  Step s{};
  s.state = type_of(f_ring[0], "f_ring");
  for (const Tensor& f : f_ring) s.f.push_back(f.const_data_ptr());
  s.work = type_of(x, "x");
  s.history = type_of(g_ring, "g_ring");
  s.batch = batch;
  s.dim = dim;
  s.tiles = std::max<int64_t>(1, (dim + kTile - 1) / kTile);
  s.m = (int)m;
  s.n = (int)n;
  s.slot = (int)slot;
  s.damping = 1 - beta;
  s.ridge = ridge;
  s.safeguards = safeguards;
  s.stop = {tol, relative, batch_stop};
  s.x = x.const_data_ptr();
  s.g = g_ring.mutable_data_ptr();
  s.gram = static_cast<double*>(gram.mutable_data_ptr());
  s.measurements = static_cast<double*>(measurements.mutable_data_ptr());
  s.flags = static_cast<int64_t*>(flags.mutable_data_ptr());
  s.x_next = mutable_pointer(x_next);
  s.x_cast = s.x_next ? mutable_pointer(x_cast) : nullptr;
  s.evicted = evicted_of(evicted, saved_best);
  run(s);
}

Tensor best_so_far(std::vector<Tensor> ring, const Tensor& saved_best, const Tensor& start, const Tensor& flags) {
  check_best(ring, saved_best, start, flags, DeviceType::CPU);
  const int64_t batch = start.size(0), dim = start.size(1);
  const int64_t bytes = dim * bytes_of(type_of(start, "start"));
  const int64_t* f = static_cast<const int64_t*>(flags.const_data_ptr());
  for (int64_t b = 0; b < batch; ++b)
    STD_TORCH_CHECK(f[b * flags.size(1) + kBest] < (int64_t)ring.size(), "flags name a slot that ring does not have");
  Tensor out = torch::stable::empty_like(start);
  char* to = static_cast<char*>(out.mutable_data_ptr());
  copy_rows(batch, bytes, [&](int64_t b) {
    const int64_t best = f[b * flags.size(1) + kBest];
    const Tensor& from = best >= 0 ? ring[best] : best == kInSaved ? saved_best : start;
    return std::pair<char*, const char*>(to + b * bytes, static_cast<const char*>(from.const_data_ptr()) + b * bytes);
  });
  return out;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(ldeq, CPU, m) {
  m.impl("anderson_step", TORCH_BOX(&anderson_step));
  m.impl("best_so_far", TORCH_BOX(&best_so_far));
}

}  // namespace ldeq::cpu
