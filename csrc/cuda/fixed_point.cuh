// One step of x <- x + beta (f - x): the next x and the norms in one pass, then `decide`, then `fixed_point_undo` for samples that
// have just stopped or whose best value is evicted; for most there is nothing to do. See ldeq/solvers/fixed_point.py.
#pragma once

#include "decide.cuh"

namespace ldeq {

template <typename F>
struct FixedPointStep {
  using A = Accumulate<F>;
  Decision<A> decision;
  Evicted evicted;
  const F* f;      // (batch, size), what the cell returned
  const A* x;
  A* x_next;       // not x; null after the last evaluation: norms only
  F* x_cast;       // x_next for the cell, or null
  int64_t size;
  A beta;
};

constexpr int kFixedPointThreads = 256;
constexpr int kFixedPointRounds = 4;

template <int kVec>
constexpr int kFixedPointTile = kFixedPointThreads * kFixedPointRounds * kVec;

template <typename F, int kVec>
__global__ void __launch_bounds__(kFixedPointThreads, 1) fixed_point_measure(const FixedPointStep<F> p) {
  using A = Accumulate<F>;
  using Shared = WarpSums<double, kFixedPointThreads, kNormColumns>;
  LDEQ_SHARED(Shared, shared);
  const int64_t sample = blockIdx.x / p.decision.tiles;
  const int tile = blockIdx.x % p.decision.tiles;
  const bool active = p.decision.samples.active(sample);
  const bool measured = active || p.decision.samples.batch_stop;
  if (!measured && p.x_next == nullptr) return;
  double sums[kNormColumns] = {0, 0};
  // All rounds are asked for before the first is used.
  Packed<F, kVec> f_rounds[kFixedPointRounds];
  Packed<A, kVec> x_rounds[kFixedPointRounds];
  const int64_t start = int64_t{tile} * kFixedPointTile<kVec> + static_cast<int>(threadIdx.x) * kVec, row = sample * p.size;
  constexpr int kStride = kFixedPointThreads * kVec;
#pragma unroll
  for (int round = 0; round < kFixedPointRounds; ++round) {
    const int64_t first = start + round * kStride;
    if (first >= p.size) break;
    x_rounds[round].load(p.x + row + first);
    if (measured) f_rounds[round].load(p.f + row + first);
  }
#pragma unroll
  for (int round = 0; round < kFixedPointRounds; ++round) {
    const int64_t first = start + round * kStride;
    if (first >= p.size) break;
    A f[kVec], x[kVec];
    x_rounds[round].unpack(x);
    if (measured) {
      f_rounds[round].unpack(f);
#pragma unroll
      for (int j = 0; j < kVec; ++j) {
        const A g = f[j] - x[j];
        sums[0] += squared(g);
        sums[1] += squared(f[j]);
        // A sample that has stopped stays where it is.
        if (active) x[j] = p.beta == A(1) ? f[j] : x[j] + p.beta * g;
      }
    }
    if (p.x_next != nullptr) store<kVec>(p.x_next + row + first, x);
    if (p.x_cast != nullptr) store<kVec>(p.x_cast + row + first, x);
  }
  if (!measured) return;
  double* const partials = p.decision.partials + sample * kNormColumns * p.decision.tiles + tile;
  sum_columns<kFixedPointThreads>(sums, shared.at, partials, kNormColumns, p.decision.tiles);
}

// Whether a step was good is known only after it was taken: samples that stop go back, and evicted best values are saved.
template <typename F, int kVec>
__global__ void __launch_bounds__(kFixedPointThreads, 1) fixed_point_undo(const FixedPointStep<F> p) {
  using A = Accumulate<F>;
  const int64_t sample = blockIdx.x / p.decision.tiles;
  const int todo = p.decision.todo[sample];
  if (todo == kNothing) return;
  const int64_t start = int64_t{blockIdx.x % p.decision.tiles} * kFixedPointTile<kVec>;
  const int64_t end = start + kFixedPointTile<kVec> < p.size ? start + kFixedPointTile<kVec> : p.size;
  if ((todo & kSaveBest) != 0 && p.evicted.from != nullptr) save_best<kFixedPointThreads>(p.evicted, sample * p.size + start, sample * p.size + end);
  if ((todo & kUndo) == 0 || p.x_next == nullptr) return;
#pragma unroll 4
  for (int64_t i = sample * p.size + start + threadIdx.x; i < sample * p.size + end; i += kFixedPointThreads) {
    const A x = p.x[i];
    p.x_next[i] = x;
    if (p.x_cast != nullptr) p.x_cast[i] = Element<F>::store(x);
  }
}

}  // namespace ldeq
