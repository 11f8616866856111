// Reductions over a block: shuffles inside a warp, shared memory across warps, in an order that depends on nothing but the
// number of threads, so that results repeat bit for bit. Every thread gets the result.
#pragma once

#include "platform.cuh"

namespace ldeq {

struct Sum {
  template <typename A>
  __device__ __forceinline__ A operator()(A a, A b) const {
    return a + b;
  }
};

struct Max {
  template <typename A>
  __device__ __forceinline__ A operator()(A a, A b) const {
    return greater(a, b);
  }
};

// Shared memory of `reduce_block`. Two halves used in turn: a warp may be one reduction ahead of another, never two.
template <typename A, int kThreads, int kCount>
struct Exchange {
  A at[2][kCount][kThreads / kWarp];
};

template <typename Op, typename A>
__device__ __forceinline__ A reduce_warp(A value, Op op) {
#pragma unroll
  for (int distance = kWarp / 2; distance > 0; distance /= 2) value = op(value, __shfl_xor_sync(kAllLanes, value, distance));
  return value;
}

// Reduces kCount values at once. `half` alternates between calls that follow each other (0, 1, 0, ...).
template <int kThreads, typename Op, typename A, int kCount, int kRoom>
__device__ __forceinline__ void reduce_block(A (&values)[kCount], Op op, Exchange<A, kThreads, kRoom>& exchange, int half) {
  static_assert(kThreads % kWarp == 0 && kThreads <= kWarp * kWarp && kCount <= kRoom, "whole warps, at most 32 of them");
#pragma unroll
  for (int c = 0; c < kCount; ++c) values[c] = reduce_warp(values[c], op);
  if constexpr (kThreads > kWarp) {
    constexpr int kWarps = kThreads / kWarp;
    const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
    if (lane == 0) {
#pragma unroll
      for (int c = 0; c < kCount; ++c) exchange.at[half][c][warp] = values[c];
    }
    __syncthreads();
    // Few enough to be read by every thread in order: a second tree of shuffles would cost more than it saves.
#pragma unroll
    for (int c = 0; c < kCount; ++c) {
      A total = exchange.at[half][c][0];
#pragma unroll
      for (int w = 1; w < kWarps; ++w) total = op(total, exchange.at[half][c][w]);
      values[c] = total;
    }
  }
}

// In float64, which the square of any float fits.
template <typename A>
__device__ __forceinline__ double squared(A value) {
  return static_cast<double>(value) * static_cast<double>(value);
}

// Shared memory of `sum_columns`.
template <typename A, int kThreads, int kCount>
struct WarpSums {
  A at[kCount][kThreads / kWarp];
};

// Adds up each of kCount values over the block, and writes the first `columns` sums to `to`, `stride` apart, times `unit`. A thread a
// column, so that many sums cost few registers.
template <int kThreads, typename A, int kCount>
__device__ __forceinline__ void sum_columns(const A (&values)[kCount], A (&shared)[kCount][kThreads / kWarp], double* to, int columns,
                                            int64_t stride, double unit = 1) {
  static_assert(kThreads % kWarp == 0 && kThreads >= kCount, "whole warps, and a thread a column");
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp, column = threadIdx.x;
#pragma unroll
  for (int c = 0; c < kCount; ++c) {
    const A sum = reduce_warp(values[c], Sum());
    if (lane == 0) shared[c][warp] = sum;
  }
  __syncthreads();
  if (column >= columns) return;
  A total = shared[column][0];
#pragma unroll
  for (int w = 1; w < kThreads / kWarp; ++w) total += shared[column][w];
  to[column * stride] = unit * static_cast<double>(total);
}

}  // namespace ldeq
