// What the device code takes from its surroundings: CUDA itself, or the host build of the tests (tests/host/cuda_on_host.h,
// which runs every CUDA thread as a CPU thread). No torch in here, so that both builds stay small.
#pragma once

#include <cfloat>
#include <cmath>
#include <cstdint>
#include <cstring>

#ifdef __CUDACC__
#include <cuda_bf16.h>
#include <cuda_fp16.h>
// A reference on the host: a static there would be one for all blocks that run at the same time.
#define LDEQ_SHARED(Type, name) __shared__ Type name
#define LDEQ_LAUNCH(kernel, grid, threads, stream, ...) kernel<<<grid, threads, 0, stream>>>(__VA_ARGS__)
#else
#include "cuda_on_host.h"
#define LDEQ_LAUNCH(kernel, grid, threads, stream, ...) ::on_host::launch(grid, threads, stream, kernel, __VA_ARGS__)
#define LDEQ_SHARED(Type, name) Type& name = ::on_host::shared<Type>()
#endif

namespace ldeq {

// cudaStream_t without its header: device code and launches know no more of a stream than its handle.
#ifdef __CUDACC__
using Stream = cudaStream_t;
#else
using Stream = ::on_host::Stream;
#endif

constexpr int kWarp = 32;
constexpr unsigned kAllLanes = 0xffffffffu;

// How an element type is read, computed with and written. Half types are computed with in float: bf16 coordinates were seen
// off by 0.23 pixels.
template <typename T>
struct Element;

template <>
struct Element<float> {
  using Accumulate = float;
  static constexpr float kLargest = FLT_MAX, kLeast = FLT_MIN;
  static __device__ __forceinline__ float load(float v) { return v; }
  static __device__ __forceinline__ float store(float v) { return v; }
};

template <>
struct Element<double> {
  using Accumulate = double;
  static constexpr double kLargest = DBL_MAX, kLeast = DBL_MIN;
  static __device__ __forceinline__ double load(double v) { return v; }
  static __device__ __forceinline__ double store(double v) { return v; }
};

template <>
struct Element<__nv_bfloat16> {
  using Accumulate = float;
  static constexpr float kLargest = FLT_MAX;
  static __device__ __forceinline__ float load(__nv_bfloat16 v) { return __bfloat162float(v); }
  static __device__ __forceinline__ __nv_bfloat16 store(float v) { return __float2bfloat16_rn(v); }
};

template <>
struct Element<__half> {
  using Accumulate = float;
  static constexpr float kLargest = FLT_MAX;
  static __device__ __forceinline__ float load(__half v) { return __half2float(v); }
  static __device__ __forceinline__ __half store(float v) { return __float2half_rn(v); }
};

template <typename T>
using Accumulate = typename Element<T>::Accumulate;

// The word that moves kBytes in one instruction.
template <int kBytes>
struct Word;
template <>
struct Word<16> {
  using Type = uint4;
};
template <>
struct Word<8> {
  using Type = uint2;
};
template <>
struct Word<4> {
  using Type = uint32_t;
};
template <>
struct Word<2> {
  using Type = uint16_t;
};

// kVec neighbouring elements in accesses of up to 16 bytes; `from` must be aligned to them.
template <int kVec, typename T>
__device__ __forceinline__ void load(const T* from, Accumulate<T> (&to)[kVec]) {
  constexpr int kBytes = kVec * sizeof(T) < 16 ? kVec * sizeof(T) : 16;
  constexpr int kEach = kBytes / sizeof(T);
#pragma unroll
  for (int start = 0; start < kVec; start += kEach) {
    if constexpr (kEach == 1) {
      to[start] = Element<T>::load(from[start]);
    } else {
      const auto word = *reinterpret_cast<const typename Word<kBytes>::Type*>(from + start);
      T parts[kEach];
      memcpy(parts, &word, kBytes);
#pragma unroll
      for (int j = 0; j < kEach; ++j) to[start + j] = Element<T>::load(parts[j]);
    }
  }
}

template <int kVec, typename T>
__device__ __forceinline__ void store(T* to, const Accumulate<T> (&from)[kVec]) {
  constexpr int kBytes = kVec * sizeof(T) < 16 ? kVec * sizeof(T) : 16;
  constexpr int kEach = kBytes / sizeof(T);
#pragma unroll
  for (int start = 0; start < kVec; start += kEach) {
    if constexpr (kEach == 1) {
      to[start] = Element<T>::store(from[start]);
    } else {
      T parts[kEach];
#pragma unroll
      for (int j = 0; j < kEach; ++j) parts[j] = Element<T>::store(from[start + j]);
      typename Word<kBytes>::Type word;
      memcpy(&word, parts, kBytes);
      *reinterpret_cast<typename Word<kBytes>::Type*>(to + start) = word;
    }
  }
}

// list[i] for an i known at run time only: indexing would copy the array to local memory.
template <typename T, int kN>
__device__ __forceinline__ const T* pick(const T* const (&list)[kN], int i) {
  const T* from = nullptr;
#pragma unroll
  for (int j = 0; j < kN; ++j) from = j == i ? list[j] : from;
  return from;
}

inline bool aligned(const void* pointer, int bytes) { return reinterpret_cast<uintptr_t>(pointer) % bytes == 0; }

__device__ __forceinline__ float exponential(float v) { return expf(v); }
__device__ __forceinline__ double exponential(double v) { return exp(v); }
__device__ __forceinline__ float root(float v) { return sqrtf(v); }
__device__ __forceinline__ double root(double v) { return sqrt(v); }

}  // namespace ldeq
