// Vectors in the compiler's own notation, as wide as the instruction set at hand: one source for all of them.
//
// A file that includes this one is compiled once per instruction set, each time with its own LDEQ_ISA, the name of the
// namespace everything lives in. Nothing here or in such a file may include a standard header with inline functions: the
// linker would keep one copy of them for the whole library, perhaps the one that needs AVX-512. (Intrinsics are always inlined.)
// Vectors wider than the machine's would work, too, but GCC 12 takes their comparisons apart lane by lane.
#pragma once

#include "kernels.h"

#if defined(__AVX512F__)
#define LDEQ_BYTES 64
#elif defined(__AVX2__)
#define LDEQ_BYTES 32
#else
#define LDEQ_BYTES 16
#endif
#if defined(__SSE2__)
#include <immintrin.h>
#endif

namespace ldeq::cpu::LDEQ_ISA {

#define LDEQ_INLINE static inline __attribute__((always_inline))
#define LDEQ_INLINE_METHOD inline __attribute__((always_inline))

typedef float Floats __attribute__((vector_size(LDEQ_BYTES)));
typedef double Doubles __attribute__((vector_size(LDEQ_BYTES)));
typedef int32_t Ints __attribute__((vector_size(LDEQ_BYTES)));
typedef uint32_t Words __attribute__((vector_size(LDEQ_BYTES)));
typedef int64_t Longs __attribute__((vector_size(LDEQ_BYTES)));
typedef uint16_t Halves __attribute__((vector_size(LDEQ_BYTES / 2)));

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
  static constexpr int64_t lanes = LDEQ_BYTES / 4;
};
template <>
struct Traits<double> {
  using Acc = double;
  using Vec = Doubles;
  using Mask = Longs;
  static constexpr int64_t lanes = LDEQ_BYTES / 8;
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

// The halves of a vector in float64.
LDEQ_INLINE Doubles low_half(Floats v) {
#if LDEQ_BYTES == 64
  return (Doubles)_mm512_cvtps_pd(_mm512_castps512_ps256((__m512)v));
#elif LDEQ_BYTES == 32
  return (Doubles)_mm256_cvtps_pd(_mm256_castps256_ps128((__m256)v));
#else
  return Doubles{v[0], v[1]};
#endif
}
LDEQ_INLINE Doubles high_half(Floats v) {
#if LDEQ_BYTES == 64
  return (Doubles)_mm512_cvtps_pd(_mm512_extractf32x8_ps((__m512)v, 1));
#elif LDEQ_BYTES == 32
  return (Doubles)_mm256_cvtps_pd(_mm256_extractf128_ps((__m256)v, 1));
#else
  return Doubles{v[2], v[3]};
#endif
}

// --- loads and stores, whole and partial (the rest is filled) --------------------------------------------------------

LDEQ_INLINE Floats load(const float* p) {
  Floats v;
  __builtin_memcpy(&v, p, LDEQ_BYTES);
  return v;
}
LDEQ_INLINE Doubles load(const double* p) {
  Doubles v;
  __builtin_memcpy(&v, p, LDEQ_BYTES);
  return v;
}
template <typename H>
LDEQ_INLINE Floats load(const H* p) {
  Halves h;
  __builtin_memcpy(&h, p, LDEQ_BYTES / 2);
  return widen(p, h);
}
LDEQ_INLINE void store(float* p, Floats v) {
  __builtin_memcpy(p, &v, LDEQ_BYTES);
}
LDEQ_INLINE void store(double* p, Doubles v) {
  __builtin_memcpy(p, &v, LDEQ_BYTES);
}
template <typename H>
LDEQ_INLINE void store(H* p, Floats v) {
  const Halves h = narrow(p, v);
  __builtin_memcpy(p, &h, LDEQ_BYTES / 2);
}

#if LDEQ_BYTES == 64
LDEQ_INLINE Floats load_part(const float* p, int64_t count, float rest) {
  return (Floats)_mm512_mask_loadu_ps(_mm512_set1_ps(rest), (__mmask16)((1u << count) - 1), p);
}
LDEQ_INLINE Doubles load_part(const double* p, int64_t count, double rest) {
  return (Doubles)_mm512_mask_loadu_pd(_mm512_set1_pd(rest), (__mmask8)((1u << count) - 1), p);
}
template <typename H>
LDEQ_INLINE Floats load_part(const H* p, int64_t count, float rest) {
  const __mmask16 there = (__mmask16)((1u << count) - 1);
  const Halves h = (Halves)_mm256_maskz_loadu_epi16(there, p);
  return (Floats)_mm512_mask_blend_ps(there, _mm512_set1_ps(rest), (__m512)widen(p, h));
}
LDEQ_INLINE void store_part(float* p, Floats v, int64_t count) {
  _mm512_mask_storeu_ps(p, (__mmask16)((1u << count) - 1), (__m512)v);
}
LDEQ_INLINE void store_part(double* p, Doubles v, int64_t count) {
  _mm512_mask_storeu_pd(p, (__mmask8)((1u << count) - 1), (__m512d)v);
}
template <typename H>
LDEQ_INLINE void store_part(H* p, Floats v, int64_t count) {
  _mm256_mask_storeu_epi16(p, (__mmask16)((1u << count) - 1), (__m256i)narrow(p, v));
}
#else
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
#endif

// v with zeros in place of all lanes but the first `count`.
LDEQ_INLINE Floats keep_first(Floats v, int64_t count) {
  Ints lane;
  for (int l = 0; l < LDEQ_BYTES / 4; ++l) lane[l] = l;
  return (Floats)((Ints)v & (lane < (int32_t)count));
}
LDEQ_INLINE Doubles keep_first(Doubles v, int64_t count) {
  Longs lane;
  for (int l = 0; l < LDEQ_BYTES / 8; ++l) lane[l] = l;
  return (Doubles)((Longs)v & (lane < count));
}

// --- reductions, in a fixed order ------------------------------------------------------------------------------------
//
// Halves are added to halves: lane after lane is a chain of as many additions, which cost a soft-argmax more than its exp.

#if LDEQ_BYTES == 64
LDEQ_INLINE double sum(Doubles v) {
  const __m256d a = _mm256_add_pd(_mm512_castpd512_pd256((__m512d)v), _mm512_extractf64x4_pd((__m512d)v, 1));
  const __m128d b = _mm_add_pd(_mm256_castpd256_pd128(a), _mm256_extractf128_pd(a, 1));
  return _mm_cvtsd_f64(_mm_add_sd(b, _mm_unpackhi_pd(b, b)));
}
LDEQ_INLINE double sum(Floats v) {
  return sum(low_half(v) + high_half(v));
}
#elif LDEQ_BYTES == 32
LDEQ_INLINE double sum(Doubles v) {
  const __m128d b = _mm_add_pd(_mm256_castpd256_pd128((__m256d)v), _mm256_extractf128_pd((__m256d)v, 1));
  return _mm_cvtsd_f64(_mm_add_sd(b, _mm_unpackhi_pd(b, b)));
}
LDEQ_INLINE double sum(Floats v) {
  return sum(low_half(v) + high_half(v));
}
#else
LDEQ_INLINE double sum(Doubles v) {
  double s = 0;
  for (int i = 0; i < LDEQ_BYTES / 8; ++i) s += v[i];
  return s;
}
LDEQ_INLINE double sum(Floats v) {
  double s = 0;
  for (int i = 0; i < LDEQ_BYTES / 4; ++i) s += v[i];
  return s;
}
#endif

// --- comparisons -----------------------------------------------------------------------------------------------------

// The larger lane; b where either is NaN, which is what x86 does in one instruction.
LDEQ_INLINE Floats larger(Floats a, Floats b) {
#if LDEQ_BYTES == 64
  return (Floats)_mm512_max_ps((__m512)a, (__m512)b);
#elif LDEQ_BYTES == 32
  return (Floats)_mm256_max_ps((__m256)a, (__m256)b);
#elif defined(__SSE2__)
  return (Floats)_mm_max_ps((__m128)a, (__m128)b);
#else
  return a > b ? a : b;
#endif
}
LDEQ_INLINE Doubles larger(Doubles a, Doubles b) {
  return a > b ? a : b;
}
LDEQ_INLINE Floats smaller(Floats a, Floats b) {
#if LDEQ_BYTES == 64
  return (Floats)_mm512_min_ps((__m512)a, (__m512)b);
#elif LDEQ_BYTES == 32
  return (Floats)_mm256_min_ps((__m256)a, (__m256)b);
#elif defined(__SSE2__)
  return (Floats)_mm_min_ps((__m128)a, (__m128)b);
#else
  return a < b ? a : b;
#endif
}
LDEQ_INLINE Doubles smaller(Doubles a, Doubles b) {
  return a < b ? a : b;
}

// Adds 1 to the lanes of `counts` where v is equal to `to`.
LDEQ_INLINE void count_where(Ints& counts, Floats v, float to) {
#if LDEQ_BYTES == 64
  const __mmask16 same = _mm512_cmpeq_ps_mask((__m512)v, _mm512_set1_ps(to));
  counts = (Ints)_mm512_mask_add_epi32((__m512i)counts, same, (__m512i)counts, _mm512_set1_epi32(1));
#else
  counts -= v == to;
#endif
}
LDEQ_INLINE void count_where(Longs& counts, Doubles v, double to) {
  counts -= v == to;
}

// --- exp -------------------------------------------------------------------------------------------------------------

// exp(x) = 2^n exp(r), |r| <= ln 2 / 2. NaN in, NaN out; -inf gives 0 and large x gives inf, as from the C library. The
// clamps keep n within what two factors 2^(n/2) can build, which also rounds subnormal results once only.
LDEQ_INLINE Floats vexp(Floats x) {
  x = smaller(Floats{} + 90.0f, larger(Floats{} - 110.0f, x));
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
#if LDEQ_BYTES == 64
  return (Floats)_mm512_scalef_ps((__m512)p, (__m512)n);
#else
  const Ints k = (Ints)shifted - 0x4b400000;
  const Ints half = k >> 1;
  return p * (Floats)((half + 127) << 23) * (Floats)((k - half + 127) << 23);
#endif
}

#if defined(__FMA__)
// exp(beta d) for d <= 0 in fewer instructions, within two units in the last place. NaN in, NaN out; exp(0) is exactly 1, and
// subnormal results are rounded once. beta log2(e) comes as a float and the rest of it, so that beta d itself is never rounded.
struct FallingFactor {
  // `least` is 2^-159, whose exponent with its bias below is 0, which as a float is 0: a product that only rounds to 0 takes
  // processors many times as long.
  float high, low, least;
  explicit FallingFactor(double beta) {
    high = (float)(beta * 1.4426950408889634);
    low = (float)(beta * 1.4426950408889634 - (double)high);
    least = (float)(-159 * 0.6931471805599453 / beta);
  }
};
LDEQ_INLINE Floats exp_of_falling(Floats d, const FallingFactor& beta) {
  d = larger(Floats{} + beta.least, d);
  // The sum's last bits are the nearest integer, with the bias of an exponent and 32 more, so that no exponent here is too small.
  const Floats shifter = Floats{} + (0x1.8p23f + 127.0f + 32.0f);
  const Floats shifted = d * beta.high + shifter;
  const Floats n = shifted - shifter;
  Floats r = d * beta.high - n;
  r = d * beta.low + r;
  // 2^r / 2^32 for |r| <= 1/2: of the polynomials that are 1 at 0 the one whose largest error in units of the last place is least.
  Floats p = r * (0x1p-32f * 1.322570723e-3f) + 0x1p-32f * 9.671762586e-3f;
  p = p * r + 0x1p-32f * 5.550891533e-2f;
  p = p * r + 0x1p-32f * 2.402223647e-1f;
  p = p * r + 0x1p-32f * 6.931468248e-1f;
  p = p * r + 0x1p-32f;
  return p * (Floats)((Ints)shifted << 23);
}
#endif

LDEQ_INLINE Doubles vexp(Doubles x) {
  x = smaller(Doubles{} + 720.0, larger(Doubles{} - 760.0, x));
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
  typedef uint64_t Unsigned __attribute__((vector_size(LDEQ_BYTES)));
  const Longs half = (Longs)((Unsigned)(k + 4096) >> 1) - 2048;
  return p * (Doubles)((half + 1023) << 52) * (Doubles)((k - half + 1023) << 52);
}

}  // namespace ldeq::cpu::LDEQ_ISA
