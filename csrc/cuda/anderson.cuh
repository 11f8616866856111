// One step of Anderson mixing in two launches. The formulas are those of ldeq/solvers/anderson.py.
//
// Pass 1 streams a tile of f, x and the other g, writes g, and adds up the new row of the Gram matrix. The last block of a
// sample to arrive adds the tiles' sums, decides who goes on, and solves for alpha. Pass 2 mixes. Nothing waits for the host.
// Floats are never added atomically, and tiles depend on the state's size alone: results repeat bit for bit, in any batch.
#pragma once

#include "mixing.cuh"

namespace ldeq {

// F is the type of what the cell reads and returns, and of the ring of f, exactly as the cell gave it: rounding f stalls the solve
// at 1e-3. G is the type of the ring of g, which may be bf16. The iterate x is float.
template <typename F, typename G>
struct AndersonStep {
  Progress progress;
  Mixing mixing;
  const F* f[kMaxHistory];  // (batch, size) each; f[slot] is what pass 2 reads as the newest
  G* g[kMaxHistory];
  const F* f_new;     // what the cell returned
  F* f_copy;          // where to copy it to, or null where f[slot] is f_new
  const F* evicted;   // what f[slot] held so far, or null while the ring fills up; may be f_copy
  float* x;
  F* x_cast;          // x for the cell where F is not float, else null
  F* value;           // (batch, size), starts as the start
  float* partials;    // (batch, n + 2, tiles)
  unsigned* ticket;   // (batch), starts as 0
  int64_t size;
  int tiles, n, slot;
  float beta;
  bool returns_x;     // value is x at the best point rather than f
  bool last;          // no mixing follows
};

constexpr int kStepThreads = 256;
constexpr int kStepRounds = 2;
constexpr int kRows = 8;

// Elements of a tile. A function of kVec alone, see above.
template <int kVec>
constexpr int kTile = kStepThreads * kStepRounds * kVec;

template <int kN>
struct StepShared {
  Exchange<float, kStepThreads, kN + 2> exchange;
  double totals[kN + 2];
  MixingShared mixing;
  unsigned ticket;
};

// kN bounds n, so that sums and loads have registers of their own.
template <typename F, typename G, int kN, int kVec>
__global__ void __launch_bounds__(kStepThreads, 2) anderson_gram(const AndersonStep<F, G> p) {
  using Shared = StepShared<kN>;
  LDEQ_SHARED(Shared, shared);
  const int64_t sample = blockIdx.x / p.tiles;
  const int tile = blockIdx.x % p.tiles;
  if (!p.progress.active[sample]) {
    if (tile == 0 && threadIdx.x == 0) repeat_trace(p.progress, sample);
    return;
  }
  const bool save = p.evicted != nullptr && !p.returns_x && p.progress.best_slot[sample] == p.slot;
  float sums[kN + 2];
#pragma unroll
  for (int c = 0; c < kN + 2; ++c) sums[c] = 0;

#pragma unroll 1
  for (int round = 0; round < kStepRounds; ++round) {
    const int64_t first = int64_t{tile} * kTile<kVec> + (round * kStepThreads + static_cast<int>(threadIdx.x)) * kVec;
    if (first >= p.size) break;
    const int64_t at = sample * p.size + first;
    float f[kVec], x[kVec];
    load<kVec>(p.f_new + at, f);
    load<kVec>(p.x + at, x);
    if (save) {
      float old[kVec];
      load<kVec>(p.evicted + at, old);
      store<kVec>(p.value + at, old);
    }
    if (p.f_copy != nullptr) store<kVec>(p.f_copy + at, f);
    float g[kVec];
#pragma unroll
    for (int j = 0; j < kVec; ++j) {
      g[j] = f[j] - x[j];
      sums[kN] += g[j] * g[j];
      sums[kN + 1] += f[j] * f[j];
      // The Gram matrix is of what the ring holds, or it would not be one; the residual is not rounded.
      g[j] = Element<G>::load(Element<G>::store(g[j]));
    }
    // Eight rows of the history at a time: all are asked for before the first is used, and registers do not run out.
#pragma unroll
    for (int start = 0; start < kN; start += kRows) {
      float others[kRows][kVec];
#pragma unroll
      for (int i = 0; i < kRows; ++i) {
        if (start + i < p.n && start + i != p.slot) load<kVec>(p.g[start + i] + at, others[i]);
      }
#pragma unroll
      for (int i = 0; i < kRows; ++i) {
        if (start + i == p.slot) store<kVec>(p.g[start + i] + at, g);
        if (start + i < p.n) {
#pragma unroll
          for (int j = 0; j < kVec; ++j) sums[start + i] += (start + i == p.slot ? g[j] : others[i][j]) * g[j];
        }
      }
    }
  }
  reduce_block<kStepThreads>(sums, Sum(), shared.exchange, 0);

  const int columns = p.n + 2;
  float* const partials = p.partials + sample * columns * p.tiles;
  if (threadIdx.x == 0) {
#pragma unroll
    for (int c = 0; c < kN + 2; ++c) {
      const int column = c < kN ? c : p.n + c - kN;
      if (c < p.n || c >= kN) partials[column * p.tiles + tile] = sums[c];
    }
  }
  if (!last_to_arrive(p.ticket + sample, p.tiles, shared.ticket)) return;

  add_partials<kStepThreads>(partials, columns, p.tiles, shared.totals);
  if (threadIdx.x >= kWarp) return;
  if (threadIdx.x == 0) {
    const double squared_g = shared.totals[p.n], squared_f = shared.totals[p.n + 1];
    const float norm = record(p.progress, sample, squared_g, squared_f, p.returns_x ? 0 : p.slot, save || p.returns_x);
    if (p.progress.active[sample]) restart(p.mixing, sample, norm, p.slot);
  }
  __syncwarp();
  if (!p.progress.active[sample] || p.last) return;
  mix(p.mixing, sample, shared.totals, p.n, p.slot, p.mixing.valid[sample], shared.mixing);
}

template <typename F, typename G, int kN, int kVec>
__global__ void __launch_bounds__(kStepThreads, 1) anderson_mix(const AndersonStep<F, G> p) {
  const int64_t sample = blockIdx.x / p.tiles;
  const int tile = blockIdx.x % p.tiles;
  if (!p.progress.active[sample]) {
    // The caller's ring moves on without this sample: its best f is saved in the step in which it stopped.
    const int best = p.progress.best_slot[sample];
    if (p.returns_x || best < 0 || p.progress.iterations[sample] != p.progress.step + 1) return;
    const F* const from = pick(p.f, best);
    for (int i = threadIdx.x; i < kTile<kVec>; i += kStepThreads) {
      const int64_t element = int64_t{tile} * kTile<kVec> + i;
      if (element < p.size) p.value[sample * p.size + element] = from[sample * p.size + element];
    }
    return;
  }
  // With returns_x, slot 0 means that the iterate about to be overwritten is the best so far.
  const bool save = p.returns_x && p.progress.best_slot[sample] == 0;
  float alpha[kN];
#pragma unroll
  for (int i = 0; i < kN; ++i) alpha[i] = i < p.n ? p.mixing.alpha[sample * p.mixing.m + i] : 0.0f;

#pragma unroll 1
  for (int round = 0; round < kStepRounds; ++round) {
    const int64_t first = int64_t{tile} * kTile<kVec> + (round * kStepThreads + static_cast<int>(threadIdx.x)) * kVec;
    if (first >= p.size) return;
    const int64_t at = sample * p.size + first;
    if (save) {
      float old[kVec];
      load<kVec>(p.x + at, old);
      store<kVec>(p.value + at, old);
    }
    float next[kVec];
#pragma unroll
    for (int j = 0; j < kVec; ++j) next[j] = 0;
#pragma unroll
    for (int i = 0; i < kN; ++i) {
      // Pairs that a restart dropped are not even read.
      if (i >= p.n || alpha[i] == 0.0f) continue;
      float f[kVec];
      load<kVec>(p.f[i] + at, f);
      if (p.beta != 1.0f) {
        float g[kVec];
        load<kVec>(p.g[i] + at, g);
#pragma unroll
        for (int j = 0; j < kVec; ++j) f[j] -= (1.0f - p.beta) * g[j];
      }
#pragma unroll
      for (int j = 0; j < kVec; ++j) next[j] += alpha[i] * f[j];
    }
    store<kVec>(p.x + at, next);
    if (p.x_cast != nullptr) store<kVec>(p.x_cast + at, next);
  }
}

}  // namespace ldeq
