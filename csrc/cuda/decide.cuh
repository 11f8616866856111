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

// `products` are, by age and newest first, those of the differences of pairs that follow each other.
struct WeightsShared {
  double gram[kMaxHistory * kMaxHistory];         // (m, m), by slot
  double products[kMaxHistory][kMaxHistory + 1];  // padded: lanes read down a column
  double columns[kMaxHistory][kMaxHistory];       // of the factor, in the order of its pivots
  double scale[kMaxHistory];
};

struct DecideShared {
  double totals[kMaxHistory + kGramColumns];
  double residuals[kDecideThreads / kWarp];
  double measurements[kMeasurements];
  int64_t flags[kFlags + kMaxHistory];
  WeightsShared weights;
};

// The lowest lane whose bit is set.
__device__ inline int first_of(uint32_t lanes) { return __popc((lanes & (0u - lanes)) - 1); }

// The greatest value of the lanes that may hold a pair, for each of them.
__device__ inline double greatest_of_pairs(double value) {
#pragma unroll
  for (int distance = kMaxHistory / 2; distance > 0; distance /= 2) value = Max()(value, __shfl_xor_sync(kAllLanes, value, distance));
  return value;
}

// x of a x = b for a matrix of unit diagonal in `s.products`, in the columns that are `free`; lane i holds row i and entry i of b and
// x. A Cholesky factorisation: column 0 first, then always the largest pivot. x is 0 for columns whose pivot does not exceed `least`.
// One warp does it while nothing else runs, so that what counts is how many results wait for another: a column is brought up to date
// when it becomes the pivot's, and values go from lane to lane by shuffles.
__device__ inline double pivoted_solve(WeightsShared& s, double b, bool free, double least, int count, int lane) {
  int step = 0, place = -1;  // where this lane's column came in the order of pivots
  double y = 0, root = 1;    // of this lane's own pivot, the root as its inverse
  double diagonal = lane < count ? s.products[lane][lane] : 0.0;
  for (; step < count; ++step) {
    double score = free && diagonal > least ? diagonal : -1.0;
    if (step == 0 && lane == 0 && free) score = 2;
    const double highest = greatest_of_pairs(score);
    // All lanes have to leave together: those beyond the pairs ask lane 0.
    if (!(__shfl_sync(kAllLanes, highest, 0) > 0)) break;
    const int pivot = first_of(__ballot_sync(kAllLanes, lane < count && score == highest));
    const double inverse = rsqrt(__shfl_sync(kAllLanes, diagonal, pivot)), entry = __shfl_sync(kAllLanes, b, pivot) * inverse;
    double column = 0;
    if (free) {
      column = s.products[lane][pivot];
      for (int k = 0; k < step; ++k) column -= s.columns[k][lane] * s.columns[k][pivot];
      column *= inverse;
    }
    b -= column * entry;
    diagonal -= column * column;
    if (lane < count) s.columns[step][lane] = column;
    if (lane == pivot) {
      free = false;
      place = step;
      y = entry;
      root = inverse;
    }
    __syncwarp();
  }
  double x = 0;
  while (--step >= 0) {
    const int pivot = first_of(__ballot_sync(kAllLanes, place == step));
    if (place == step) x = y * root;
    const double known = __shfl_sync(kAllLanes, x, pivot);
    if (place >= 0 && place < step) y -= s.columns[place][pivot] * known;
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
// the pair of age i. `own` is the sample's state in shared memory.
template <typename A>
__device__ inline void mixing_weights(const Decision<A>& p, const SampleState& own, int64_t sample, double norm, const double* totals,
                                      WeightsShared& s) {
  const int lane = threadIdx.x % kWarp, m = p.samples.m, n = p.n;
  const auto slot_of = [&](int age) { return (p.samples.slot - age + n) % n; };
  int64_t* const flags = own.flags_of(0);
  double* const gram = p.gram + sample * m * m;  // written only: what is read is in `s`
  const int slot = lane < n ? slot_of(lane) : 0;
  const bool newest = lane == 0, older = lane < n && !newest && flags[kFlags + slot] != 0;
  const int below = slot * m + p.samples.slot, beside = p.samples.slot * m + slot;
  if (newest || older) {
    const double product = newest ? totals[2] : totals[kGramColumns + slot];
    s.gram[below] = s.gram[beside] = product;
    gram[below] = gram[beside] = product;
  }
  const bool drops = p.safeguards && drops_history(own, 0, norm, lane);
  const bool mine = newest || (older && !drops);
  if (lane < n) flags[kFlags + slot] = mine;
  // The pairs that take part are the newest ones.
  const int pairs = __popc(__ballot_sync(kAllLanes, mine));
  __syncwarp();

  const double mean = reduce_warp(mine ? s.gram[slot * m + slot] : 0.0, Sum()) / pairs;
  const double shift = p.ridge >= 0 ? p.ridge * mean : -p.ridge;
  const auto entry = [&](int i, int j) { return s.gram[slot_of(i) * m + slot_of(j)] + (i == j ? shift : 0.0); };
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
  // What is read of this sample, at once: each read of its own would be a wait. Its state is changed in shared memory.
  const SampleState own = {shared.measurements, shared.flags, 1, samples.m, samples.slot, samples.tol, samples.relative, samples.batch_stop};
  double* const measurements = samples.measurements + sample * kMeasurements;
  int64_t* const flags = samples.flags_of(sample);
  if (warp == kWarps - 1) {
    if (lane < kMeasurements) shared.measurements[lane] = measurements[lane];
    if (lane < kFlags + samples.m) shared.flags[lane] = flags[lane];
    if (p.n > 0) {
      for (int i = lane; i < samples.m * samples.m; i += kWarp) shared.weights.gram[i] = p.gram[sample * samples.m * samples.m + i];
    }
  }

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
  // Of a sample that has stopped nothing was measured, and these sums are not looked at.
  for (int c = warp; c < p.columns; c += kWarps) {
    const double total = add_tiles(p.partials + sample * stride + int64_t{c} * p.tiles, p.tiles);
    if (lane == 0) shared.totals[c] = total;
  }
  __syncthreads();
  if (warp > 0) return;
  const bool active = own.active(0);
  __syncwarp();  // the first lane may be about to change it
  if (samples.batch_stop) {
    double mean = 0;
    for (int w = 0; w < kWarps; ++w) mean += shared.residuals[w];
    together = static_cast<A>(mean / static_cast<double>(samples.batch)) <= samples.tol;
  }
  const Measured now = active ? measure<A>(shared.totals[0], shared.totals[1], samples.relative) : Measured{0, 0};
  if (lane == 0) p.todo[sample] = decide_sample(own, 0, now, together);
  __syncwarp();
  if (p.n > 0 && own.active(0)) mixing_weights(p, own, sample, now.norm, shared.totals, shared.weights);
  __syncwarp();
  if (lane < kMeasurements) measurements[lane] = shared.measurements[lane];
  if (lane < kFlags + samples.m) flags[lane] = shared.flags[lane];
}

}  // namespace ldeq
