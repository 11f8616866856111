// Launches of the solvers' steps.
#pragma once

#include "anderson.cuh"
#include "fixed_point.cuh"

namespace ldeq {

// Four elements an access: 16 bytes of float; eight of a half type would ask for twice the registers.
constexpr int kStepVec = 4;

// Tiles of a state for anderson_*: what `partials` is sized by. Depends on `wide`, see `step_is_wide`.
inline int step_tiles(int64_t size, bool wide) {
  const int tile = wide ? kTile<kStepVec> : kTile<1>;
  return static_cast<int>((size + tile - 1) / tile);
}

inline int fixed_point_tiles(int64_t size, bool wide) {
  const int tile = wide ? kFixedPointTile<kStepVec> : kFixedPointTile<1>;
  return static_cast<int>((size + tile - 1) / tile);
}

// Every sample's row must start on an aligned address.
inline bool step_is_wide(int64_t size) { return size % kStepVec == 0; }

template <typename F, typename G, int kN, int kVec>
void launch_anderson(const AndersonStep<F, G>& p, Stream stream) {
  const auto grid = static_cast<unsigned>(p.progress.batch * p.tiles);
  LDEQ_LAUNCH((anderson_gram<F, G, kN, kVec>), grid, kStepThreads, stream, p);
  if (!p.last) LDEQ_LAUNCH((anderson_mix<F, G, kN, kVec>), grid, kStepThreads, stream, p);
}

// Buffers must be aligned to 16 bytes where `step_is_wide`; `tiles` is set here.
template <typename F, typename G>
void launch_anderson_step(AndersonStep<F, G> p, Stream stream) {
  if (p.progress.batch == 0 || p.size == 0) return;
  const bool wide = step_is_wide(p.size);
  p.tiles = step_tiles(p.size, wide);
  if (p.n <= 8) {
    wide ? launch_anderson<F, G, 8, kStepVec>(p, stream) : launch_anderson<F, G, 8, 1>(p, stream);
  } else {
    wide ? launch_anderson<F, G, 16, kStepVec>(p, stream) : launch_anderson<F, G, 16, 1>(p, stream);
  }
}

template <typename F>
void launch_fixed_point_step(FixedPointStep<F> p, Stream stream) {
  if (p.progress.batch == 0 || p.size == 0) return;
  const bool wide = step_is_wide(p.size);
  p.tiles = fixed_point_tiles(p.size, wide);
  const auto grid = static_cast<unsigned>(p.progress.batch * p.tiles);
  if (wide) {
    LDEQ_LAUNCH((fixed_point_step<F, kStepVec>), grid, kFixedPointThreads, stream, p);
  } else {
    LDEQ_LAUNCH((fixed_point_step<F, 1>), grid, kFixedPointThreads, stream, p);
  }
}

template <typename S, typename F>
void launch_finish(Finish<S, F> p, int64_t batch, Stream stream) {
  if (batch == 0 || p.size == 0) return;
  p.tiles = static_cast<int>((p.size + 4095) / 4096);
  LDEQ_LAUNCH((finish<S, F, 256>), static_cast<unsigned>(batch * p.tiles), 256, stream, p);
}

}  // namespace ldeq
