// One step of x <- x + beta (f - x) in one pass: next iterate, residual, stopping. See ldeq/solvers/fixed_point.py.
//
// f and x are read once and x is written: whether the step was good is known only afterwards. The last points are therefore kept
// by the caller (two f, or three x in turn), and a best point is saved before its place is taken.
#pragma once

#include "progress.cuh"

namespace ldeq {

template <typename F>
struct FixedPointStep {
  Progress progress;
  const F* f;              // (batch, size), what the cell returned
  const F* evicted_f;      // for a value that is f: the f that leaves the ring, or null
  const F* previous_f;     // for a value that is f: the f of the step before, or null in the first step
  const float* evicted_x;  // for a value that is x: x_out, which still holds the iterate of two steps ago, or null
  const float* x;
  float* x_out;            // may be x, unless the value is x
  F* x_cast;               // x_out for the cell where F is not float, else null
  F* value;                // (batch, size), starts as the start
  float* partials;         // (batch, 2, tiles)
  unsigned* ticket;        // (batch), starts as 0
  int64_t size;
  int tiles;
  int slot, evicted_slot;  // places of the newest point and of the one that leaves: step % 2 both for f, step % 3 and the next for x
  float beta;
};

constexpr int kFixedPointThreads = 256;
constexpr int kFixedPointRounds = 4;

template <int kVec>
constexpr int kFixedPointTile = kFixedPointThreads * kFixedPointRounds * kVec;

struct FixedPointShared {
  Exchange<float, kFixedPointThreads, 2> exchange;
  double totals[2];
  unsigned ticket;
};

template <typename F, int kVec>
__global__ void __launch_bounds__(kFixedPointThreads, 1) fixed_point_step(const FixedPointStep<F> p) {
  LDEQ_SHARED(FixedPointShared, shared);
  const int64_t sample = blockIdx.x / p.tiles;
  const int tile = blockIdx.x % p.tiles;
  if (!p.progress.active[sample]) {
    if (tile == 0 && threadIdx.x == 0) repeat_trace(p.progress, sample);
    // The caller's two f move on without this sample: its best one is saved in the step after it stopped.
    const int best = p.progress.best_slot[sample];
    if (p.previous_f == nullptr || best < 0 || p.progress.iterations[sample] != p.progress.step) return;
    const F* const from = best == p.evicted_slot ? p.evicted_f : p.previous_f;
    for (int i = threadIdx.x; i < kFixedPointTile<kVec>; i += kFixedPointThreads) {
      const int64_t element = int64_t{tile} * kFixedPointTile<kVec> + i;
      if (element < p.size) p.value[sample * p.size + element] = from[sample * p.size + element];
    }
    return;
  }
  const bool save = p.progress.best_slot[sample] == p.evicted_slot && (p.evicted_f != nullptr || p.evicted_x != nullptr);
  float sums[2] = {0, 0};
#pragma unroll
  for (int round = 0; round < kFixedPointRounds; ++round) {
    const int64_t first =
        int64_t{tile} * kFixedPointTile<kVec> + (round * kFixedPointThreads + static_cast<int>(threadIdx.x)) * kVec;
    if (first >= p.size) break;
    const int64_t at = sample * p.size + first;
    float f[kVec], x[kVec];
    load<kVec>(p.f + at, f);
    load<kVec>(p.x + at, x);
    if (save) {
      float old[kVec];
      if (p.evicted_f != nullptr) {
        load<kVec>(p.evicted_f + at, old);
      } else {
        load<kVec>(p.evicted_x + at, old);
      }
      store<kVec>(p.value + at, old);
    }
#pragma unroll
    for (int j = 0; j < kVec; ++j) {
      const float g = f[j] - x[j];
      sums[0] += g * g;
      sums[1] += f[j] * f[j];
      x[j] = p.beta == 1.0f ? f[j] : x[j] + p.beta * g;
    }
    store<kVec>(p.x_out + at, x);
    if (p.x_cast != nullptr) store<kVec>(p.x_cast + at, x);
  }
  reduce_block<kFixedPointThreads>(sums, Sum(), shared.exchange, 0);

  float* const partials = p.partials + sample * 2 * p.tiles;
  if (threadIdx.x == 0) {
    partials[tile] = sums[0];
    partials[p.tiles + tile] = sums[1];
  }
  if (!last_to_arrive(p.ticket + sample, p.tiles, shared.ticket)) return;
  add_partials<kFixedPointThreads>(partials, 2, p.tiles, shared.totals);
  if (threadIdx.x == 0) record(p.progress, sample, shared.totals[0], shared.totals[1], p.slot, save);
}

}  // namespace ldeq
