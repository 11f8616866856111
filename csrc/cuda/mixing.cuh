// The n x n system of Anderson mixing, one warp a sample: `mixing_weights` and the safeguards of ldeq/solvers/anderson.py.
#pragma once

#include "progress.cuh"

namespace ldeq {

// The constants of ldeq/solvers/anderson.py, which says where they come from.
constexpr double kPivotFloor = 1e-7;
constexpr double kVanished = 1e-20;
constexpr double kMaxWeightNorm = 1e4;
constexpr float kRestartFactor = 10.0f;

// Arrays of one entry a sample. At the start: valid 0, mixed 0, lowest infinity.
struct Mixing {
  double* gram;     // (batch, m, m)
  float* alpha;     // (batch, m)
  uint32_t* valid;  // bit i: pair i belongs to the history
  uint8_t* mixed;   // whether the step that led here mixed several pairs
  float* lowest;    // ||g||, the least since the last restart
  int m;
  double ridge;     // relative to the mean diagonal from 0 upwards, absolute below
  bool safeguards;
};

struct MixingShared {
  double a[kMaxHistory][kMaxHistory + 1];  // padded: lanes read down a column
  double b[kMaxHistory];
  double scale[kMaxHistory];
};

// Drops the history where a mixed step led astray; returns the pairs that count from now on. One thread.
__device__ inline uint32_t restart(const Mixing& p, int64_t sample, float norm, int slot) {
  uint32_t valid = p.valid[sample];
  if (p.safeguards) {
    const float lowest = p.lowest[sample];
    const bool grown = p.mixed[sample] != 0 && norm > kRestartFactor * lowest;
    if (grown) valid = 0;
    p.lowest[sample] = grown || norm < lowest ? norm : lowest;
  }
  valid |= 1u << slot;
  p.valid[sample] = valid;
  return valid;
}

// Solves a x = b in shared memory for a matrix of unit diagonal, of which the lower triangle is read; lane i holds row i.
__device__ inline void cholesky_solve(MixingShared& s, int n, int lane) {
  for (int k = 0; k < n; ++k) {
    const double pivot = s.a[k][k];
    const double root = sqrt(pivot < kPivotFloor ? kPivotFloor : pivot);
    const double y = s.b[k] / root;
    __syncwarp();
    if (lane == k) {
      s.a[k][k] = root;
      s.b[k] = y;
    } else if (lane > k && lane < n) {
      s.a[lane][k] /= root;
      s.b[lane] -= s.a[lane][k] * y;
    }
    __syncwarp();
    if (lane > k && lane < n) {
      for (int j = k + 1; j <= lane; ++j) s.a[lane][j] -= s.a[lane][k] * s.a[j][k];
    }
    __syncwarp();
  }
  for (int k = n - 1; k >= 0; --k) {
    const double x = s.b[k] / s.a[k][k];
    __syncwarp();
    if (lane == k) s.b[k] = x;
    if (lane < k) s.b[lane] -= s.a[k][lane] * x;
    __syncwarp();
  }
}

// Enters the newest row of the Gram matrix, `totals` (n), and writes alpha. All lanes of one warp.
__device__ inline void mix(const Mixing& p, int64_t sample, const double* totals, int n, int slot, uint32_t valid, MixingShared& s) {
  const int lane = threadIdx.x % kWarp;
  double* const gram = p.gram + sample * p.m * p.m;
  if (lane < n) gram[slot * p.m + lane] = gram[lane * p.m + slot] = totals[lane];
  __syncwarp();
  const bool mine = lane < n && (valid >> lane & 1u);
  const int pairs = __popc(valid);
  const double own = mine ? gram[lane * p.m + lane] : 0.0;
  const double mean = reduce_warp(own, Sum()) / pairs;
  double diagonal = own + (p.ridge >= 0 ? p.ridge * mean : -p.ridge);
  diagonal = diagonal < kVanished * mean ? kVanished * mean : diagonal;
  const double scale = mine && diagonal > 0 ? 1 / sqrt(diagonal) : 1.0;
  if (lane < n) {
    s.scale[lane] = scale;
    s.b[lane] = mine ? scale : 0.0;
  }
  __syncwarp();
  if (lane < n) {
    for (int j = 0; j < lane; ++j) {
      s.a[lane][j] = mine && (valid >> j & 1u) ? gram[lane * p.m + j] * scale * s.scale[j] : 0.0;
    }
    s.a[lane][lane] = 1;
  }
  __syncwarp();
  cholesky_solve(s, n, lane);
  const double w = mine ? scale * s.b[lane] : 0.0;
  double alpha = w / reduce_warp(w, Sum());
  if (p.safeguards) {
    // Also false for a NaN.
    const bool sane = sqrt(reduce_warp(alpha * alpha, Sum())) <= kMaxWeightNorm;
    if (!sane) alpha = lane == slot ? 1.0 : 0.0;
    if (lane == 0) p.mixed[sample] = sane && pairs > 1;
  }
  if (lane < n) p.alpha[sample * p.m + lane] = static_cast<float>(alpha);
}

}  // namespace ldeq
