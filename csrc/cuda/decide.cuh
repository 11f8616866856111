// Between the two passes over the states: the sums of the tiles, the decision who goes on, and the n x n system of Anderson mixing.
// One block a sample. The formulas are those of ldeq/ops/solve_step: `decide` of reference.py and `mixing_weights` of mixing.py.
#pragma once

#include "sample_state.cuh"

namespace ldeq {

// A is the type of the arithmetic on states.
template <typename A>
struct Decision {
  SampleState samples;
  double* partials;  // (batch, columns, tiles): |g|^2, |f|^2 and, for mixing, |stored g|^2 and <g, g_i> for each of n slots
  int columns, tiles;
  int* todo;       // (batch), see `Todo`
  // Mixing alone:
  int n;           // slots in use, 0 where nothing is mixed
  double* gram;    // (batch, m, m)
  A* alpha;        // (batch, kMaxHistory); 0 for a pair that does not count
  double ridge;    // relative to the mean diagonal from 0 upwards, absolute below
  bool safeguards;
};

// A warp for each column of sums that six pairs have, since nothing else runs meanwhile.
constexpr int kDecideThreads = 320;
constexpr int kNormColumns = 2, kGramColumns = 3;

// By age, newest first: `products` are those of the differences of pairs that follow each other.
struct WeightsShared {
  double products[kMaxHistory][kMaxHistory + 1];  // padded: lanes read down a column
  double columns[kMaxHistory][kMaxHistory];       // of the factor, in the order of its pivots
  double scale[kMaxHistory];
};

struct DecideShared {
  double totals[kMaxHistory + kGramColumns];
  double residuals[kDecideThreads / kWarp];
  WeightsShared weights;
};

// The value of one lane, for all of them.
__device__ inline double broadcast(double value, int from, int lane) { return reduce_warp(lane == from ? value : 0.0, Sum()); }

// x of a x = b for a matrix of unit diagonal in `s.products`, in the columns that are `free`; lane i holds row i and entry i of b and
// x. A Cholesky factorisation: column 0 first, then always the largest pivot. x is 0 for columns whose pivot does not exceed `least`.
__device__ inline double pivoted_solve(WeightsShared& s, double b, bool free, double least, int count, int lane) {
  const bool inside = lane < count;
  int step = 0, place = -1;  // where this lane's column came in the order of pivots
  double y = 0, root = 1;    // of this lane's own pivot, the root as its inverse
  for (; step < count; ++step) {
    const double diagonal = inside ? s.products[lane][lane] : 0.0;
    double score = free && diagonal > least ? diagonal : -1.0;
    if (step == 0 && lane == 0 && free) score = 2;
    const double highest = reduce_warp(score, Max());
    if (!(highest > 0)) break;
    const uint32_t highs = reduce_warp(score == highest ? 1u << lane : 0u, Sum());
    const int pivot = __popc((highs & (0u - highs)) - 1);
    const double inverse = rsqrt(broadcast(diagonal, pivot, lane));
    const double column = free ? s.products[lane][pivot] * inverse : 0.0;
    const double entry = broadcast(b, pivot, lane) * inverse;
    b -= column * entry;
    if (inside) s.columns[step][lane] = column;
    if (lane == pivot) {
      free = false;
      place = step;
      y = entry;
      root = inverse;
    }
    __syncwarp();
    if (inside) {
      for (int j = 0; j < count; ++j) s.products[lane][j] -= column * s.columns[step][j];
    }
  }
  double x = 0;
  while (--step >= 0) {
    const double known = reduce_warp(inside ? s.columns[step][lane] * x : 0.0, Sum());
    if (place == step) x = (y - known) * root;
  }
  return x;
}

// Whether the history of a sample is dropped; all lanes of a warp. Enters what its progress is measured against.
__device__ inline bool drops_history(const SampleState& p, int64_t sample, double norm, int lane) {
  double* const measurements = p.measurements + sample * kMeasurements;
  int64_t* const flags = p.flags_of(sample);
  const double lowest = measurements[kLowest];
  const bool advanced = norm <= kStallFactor * measurements[kMark];
  const int64_t stalled = advanced ? 0 : flags[kStalled] + 1;
  const bool drops = (flags[kMixed] != 0 && norm > kRestartFactor * lowest) || stalled >= kStallHistories * p.m;
  __syncwarp();
  if (lane == 0) {
    measurements[kLowest] = drops || norm < lowest ? norm : lowest;
    if (advanced || drops) measurements[kMark] = norm;
    flags[kStalled] = drops ? 0 : stalled;
  }
  return drops;
}

// Enters the newest row of the Gram matrix, drops the history if it leads nowhere, and writes alpha; all lanes of a warp, lane i for
// the pair of age i.
template <typename A>
__device__ inline void mixing_weights(const Decision<A>& p, int64_t sample, double norm, const double* totals, WeightsShared& s) {
  const int lane = threadIdx.x % kWarp, m = p.samples.m, n = p.n;
  const auto slot_of = [&](int age) { return (p.samples.slot - age + n) % n; };
  int64_t* const flags = p.samples.flags_of(sample);
  double* const gram = p.gram + sample * m * m;
  const int slot = lane < n ? slot_of(lane) : 0;
  const bool newest = lane == 0, older = lane < n && !newest && flags[kFlags + slot] != 0;
  if (newest) gram[slot * m + slot] = totals[2];
  if (older) gram[p.samples.slot * m + slot] = gram[slot * m + p.samples.slot] = totals[kGramColumns + slot];
  const bool drops = p.safeguards && drops_history(p.samples, sample, norm, lane);
  const bool mine = newest || (older && !drops);
  if (lane < n) flags[kFlags + slot] = mine;
  // The pairs that take part are the newest ones.
  const int pairs = __popc(reduce_warp(mine ? 1u << lane : 0u, Sum()));
  __syncwarp();

  const double own = mine ? gram[slot * m + slot] : 0.0;
  const double mean = reduce_warp(own, Sum()) / pairs;
  const double shift = p.ridge >= 0 ? p.ridge * mean : -p.ridge;
  const auto entry = [&](int i, int j) { return gram[slot_of(i) * m + slot_of(j)] + (i == j ? shift : 0.0); };
  const int count = pairs - 1;
  const bool inside = lane < count;
  double b = 0, scale = 0, least = 0;
  bool free = false;
  if (inside) {
    const double here = entry(lane, lane), next = entry(lane + 1, lane + 1), square = here - 2 * entry(lane, lane + 1) + next;
    const double noise = kGramRounding * Element<A>::kPrecision * (here + next);
    free = square > noise;
    scale = free ? rsqrt(square) : 0.0;
    least = fmax(noise * scale * scale, kLeastPivot);
    b = free ? (entry(0, lane) - entry(0, lane + 1)) * scale : 0.0;
    s.scale[lane] = scale;
  }
  __syncwarp();
  if (inside) {
    for (int j = 0; j < count; ++j) {
      const bool both = free && s.scale[j] > 0;
      const double product = both ? entry(lane, j) - entry(lane + 1, j) - entry(lane, j + 1) + entry(lane + 1, j + 1) : 0.0;
      s.products[lane][j] = product * scale * s.scale[j];
    }
  }
  __syncwarp();
  const double t = scale * pivoted_solve(s, b, free, least, count, lane);
  if (inside) s.scale[lane] = t;
  __syncwarp();
  double alpha = newest ? 1.0 : mine ? s.scale[lane - 1] : 0.0;
  if (inside) alpha -= t;
  if (p.safeguards) {
    // Also false for a NaN.
    const bool sane = Element<A>::kPrecision * sqrt(reduce_warp(alpha * alpha, Sum())) <= kMaxWeightRounding;
    if (!sane) alpha = newest ? 1.0 : 0.0;
    if (newest) flags[kMixed] = sane && pairs > 1;
  }
  if (lane < n) p.alpha[sample * kMaxHistory + slot] = static_cast<A>(alpha);
}

template <typename A>
__global__ void __launch_bounds__(kDecideThreads, 1) decide(const Decision<A> p) {
  LDEQ_SHARED(DecideShared, shared);
  constexpr int kWarps = kDecideThreads / kWarp;
  const int64_t sample = blockIdx.x;
  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
  const SampleState& samples = p.samples;
  const int64_t stride = int64_t{p.columns} * p.tiles;
  const bool active = samples.active(sample);

  bool together = false;
  if (samples.batch_stop) {
    // Every block for itself: few numbers, and no block has to wait for another.
    double sum = 0;
    for (int64_t b = warp; b < samples.batch; b += kWarps) {
      const double* const of_b = p.partials + b * stride;
      sum += measure<A>(add_tiles(of_b, p.tiles), add_tiles(of_b + p.tiles, p.tiles), samples.relative).residual;
    }
    if (lane == 0) shared.residuals[warp] = sum;
  }
  // A sample that has stopped was not measured, unless the whole batch is.
  if (active) {
    for (int c = warp; c < p.columns; c += kWarps) {
      const double total = add_tiles(p.partials + sample * stride + int64_t{c} * p.tiles, p.tiles);
      if (lane == 0) shared.totals[c] = total;
    }
  }
  __syncthreads();
  if (warp > 0) return;
  if (samples.batch_stop) {
    double mean = 0;
    for (int w = 0; w < kWarps; ++w) mean += shared.residuals[w];
    together = static_cast<A>(mean / static_cast<double>(samples.batch)) <= samples.tol;
  }
  const Measured now = active ? measure<A>(shared.totals[0], shared.totals[1], samples.relative) : Measured{0, 0};
  if (lane == 0) p.todo[sample] = decide_sample(samples, sample, now, together);
  __syncwarp();
  if (p.n > 0 && samples.active(sample)) mixing_weights(p, sample, now.norm, shared.totals, shared.weights);
}

}  // namespace ldeq
