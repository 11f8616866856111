// Vectors of 64 bytes in the compiler's own notation, one source for every instruction set.
//
// A file that includes this one is compiled once per instruction set, each time with its own LDEQ_ISA, the name of the
// namespace everything lives in. Nothing here or in such a file may include a standard header with inline functions: the
// linker would keep one copy of them for the whole library, perhaps the one that needs AVX-512.
//
// The width is 64 bytes whatever the machine has: a sum then has the same lanes, and its order, everywhere.
#pragma once

#include "kernels.h"

namespace ldeq::cpu::LDEQ_ISA {

#define LDEQ_INLINE static inline __attribute__((always_inline))

typedef float Floats __attribute__((vector_size(64)));
typedef double Doubles __attribute__((vector_size(64)));
typedef int32_t Ints __attribute__((vector_size(64)));
typedef uint32_t Words __attribute__((vector_size(64)));
typedef int64_t Longs __attribute__((vector_size(64)));
typedef uint16_t Halves __attribute__((vector_size(32)));

// Storage types. Arithmetic is done in `Acc`: float for both half types, else the type itself.
struct Bf16 {
  uint16_t bits;
};
struct Fp16 {
  uint16_t bits;
};

template <typename T>
struct Traits {
  using Acc = float;
  using Vec = Floats;
  using Mask = Ints;
  static constexpr int64_t lanes = 16;
};
template <>
struct Traits<double> {
  using Acc = double;
  using Vec = Doubles;
  using Mask = Longs;
  static constexpr int64_t lanes = 8;
};

// --- conversions ---------------------------------------------------------------------------------------------------

LDEQ_INLINE Floats widen(const Bf16*, Halves h) {
  return (Floats)(__builtin_convertvector(h, Words) << 16);
}

LDEQ_INLINE Floats widen(const Fp16*, Halves h) {
  const Words w = __builtin_convertvector(h, Words);
  const Words sign = (w & 0x8000u) << 16, magnitude = (w & 0x7fffu) << 13;
  // The exponent's bias differs by 112; a product re-biases subnormal numbers as well.
  const Floats scaled = (Floats)magnitude * 0x1p112f;
  const Words special = (Words)(magnitude >= (0x7c00u << 13));
  return (Floats)((((Words)scaled & ~special) | ((magnitude | 0x7f800000u) & special)) | sign);
}

// Round to nearest, ties to even; a NaN stays one.
LDEQ_INLINE Halves narrow(const Bf16*, Floats v) {
  const Words w = (Words)v;
  const Words rounded = (w + 0x7fffu + ((w >> 16) & 1u)) >> 16;
  const Words nan = (Words)(v != v);
  return __builtin_convertvector((rounded & ~nan) | (0x7fc0u & nan), Halves);
}

LDEQ_INLINE Halves narrow(const Fp16*, Floats v) {
  const Words w = (Words)v;
  const Words sign = (w >> 16) & 0x8000u, magnitude = w & 0x7fffffffu;
  // Adding a number whose last place is that of the result lets the adder do the rounding; the least such number is
  // that of the subnormal halves, 2^-24 * 2^23.
  const Words exponent = magnitude & 0x7f800000u;
  const Words least = Words{} + (113u << 23);
  const Words low = (Words)(exponent < least);
  const Words clamped = (exponent & ~low) | (least & low);
  const Floats anchor = (Floats)(clamped + (13u << 23));
  const Words sum = (Words)((Floats)magnitude + anchor) - (Words)anchor;
  const Words bits = ((clamped - least) >> 13) + sum;
  const Words over = (Words)(magnitude >= (143u << 23)), nan = (Words)(v != v);
  const Words finite = (bits & ~over) | (0x7c00u & over);
  return __builtin_convertvector((finite & ~nan) | (0x7e00u & nan) | sign, Halves);
}

// --- loads and stores, whole and partial (the rest is filled) --------------------------------------------------------

LDEQ_INLINE Floats load(const float* p) {
  Floats v;
  __builtin_memcpy(&v, p, 64);
  return v;
}
LDEQ_INLINE Doubles load(const double* p) {
  Doubles v;
  __builtin_memcpy(&v, p, 64);
  return v;
}
template <typename H>
LDEQ_INLINE Floats load(const H* p) {
  Halves h;
  __builtin_memcpy(&h, p, 32);
  return widen(p, h);
}
LDEQ_INLINE void store(float* p, Floats v) {
  __builtin_memcpy(p, &v, 64);
}
LDEQ_INLINE void store(double* p, Doubles v) {
  __builtin_memcpy(p, &v, 64);
}
template <typename H>
LDEQ_INLINE void store(H* p, Floats v) {
  const Halves h = narrow(p, v);
  __builtin_memcpy(p, &h, 32);
}

template <typename T>
LDEQ_INLINE typename Traits<T>::Vec load_part(const T* p, int64_t count, typename Traits<T>::Acc rest) {
  T raw[Traits<T>::lanes];
  __builtin_memset(raw, 0, sizeof raw);
  for (int64_t i = 0; i < count; ++i) raw[i] = p[i];
  typename Traits<T>::Vec v = load(raw);
  for (int64_t i = count; i < Traits<T>::lanes; ++i) v[i] = rest;
  return v;
}
template <typename T>
LDEQ_INLINE void store_part(T* p, typename Traits<T>::Vec v, int64_t count) {
  T raw[Traits<T>::lanes];
  store(raw, v);
  for (int64_t i = 0; i < count; ++i) p[i] = raw[i];
}

// --- reductions, in a fixed order ------------------------------------------------------------------------------------

LDEQ_INLINE double sum(Floats v) {
  double s = 0;
  for (int i = 0; i < 16; ++i) s += v[i];
  return s;
}
LDEQ_INLINE double sum(Doubles v) {
  double s = 0;
  for (int i = 0; i < 8; ++i) s += v[i];
  return s;
}

// --- exp -------------------------------------------------------------------------------------------------------------

// exp(x) = 2^n exp(r), |r| <= ln 2 / 2. NaN in, NaN out; -inf gives 0 and large x gives inf, as from the C library. The
// clamps keep n within what two factors 2^(n/2) can build, which also rounds subnormal results once only.
LDEQ_INLINE Floats vexp(Floats x) {
  const Floats low = Floats{} - 110.0f, high = Floats{} + 90.0f;
  x = x < low ? low : x;
  x = x > high ? high : x;
  const Floats shifter = Floats{} + 12582912.0f;  // 1.5 x 2^23: the sum's last bits are the nearest integer
  const Floats shifted = x * 1.44269504f + shifter;
  const Floats n = shifted - shifter;
  Floats r = x - n * 0.693359375f;
  r = r - n * -2.12194440e-4f;
  Floats p = r * 1.9875691500e-4f + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * (r * r) + r + 1.0f;
  const Ints k = (Ints)shifted - 0x4b400000;
  const Ints half = k >> 1;
  return p * (Floats)((half + 127) << 23) * (Floats)((k - half + 127) << 23);
}

LDEQ_INLINE Doubles vexp(Doubles x) {
  const Doubles low = Doubles{} - 760.0, high = Doubles{} + 720.0;
  x = x < low ? low : x;
  x = x > high ? high : x;
  const Doubles shifter = Doubles{} + 0x1.8p52;
  const Doubles shifted = x * 1.4426950408889634 + shifter;
  const Doubles n = shifted - shifter;
  Doubles r = x - n * 6.93147180369123816490e-01;
  r = r - n * 1.90821492927058770002e-10;
  Doubles p = r * (1.0 / 6227020800.0) + 1.0 / 479001600.0;
  p = p * r + 1.0 / 39916800.0;
  p = p * r + 1.0 / 3628800.0;
  p = p * r + 1.0 / 362880.0;
  p = p * r + 1.0 / 40320.0;
  p = p * r + 1.0 / 5040.0;
  p = p * r + 1.0 / 720.0;
  p = p * r + 1.0 / 120.0;
  p = p * r + 1.0 / 24.0;
  p = p * r + 1.0 / 6.0;
  p = p * r + 0.5;
  p = p * (r * r) + r + 1.0;
  const Longs k = (Longs)shifted - 0x4338000000000000;
  // SSE2 and AVX2 have no arithmetic shift of 64-bit lanes; adding an even offset first makes a logical one do.
  typedef uint64_t Unsigned __attribute__((vector_size(64)));
  const Longs half = (Longs)((Unsigned)(k + 4096) >> 1) - 2048;
  return p * (Doubles)((half + 1023) << 52) * (Doubles)((k - half + 1023) << 52);
}

}  // namespace ldeq::cpu::LDEQ_ISA
