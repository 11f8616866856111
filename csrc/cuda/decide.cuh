// Between the two passes over the states: the sums of the tiles, the decision who goes on, and the n x n system of Anderson mixing.
// One block a sample. The formulas are those of ldeq/ops/solve_step: `decide` of reference.py and `mixing_weights` of mixing.py.
#pragma once

#include "sample_state.cuh"

namespace ldeq {

// A is the type of the arithmetic on states.
template <typename A>
struct Decision {
  SampleState samples;
  A* partials;     // (batch, columns, tiles): |g|^2, |f|^2 and, for mixing, |stored g|^2 and <g, g_i> for each of n slots
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

struct WeightsShared {
  double a[kMaxHistory][kMaxHistory + 1];  // padded: lanes read down a column
  double b[kMaxHistory];
  double scale[kMaxHistory];
};

struct DecideShared {
  double totals[kMaxHistory + kGramColumns];
  double residuals[kDecideThreads / kWarp];
  WeightsShared weights;
};

// Solves a x = b in shared memory for a matrix of unit diagonal, of which the lower triangle is read; lane i holds row i. The
// factor's diagonal is kept as its inverse: divisions in float64 are what this kernel would wait for.
__device__ inline void cholesky_solve(WeightsShared& s, int n, int lane) {
  for (int k = 0; k < n; ++k) {
    const double pivot = s.a[k][k];
    const double scale = rsqrt(pivot < kPivotFloor ? kPivotFloor : pivot);
    const double y = s.b[k] * scale;
    __syncwarp();
    if (lane == k) {
      s.a[k][k] = scale;
      s.b[k] = y;
    } else if (lane > k && lane < n) {
      s.a[lane][k] *= scale;
      s.b[lane] -= s.a[lane][k] * y;
    }
    __syncwarp();
    if (lane > k && lane < n) {
      for (int j = k + 1; j <= lane; ++j) s.a[lane][j] -= s.a[lane][k] * s.a[j][k];
    }
    __syncwarp();
  }
  for (int k = n - 1; k >= 0; --k) {
    const double x = s.b[k] * s.a[k][k];
    __syncwarp();
    if (lane == k) s.b[k] = x;
    if (lane < k) s.b[lane] -= s.a[k][lane] * x;
    __syncwarp();
  }
}

// Drops the history where a mixed step led astray, enters the newest row of the Gram matrix and writes alpha; all lanes of a warp.
template <typename A>
__device__ inline void mixing_weights(const Decision<A>& p, int64_t sample, double norm, const double* totals, WeightsShared& s) {
  const int lane = threadIdx.x % kWarp, m = p.samples.m, slot = p.samples.slot, n = p.n;
  double* const lowest = p.samples.measurements + sample * kMeasurements + kLowest;
  int64_t* const flags = p.samples.flags_of(sample);
  double* const gram = p.gram + sample * m * m;
  const bool newest = lane == slot, older = lane < n && !newest && flags[kFlags + lane] != 0;
  if (newest) gram[slot * m + slot] = totals[2];
  if (older) gram[slot * m + lane] = gram[lane * m + slot] = totals[kGramColumns + lane];
  const bool grown = p.safeguards && flags[kMixed] != 0 && norm > kRestartFactor * *lowest;
  __syncwarp();
  if (p.safeguards && lane == 0) *lowest = grown || norm < *lowest ? norm : *lowest;
  const bool mine = newest || (older && !grown);
  if (lane < m && (grown || newest)) flags[kFlags + lane] = mine;
  const uint32_t counts = reduce_warp(mine ? 1u << lane : 0u, Sum());
  const int pairs = __popc(counts);

  const double own = mine ? gram[lane * m + lane] : 0.0;
  const double mean = reduce_warp(own, Sum()) / pairs;
  double diagonal = own + (p.ridge >= 0 ? p.ridge * mean : -p.ridge);
  diagonal = diagonal < kVanished * mean ? kVanished * mean : diagonal;
  const double scale = mine && diagonal > 0 ? rsqrt(diagonal) : 1.0;
  if (lane < n) {
    s.scale[lane] = scale;
    s.b[lane] = mine ? scale : 0.0;
  }
  __syncwarp();
  if (lane < n) {
    for (int j = 0; j < lane; ++j) s.a[lane][j] = mine && (counts >> j & 1u) ? gram[lane * m + j] * scale * s.scale[j] : 0.0;
    s.a[lane][lane] = 1;
  }
  __syncwarp();
  cholesky_solve(s, n, lane);
  const double w = mine ? scale * s.b[lane] : 0.0;
  double alpha = w / reduce_warp(w, Sum());
  if (p.safeguards) {
    // Also false for a NaN.
    const bool sane = sqrt(reduce_warp(alpha * alpha, Sum())) <= kMaxWeightNorm;
    if (!sane) alpha = newest ? 1.0 : 0.0;
    if (lane == 0) flags[kMixed] = sane && pairs > 1;
  }
  if (lane < n) p.alpha[sample * kMaxHistory + lane] = static_cast<A>(alpha);
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
      const A* const of_b = p.partials + b * stride;
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
  if (lane == 0) p.todo[sample] = decide_sample(samples, sample, now, Element<A>::kLargest, together);
  __syncwarp();
  if (p.n > 0 && samples.active(sample)) mixing_weights(p, sample, now.norm, shared.totals, shared.weights);
}

}  // namespace ldeq
