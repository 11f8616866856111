// Launches of the solvers' steps.
#pragma once

#include "anderson.cuh"
#include "best.cuh"
#include "fixed_point.cuh"

namespace ldeq {

// Four elements an access: 16 bytes of float; eight of a half type would ask for twice the registers. float64 is there for checks
// and not for speed: one element, and one bound on the history.
template <typename F>
constexpr int kStepVec = sizeof(F) == 8 ? 1 : 4;

// Whether every sample's row of all these starts on an address that a vector access takes; a null counts as one.
template <int kVec, typename... T>
bool rows_are_wide(int64_t size, const T*... rows) {
  return size % kVec == 0 && (... && aligned(rows, kVec * sizeof(T)));
}

// At least one, so that a state of no elements is recorded all the same.
inline int64_t tiles_of(int64_t size, int tile) { return size > 0 ? (size + tile - 1) / tile : 1; }

template <typename F, typename G>
bool is_wide(const AndersonStep<F, G>& p) {
  bool wide = rows_are_wide<kStepVec<F>>(p.size, p.x, p.x_next, p.x_cast);
  for (int i = 0; i < p.n; ++i) wide = wide && rows_are_wide<kStepVec<F>>(p.size, p.f[i], p.g[i]);
  return wide;
}

template <typename F>
bool is_wide(const FixedPointStep<F>& p) {
  return rows_are_wide<kStepVec<F>>(p.size, p.f, p.x, p.x_next, p.x_cast);
}

// Tiles of a state: what `partials` is sized by, and what `launch_step` takes as decided.
template <typename F, typename G>
int64_t step_tiles(const AndersonStep<F, G>& p) {
  return tiles_of(p.size, is_wide(p) ? kTile<kStepVec<F>> : kTile<1>);
}

template <typename F>
int64_t step_tiles(const FixedPointStep<F>& p) {
  return tiles_of(p.size, is_wide(p) ? kFixedPointTile<kStepVec<F>> : kFixedPointTile<1>);
}

template <typename A>
void launch_decide(const Decision<A>& p, Stream stream) {
  LDEQ_LAUNCH(decide<A>, static_cast<unsigned>(p.samples.batch), kDecideThreads, stream, p);
}

template <typename F, typename G, int kN, int kVec>
void launch_anderson(const AndersonStep<F, G>& p, Stream stream) {
  const auto grid = static_cast<unsigned>(p.decision.samples.batch * p.decision.tiles);
  LDEQ_LAUNCH((anderson_measure<F, G, kN, kVec>), grid, kStepThreads, stream, p);
  launch_decide(p.decision, stream);
  // After the last evaluation there is nothing to mix, but a best value may be evicted.
  if (p.x_next != nullptr || p.evicted.from != nullptr) LDEQ_LAUNCH((anderson_mix<F, G, kN, kVec>), grid, kStepThreads, stream, p);
}

template <typename F, typename G>
void launch_step(const AndersonStep<F, G>& p, Stream stream) {
  const bool wide = is_wide(p);
  if constexpr (sizeof(F) == 8) {
    launch_anderson<F, G, kMaxHistory, 1>(p, stream);
  } else if (p.n <= 8) {
    wide ? launch_anderson<F, G, 8, kStepVec<F>>(p, stream) : launch_anderson<F, G, 8, 1>(p, stream);
  } else {
    wide ? launch_anderson<F, G, 16, kStepVec<F>>(p, stream) : launch_anderson<F, G, 16, 1>(p, stream);
  }
}

template <typename F, int kVec>
void launch_fixed_point(const FixedPointStep<F>& p, Stream stream) {
  const auto grid = static_cast<unsigned>(p.decision.samples.batch * p.decision.tiles);
  LDEQ_LAUNCH((fixed_point_measure<F, kVec>), grid, kFixedPointThreads, stream, p);
  launch_decide(p.decision, stream);
  if (p.x_next != nullptr || p.evicted.from != nullptr) LDEQ_LAUNCH((fixed_point_undo<F, kVec>), grid, kFixedPointThreads, stream, p);
}

template <typename F>
void launch_step(const FixedPointStep<F>& p, Stream stream) {
  is_wide(p) ? launch_fixed_point<F, kStepVec<F>>(p, stream) : launch_fixed_point<F, 1>(p, stream);
}

template <typename W>
void launch_gather_best(const BestSoFar<W>& p, int64_t batch, Stream stream) {
  LDEQ_LAUNCH(gather_best<W>, static_cast<unsigned>(batch * p.tiles), kBestThreads, stream, p);
}

// Compiled in solver_<type>.cu: a file a type, which compile side by side. `decide` is common to the types of one arithmetic, and
// values are gathered by words.
#define LDEQ_DECIDE(prefix, A) prefix template void launch_decide<A>(const Decision<A>&, Stream);
#define LDEQ_ANDERSON(prefix, F, G) prefix template void launch_step<F, G>(const AndersonStep<F, G>&, Stream);
#define LDEQ_FIXED_POINT(prefix, F) prefix template void launch_step<F>(const FixedPointStep<F>&, Stream);
#define LDEQ_GATHER(prefix, W) prefix template void launch_gather_best<W>(const BestSoFar<W>&, int64_t, Stream);

LDEQ_DECIDE(extern, float)
LDEQ_DECIDE(extern, double)
LDEQ_ANDERSON(extern, float, float)
LDEQ_ANDERSON(extern, float, __nv_bfloat16)
LDEQ_ANDERSON(extern, double, double)
LDEQ_ANDERSON(extern, __nv_bfloat16, float)
LDEQ_ANDERSON(extern, __nv_bfloat16, __nv_bfloat16)
LDEQ_ANDERSON(extern, __half, float)
LDEQ_ANDERSON(extern, __half, __nv_bfloat16)
LDEQ_FIXED_POINT(extern, float)
LDEQ_FIXED_POINT(extern, double)
LDEQ_FIXED_POINT(extern, __nv_bfloat16)
LDEQ_FIXED_POINT(extern, __half)
LDEQ_GATHER(extern, uint16_t)
LDEQ_GATHER(extern, uint32_t)
LDEQ_GATHER(extern, uint2)
LDEQ_GATHER(extern, uint4)

}  // namespace ldeq
