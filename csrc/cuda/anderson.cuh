// One step of Anderson mixing: two passes over the states, and `decide` between them. The formulas are those of
// ldeq/solvers/anderson.py, the bytes those of ldeq/ops/solve_step/step.py.
//
// Pass 1 streams a tile of f, x and the older g, writes g, and adds up the new row of the Gram matrix. Pass 2 mixes. Nothing waits
// for the host. Floats are never added atomically, and tiles depend on the state's size alone: results repeat bit for bit, in any
// batch.
#pragma once

#include "decide.cuh"

namespace ldeq {

// F is the type of what the cell reads and returns, and of the ring of f, exactly as the cell gave it: rounding f stalls the solve
// at 1e-3. G is the type of the ring of g, which may be bf16. x is of the type of the arithmetic.
template <typename F, typename G>
struct AndersonStep {
  using A = Accumulate<F>;
  Decision<A> decision;
  Evicted evicted;
  const F* f[kMaxHistory];  // (batch, size) each
  const F* f_new;           // f[slot]
  G* g_new;                 // g[slot]
  G* g[kMaxHistory];        // likewise; written in the step's slot
  const A* x;
  A* x_next;                // not x; null after the last evaluation: norms only
  F* x_cast;                // x_next for the cell, or null
  int64_t size;
  int n;                    // slots in use
  A damping;                // 1 - beta
};

constexpr int kStepThreads = 256;
constexpr int kStepRounds = 2;
constexpr int kRows = 8;
// The largest factor that brings a residual near 1; its inverse is the smallest.
constexpr double kLargestScale = 1e36;

// Elements of a tile. A function of kVec alone, see above.
template <int kVec>
constexpr int kTile = kStepThreads * kStepRounds * kVec;

// Elements [at, at + kVec) of the rows from `start` whose bit in `mask` is set; 0 for the others.
template <typename P, typename T, int kCount, int kVec>
__device__ __forceinline__ void load_rows(P* const (&list)[kMaxHistory], uint32_t mask, int start, int64_t at,
                                          Packed<T, kVec> (&rows)[kCount]) {
#pragma unroll
  for (int i = 0; i < kCount; ++i) {
    rows[i].clear();
    if (mask >> (start + i) & 1u) rows[i].load(list[start + i] + at);
  }
}

// kN bounds n, so that sums and loads have registers of their own.
template <typename F, typename G, int kN, int kVec>
__global__ void __launch_bounds__(kStepThreads, kN <= kRows ? 3 : 2) anderson_measure(const AndersonStep<F, G> p) {
  using A = Accumulate<F>;
  struct Shared {
    WarpSums<double, kStepThreads, kGramColumns> squares;
    WarpSums<A, kStepThreads, kN> products;
  };
  LDEQ_SHARED(Shared, shared);
  const SampleState& samples = p.decision.samples;
  const int64_t sample = blockIdx.x / p.decision.tiles;
  const int tile = blockIdx.x % p.decision.tiles;
  const int64_t* const flags = samples.flags_of(sample);
  if (flags[kActive] == 0 && !samples.batch_stop) return;
  const bool mixes = p.decision.n > 0;
  uint32_t older = 0;
#pragma unroll
  for (int k = 0; k < kN; ++k) {
    if (k < p.decision.n && k != samples.slot && flags[kFlags + k] != 0) older |= 1u << k;
  }
  // Squares of float overflow beyond 1e19 and vanish below 1e-23: these are added up in float64. Products have one factor in the unit
  // of the best g so far, which costs fewer registers.
  double squares[kGramColumns] = {0, 0, 0};
  A products[kN];
#pragma unroll
  for (int c = 0; c < kN; ++c) products[c] = 0;
  const double norm = samples.measurements[sample * kMeasurements + kNorm];
  const A scale = static_cast<A>(norm > kLargestScale ? 1.0 : norm < 1 / kLargestScale ? kLargestScale : 1 / norm);

#pragma unroll 1
  for (int round = 0; round < kStepRounds; ++round) {
    const int64_t first = int64_t{tile} * kTile<kVec> + (round * kStepThreads + static_cast<int>(threadIdx.x)) * kVec;
    if (first >= p.size) break;
    const int64_t at = sample * p.size + first;
    Packed<F, kVec> packed_f;
    Packed<A, kVec> packed_x;
    Packed<G, kVec> others[kRows];
    packed_f.load(p.f_new + at);
    packed_x.load(p.x + at);
    // Eight rows of the history at a time: all are asked for before the first is used, and registers do not run out.
    load_rows(p.g, older, 0, at, others);
    A f[kVec], x[kVec], g[kVec], scaled[kVec];
    packed_f.unpack(f);
    packed_x.unpack(x);
#pragma unroll
    for (int j = 0; j < kVec; ++j) {
      g[j] = f[j] - x[j];
      squares[0] += squared(g[j]);
      squares[1] += squared(f[j]);
      // The Gram matrix is of what the ring holds, or it would not be one; the residual is not rounded.
      g[j] = Element<G>::load(Element<G>::store(g[j]));
      squares[2] += squared(g[j]);
      scaled[j] = g[j] * scale;
    }
#pragma unroll
    for (int start = 0; start < kN; start += kRows) {
      if (start > 0) load_rows(p.g, older, start, at, others);
      // Rows that were not read count 0 (0 x NaN too: nobody looks at their sums).
#pragma unroll
      for (int i = 0; i < kRows; ++i) {
        A other[kVec];
        others[i].unpack(other);
#pragma unroll
        for (int j = 0; j < kVec; ++j) products[start + i] += other[j] * scaled[j];
      }
    }
    // Last: the compiler moves no read before a write.
    if (mixes) store<kVec>(p.g_new + at, g);
  }
  const int tiles = p.decision.tiles, columns = p.decision.columns, squared_columns = columns < kGramColumns ? columns : kGramColumns;
  double* const partials = p.decision.partials + sample * columns * tiles + tile;
  sum_columns<kStepThreads>(squares, shared.squares.at, partials, squared_columns, tiles);
  sum_columns<kStepThreads>(products, shared.products.at, partials + int64_t{squared_columns} * tiles, columns - squared_columns, tiles,
                            1 / static_cast<double>(scale));
}

template <typename F, typename G, int kN, int kVec>
__global__ void __launch_bounds__(kStepThreads, kN <= kRows ? 4 : 2) anderson_mix(const AndersonStep<F, G> p) {
  using A = Accumulate<F>;
  const int64_t sample = blockIdx.x / p.decision.tiles;
  const int tile = blockIdx.x % p.decision.tiles;
  const bool active = p.decision.samples.active(sample);
  if (p.evicted.from != nullptr && (p.decision.todo[sample] & kSaveBest) != 0) {
    const int64_t start = int64_t{tile} * kTile<kVec>;
    const int64_t end = start + kTile<kVec> < p.size ? start + kTile<kVec> : p.size;
    save_best<kStepThreads>(p.evicted, sample * p.size + start, sample * p.size + end);
  }
  if (p.x_next == nullptr) return;
  A alpha[kN];
  // Pairs that a restart dropped are not even read.
  uint32_t counts = 0;
#pragma unroll
  for (int i = 0; i < kN; ++i) {
    alpha[i] = active && i < p.n ? p.decision.alpha[sample * kMaxHistory + i] : A(0);
    if (alpha[i] != A(0)) counts |= 1u << i;
  }

#pragma unroll 1
  for (int round = 0; round < kStepRounds; ++round) {
    const int64_t first = int64_t{tile} * kTile<kVec> + (round * kStepThreads + static_cast<int>(threadIdx.x)) * kVec;
    if (first >= p.size) return;
    const int64_t at = sample * p.size + first;
    A next[kVec];
#pragma unroll
    for (int j = 0; j < kVec; ++j) next[j] = 0;
    // A sample that has stopped stays where it is.
    if (!active) load<kVec>(p.x + at, next);
    if (p.damping == A(0)) {
#pragma unroll
      for (int start = 0; start < kN; start += kRows) {
        Packed<F, kVec> rows[kRows];
        load_rows(p.f, counts, start, at, rows);
#pragma unroll
        for (int i = 0; i < kRows; ++i) {
          A f[kVec];
          rows[i].unpack(f);
#pragma unroll
          for (int j = 0; j < kVec; ++j) next[j] += alpha[start + i] * f[j];
        }
      }
    } else {
      // Half as many, of f and of g.
      constexpr int kCount = kRows / 2;
#pragma unroll
      for (int start = 0; start < kN; start += kCount) {
        Packed<F, kVec> f_rows[kCount];
        Packed<G, kVec> g_rows[kCount];
        load_rows(p.f, counts, start, at, f_rows);
        load_rows(p.g, counts, start, at, g_rows);
#pragma unroll
        for (int i = 0; i < kCount; ++i) {
          A f[kVec], g[kVec];
          f_rows[i].unpack(f);
          g_rows[i].unpack(g);
#pragma unroll
          for (int j = 0; j < kVec; ++j) next[j] += alpha[start + i] * (f[j] - p.damping * g[j]);
        }
      }
    }
    store<kVec>(p.x_next + at, next);
    if (p.x_cast != nullptr) store<kVec>(p.x_cast + at, next);
  }
}

}  // namespace ldeq
