// Stopping, status and best value of each sample, on the device: `decide` of ldeq/ops/solve_step/reference.py.
//
// The best value is a slot of the caller's ring. It is copied if something worse takes that slot, and not before: a solve that
// improves step by step never pays for it.
#pragma once

#include "../layout.h"
#include "block.cuh"

namespace ldeq {

struct SampleState {
  double* measurements;   // (batch, kMeasurements)
  int64_t* flags;    // (batch, kFlags + m)
  int64_t batch;
  int m, slot;
  double tol;
  bool relative;     // ||g|| / ||f|| rather than ||g||
  bool batch_stop;  // all stop together, when the mean residual meets the tolerance

  __device__ __forceinline__ int64_t* flags_of(int64_t sample) const { return flags + sample * (kFlags + m); }
  __device__ __forceinline__ bool active(int64_t sample) const { return flags_of(sample)[kActive] != 0; }
};

// The residual is rounded to the precision of the arithmetic, so that comparisons come out as in the reference.
struct Measured {
  double norm, residual;
};

template <typename A>
__device__ inline Measured measure(double squared_g, double squared_f, bool relative) {
  const double norm = sqrt(squared_g), least = Element<double>::kLeast, largest = Element<A>::kLargest;
  double residual = norm;
  if (relative) {
    // An f of exactly zero is a finite answer: its quotient may neither be 0 / 0 nor overflow to infinity.
    const double size = sqrt(squared_f);
    residual = norm / (size < least ? least : size);
  }
  return {norm, residual > largest ? largest : static_cast<A>(residual)};
}

// What is left to do for a sample once its evaluation is recorded.
enum Todo : int { kNothing = 0, kSaveBest = 1, kUndo = 2 };

// Takes in one evaluation; one thread. kSaveBest: the evicted value is the best one, so copy it. kUndo: the sample has just
// stopped, so it stays where it is.
__device__ inline int decide_sample(const SampleState& p, int64_t sample, Measured now, bool together) {
  double* const measurements = p.measurements + sample * kMeasurements;
  int64_t* const flags = p.flags_of(sample);
  const bool active = flags[kActive] != 0;
  int todo = kNothing;
  // Comparisons with a NaN are false.
  const double largest = Element<double>::kLargest;
  const bool finite = now.residual <= largest && now.norm <= largest;
  if (active && flags[kIterations] == 0) measurements[kFirstNorm] = now.norm;
  if (active && finite && now.residual < measurements[kResidual]) {
    measurements[kResidual] = now.residual;
    measurements[kNorm] = now.norm;
    flags[kBest] = p.slot;
  } else if (flags[kBest] == p.slot) {
    flags[kBest] = kInSaved;
    todo = kSaveBest;
  }
  if (!active) return todo;
  const bool diverged = finite && now.norm > measurements[kLimit];
  if (finite) {
    const double raised = fmin(kGrowthPerStep * measurements[kLimit], kDivergenceFactor * now.norm);
    measurements[kLimit] = fmax(kDivergenceFactor * measurements[kFirstNorm], raised);
  }
  flags[kIterations] += 1;
  measurements[kLast] = now.residual;
  const bool converged = p.batch_stop ? together : finite && now.residual <= p.tol;
  if (converged) flags[kStatus] = kConverged;
  if (diverged) flags[kStatus] = kDiverged;
  if (!finite) flags[kStatus] = kNonfinite;
  if (converged || diverged || !finite) {
    flags[kActive] = 0;
    todo |= kUndo;
  }
  return todo;
}

// The sum of one column of the tiles' partial sums, in fixed order; all lanes of a warp.
__device__ __forceinline__ double add_tiles(const double* partials, int tiles) {
  double sum = 0;
  for (int t = threadIdx.x % kWarp; t < tiles; t += kWarp) sum += partials[t];
  return reduce_warp(sum, Sum());
}

// The value that a new one evicts from the ring, and where it is saved if it is the best; bytes, since it may be of any type.
struct Evicted {
  const void* from;  // null if nothing is evicted
  void* to;
  int element_bytes;
  bool wide;  // rows consist of whole words of 16 bytes
};

template <typename W, int kThreads>
__device__ __forceinline__ void copy_words(const void* from, void* to, int64_t first, int64_t last) {
#pragma unroll 2
  for (int64_t i = first + threadIdx.x; i < last; i += kThreads) static_cast<W*>(to)[i] = static_cast<const W*>(from)[i];
}

// Elements [first, last) of all samples' values; all threads of a block.
template <int kThreads>
__device__ inline void save_best(const Evicted& p, int64_t first, int64_t last) {
  if (p.wide) {
    const int elements = static_cast<int>(sizeof(uint4)) / p.element_bytes;
    copy_words<uint4, kThreads>(p.from, p.to, first / elements, last / elements);
  } else {
    if (p.element_bytes == 2) copy_words<uint16_t, kThreads>(p.from, p.to, first, last);
    if (p.element_bytes == 4) copy_words<uint32_t, kThreads>(p.from, p.to, first, last);
    if (p.element_bytes == 8) copy_words<uint2, kThreads>(p.from, p.to, first, last);
  }
}

}  // namespace ldeq
