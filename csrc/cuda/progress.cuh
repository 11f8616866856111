// Per-sample stopping, status and best-so-far of a solve, on the device: `Progress.record` of ldeq/solvers/solution.py.
//
// The best point is not copied when it is found but when its place in the ring is about to be overwritten, and at the end: a
// solve that improves step by step never pays for it.
#pragma once

#include "block.cuh"

namespace ldeq {

constexpr float kDivergenceFactor = 1e8f;  // DIVERGENCE_FACTOR

enum Status : int64_t { kMaxIter = 0, kConverged = 1, kDiverged = 2, kNonfinite = 3 };

// Arrays of one entry a sample. At the start: active 1, status kMaxIter, iterations 0, residual and norm infinity, best_slot -1.
struct Progress {
  uint8_t* active;
  int64_t* status;
  int64_t* iterations;
  float* residual;
  float* norm;        // ||g|| at the best point, whatever the stop measures
  float* first_norm;
  int32_t* best_slot; // where in the ring the best point is, -1 where it was saved already
  float* trace;       // (steps, batch), or null
  int64_t batch;
  int step;           // from 0
  float tol;
  bool relative;      // ||g|| / ||f|| rather than ||g||
};

// Takes in one evaluation of an active sample; one thread. `saved` says that what best_slot pointed at has been copied out.
// Returns ||g||.
__device__ inline float record(const Progress& p, int64_t sample, double squared_g, double squared_f, int slot, bool saved) {
  const float norm = static_cast<float>(sqrt(squared_g));
  float residual = norm;
  if (p.relative) {
    // An f of exactly zero is a finite answer: its quotient may neither be 0 / 0 nor overflow to infinity.
    const float size = static_cast<float>(sqrt(squared_f));
    residual = norm / (size < FLT_MIN ? FLT_MIN : size);
    residual = residual > FLT_MAX ? FLT_MAX : residual;
  }
  // Comparisons with a NaN are false.
  const bool finite = residual <= FLT_MAX && norm <= FLT_MAX;
  if (p.step == 0) p.first_norm[sample] = norm;
  if (saved) p.best_slot[sample] = -1;
  if (finite && residual < p.residual[sample]) {
    p.best_slot[sample] = slot;
    p.residual[sample] = residual;
    p.norm[sample] = norm;
  }
  p.iterations[sample] += 1;
  const bool converged = finite && residual <= p.tol;
  const bool diverged = finite && norm > kDivergenceFactor * p.first_norm[sample];
  if (converged) p.status[sample] = kConverged;
  if (diverged) p.status[sample] = kDiverged;
  if (!finite) p.status[sample] = kNonfinite;
  if (converged || diverged || !finite) p.active[sample] = 0;
  if (p.trace != nullptr) p.trace[p.step * p.batch + sample] = residual;
  return norm;
}

// A stopped sample repeats its last residual.
__device__ inline void repeat_trace(const Progress& p, int64_t sample) {
  if (p.trace != nullptr) p.trace[p.step * p.batch + sample] = p.trace[(p.step - 1) * p.batch + sample];
}

// Whether this block is the last of its sample to get here, the same answer for all its threads. What the first thread of each
// block wrote before is then visible to the last one. The ticket is back at 0 afterwards.
__device__ inline bool last_to_arrive(unsigned* ticket, int blocks, unsigned& shared) {
  __threadfence();
  if (threadIdx.x == 0) {
    shared = atomicAdd(ticket, 1u);
    if (shared == static_cast<unsigned>(blocks) - 1) *ticket = 0;
  }
  __syncthreads();
  __threadfence();
  return shared == static_cast<unsigned>(blocks) - 1;
}

// Adds the blocks' partial sums (columns, tiles) in fixed order and double precision, a warp a column; totals is shared memory.
template <int kThreads>
__device__ __forceinline__ void add_partials(const float* partials, int columns, int tiles, double* totals) {
  const int lane = threadIdx.x % kWarp;
  for (int c = threadIdx.x / kWarp; c < columns; c += kThreads / kWarp) {
    double sum = 0;
    // Past the first-level cache, which may hold what another solve left there.
    for (int t = lane; t < tiles; t += kWarp) sum += static_cast<double>(__ldcg(partials + int64_t{c} * tiles + t));
    sum = reduce_warp(sum, Sum());
    if (lane == 0) totals[c] = sum;
  }
  __syncthreads();
}

constexpr int kMaxHistory = 16;

// ring[i] for an i known at run time only: indexing would copy the array to local memory.
template <typename S>
__device__ __forceinline__ const S* pick(const S* const (&ring)[kMaxHistory], int i) {
  const S* from = nullptr;
#pragma unroll
  for (int j = 0; j < kMaxHistory; ++j) from = j == i ? ring[j] : from;
  return from;
}

// At the end of a solve: the best point of each sample, where it was not saved before. Ring entries and value are (batch, size).

template <typename S, typename F>
struct Finish {
  const S* ring[kMaxHistory];
  const int32_t* best_slot;
  const int64_t* iterations;
  F* value;
  int64_t size;
  int tiles;
  // Evaluations run, where the ring's entries are the caller's and moved on after a sample stopped: the steps then saved the best
  // point of each sample that stopped earlier. Negative where a stopped sample's entries stand.
  int steps;
};

template <typename S, typename F, int kThreads>
__global__ void __launch_bounds__(kThreads, 1) finish(const Finish<S, F> p) {
  const int64_t sample = blockIdx.x / p.tiles;
  const int tile = blockIdx.x % p.tiles, best = p.best_slot[sample];
  if (best < 0 || (p.steps >= 0 && p.iterations[sample] < p.steps)) return;
  const S* const from = pick(p.ring, best);
  for (int64_t i = int64_t{tile} * kThreads + threadIdx.x; i < p.size; i += int64_t{p.tiles} * kThreads) {
    p.value[sample * p.size + i] = Element<F>::store(static_cast<float>(Element<S>::load(from[sample * p.size + i])));
  }
}

}  // namespace ldeq
