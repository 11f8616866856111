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
#define LDEQ_LAUNCH(kernel, grid, threads, stream, ...) ::on_host::launch<kernel>(grid, threads, stream, __VA_ARGS__)
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
  static constexpr float kLargest = FLT_MAX;
  static constexpr double kPrecision = FLT_EPSILON;
  static __device__ __forceinline__ float load(float v) { return v; }
  static __device__ __forceinline__ float store(float v) { return v; }
};

template <>
struct Element<double> {
  using Accumulate = double;
  static constexpr double kLargest = DBL_MAX, kLeast = DBL_MIN, kPrecision = DBL_EPSILON;
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

// kVec neighbouring elements as they lie in memory. Several are read before the first is converted: a conversion in between would
// make the next read wait for this one.
template <typename T, int kVec>
struct Packed {
  static constexpr int kBytes = kVec * sizeof(T) < 16 ? kVec * sizeof(T) : 16;
  static constexpr int kEach = kBytes / sizeof(T);
  using WordType = typename Word<kBytes>::Type;
  WordType words[kVec / kEach];

  // In accesses of up to 16 bytes; `from` must be aligned to them.
  __device__ __forceinline__ void load(const T* from) {
#pragma unroll
    for (int i = 0; i < kVec / kEach; ++i) words[i] = *reinterpret_cast<const WordType*>(from + i * kEach);
  }

  __device__ __forceinline__ void clear() {
#pragma unroll
    for (int i = 0; i < kVec / kEach; ++i) words[i] = WordType{};
  }

  __device__ __forceinline__ void unpack(Accumulate<T> (&to)[kVec]) const {
#pragma unroll
    for (int i = 0; i < kVec / kEach; ++i) {
      T parts[kEach];
      memcpy(parts, &words[i], kBytes);
#pragma unroll
      for (int j = 0; j < kEach; ++j) to[i * kEach + j] = Element<T>::load(parts[j]);
    }
  }
};

template <int kVec, typename T>
__device__ __forceinline__ void load(const T* from, Accumulate<T> (&to)[kVec]) {
  Packed<T, kVec> packed;
  packed.load(from);
  packed.unpack(to);
}

// A write of 8 or 16 bytes as one instruction: nvcc was seen taking plain ones apart into four.
__device__ __forceinline__ void write(uint4* to, uint4 word) {
#ifdef __CUDA_ARCH__
  asm volatile("st.global.v4.u32 [%0], {%1, %2, %3, %4};" ::"l"(to), "r"(word.x), "r"(word.y), "r"(word.z), "r"(word.w) : "memory");
#else
  *to = word;
#endif
}
__device__ __forceinline__ void write(uint2* to, uint2 word) {
#ifdef __CUDA_ARCH__
  asm volatile("st.global.v2.u32 [%0], {%1, %2};" ::"l"(to), "r"(word.x), "r"(word.y) : "memory");
#else
  *to = word;
#endif
}
__device__ __forceinline__ void write(uint32_t* to, uint32_t word) { *to = word; }

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
      write(reinterpret_cast<decltype(word)*>(to + start), word);
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

// 2^v. In float, one instruction, whose error is that of a rounding or two; what is below the normal numbers becomes 0.
__device__ __forceinline__ float power_of_two(float v) {
#ifdef __CUDA_ARCH__
  float out;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(out) : "f"(v));
  return out;
#else
  return exp2f(v);
#endif
}
__device__ __forceinline__ double power_of_two(double v) { return exp2(v); }
constexpr double kLog2E = 1.4426950408889634;

// The greater one, or NaN if either is, as torch.amax has it; fmax would lose a NaN.
template <typename A>
__device__ __forceinline__ A greater(A a, A b) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  if constexpr (sizeof(A) == 4) {
    A out;
    asm("max.NaN.f32 %0, %1, %2;" : "=f"(out) : "f"(a), "f"(b));
    return out;
  }
#endif
  return a != a || a > b ? a : b;
}

__device__ __forceinline__ float root(float v) { return sqrtf(v); }
__device__ __forceinline__ double root(double v) { return sqrt(v); }

}  // namespace ldeq
