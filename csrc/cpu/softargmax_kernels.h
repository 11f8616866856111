// Soft-argmax of one map after another. The formulas are those of ldeq/ops/softargmax.py.
//
// Forward reads a map for its peak and again, from cache, for exp and the sums along both axes; everything else follows
// from those W + H sums. Backward recomputes exp from the logits and the peak.
#pragma once

#include "simd.h"

namespace ldeq::cpu::LDEQ_ISA {

// Float sums are emptied into doubles every so many rows: the error then does not grow with the map.
constexpr int64_t kRowsPerFlush = 32;

struct Moments {
  double total = 0, mass = 0, mean_x = 0, mean_y = 0, var_x = 0, var_y = 0;
};

// --- the peak ----------------------------------------------------------------------------------------------------------

// The largest pixel. Comparisons lose a NaN; kPoison looks for one and returns it.
template <typename T, bool kPoison>
LDEQ_INLINE typename Traits<T>::Acc largest(const T* map, int64_t count) {
  using Acc = typename Traits<T>::Acc;
  using Vec = typename Traits<T>::Vec;
  constexpr int64_t L = Traits<T>::lanes;
  const Acc lowest = -__builtin_inf();
  Vec best[4];
  for (auto& b : best) b = Vec{} + lowest;
  typename Traits<T>::Mask poison = {};
  int64_t i = 0;
  for (; i + 4 * L <= count; i += 4 * L)
    for (int u = 0; u < 4; ++u) {
      const Vec v = load(map + i + u * L);
      best[u] = larger(v, best[u]);
      if constexpr (kPoison) poison += v != v;
    }
  for (; i < count; i += L) {
    const Vec v = count - i >= L ? load(map + i) : load_part(map + i, count - i, lowest);
    best[0] = larger(v, best[0]);
    if constexpr (kPoison) poison += v != v;
  }
  for (int u = 1; u < 4; ++u) best[0] = larger(best[u], best[0]);
  Acc peak = lowest;
  for (int l = 0; l < L; ++l) peak = best[0][l] > peak ? best[0][l] : peak;
  if constexpr (kPoison)
    for (int l = 0; l < L; ++l)
      if (poison[l]) peak = __builtin_nan("");
  return peak;
}

// --- from a pixel to its weight ----------------------------------------------------------------------------------------

template <typename T>
constexpr typename Traits<T>::Acc least_finite() {
  return sizeof(typename Traits<T>::Acc) == 8 ? (typename Traits<T>::Acc)-__DBL_MAX__ : (typename Traits<T>::Acc)-__FLT_MAX__;
}

// exp(beta (h - peak)) for any beta and any pixels.
template <typename T>
struct AnyExp {
  using Acc = typename Traits<T>::Acc;
  using Vec = typename Traits<T>::Vec;
  Acc peak, beta;
  // -inf - peak is made finite, so that beta = 0 gives 1 and gradients stay 0.
  LDEQ_INLINE_METHOD Vec below(Vec h) const { return larger(Vec{} + least_finite<T>(), h - peak); }
  LDEQ_INLINE_METHOD Vec operator()(Vec h) const { return vexp(beta * below(h)); }
};

// With a smaller beta, beta times the least float would not be far below 0; a larger one is infinite as a float.
LDEQ_INLINE bool falls(double beta, double peak) {
  return beta >= 1e-30 && beta <= 1e30 && peak >= -__FLT_MAX__ && peak <= __FLT_MAX__;
}

#if defined(__FMA__)
// The same in fewer instructions, for floats, a finite peak and an ordinary beta. A NaN pixel gives a NaN.
template <typename T>
struct FallingExp {
  float peak;
  FallingFactor beta;
  FallingExp(double at, double times) : peak((float)at), beta(times) {}
  LDEQ_INLINE_METHOD Floats below(Floats h) const { return larger(Floats{} - __FLT_MAX__, h - peak); }
  LDEQ_INLINE_METHOD Floats operator()(Floats h) const { return exp_of_falling(h - peak, beta); }
};
template <typename T>
constexpr bool kMayFall = sizeof(typename Traits<T>::Acc) == 4;
#else
// Without fused products it would lose precision, and is not there.
template <typename T>
struct FallingExp;
template <typename T>
constexpr bool kMayFall = false;
#endif

// A heatmap is its own weight.
template <typename T>
struct NoExp {
  using Vec = typename Traits<T>::Vec;
  LDEQ_INLINE_METHOD Vec operator()(Vec p) const { return p; }
};
template <typename Exp>
constexpr bool kIsExp = true;
template <typename T>
constexpr bool kIsExp<NoExp<T>> = false;

// --- moments of the weights --------------------------------------------------------------------------------------------

LDEQ_INLINE int64_t up_to_lanes(int64_t count, int64_t lanes) {
  return (count + lanes - 1) / lanes * lanes;
}

LDEQ_INLINE Doubles first_indices() {
  Doubles at;
  for (int l = 0; l < LDEQ_BYTES / 8; ++l) at[l] = l;
  return at;
}

// sum w, sum w i and sum w (i - mean)^2 over doubles that are followed by zeros up to a whole vector.
LDEQ_INLINE void sums_of(const double* w, int64_t count, double& total, double& first) {
  constexpr int64_t L = LDEQ_BYTES / 8;
  Doubles s = {}, f = {}, at = first_indices();
  for (int64_t i = 0; i < count; i += L, at += (double)L) {
    s += load(w + i);
    f += load(w + i) * at;
  }
  total = sum(s);
  first = sum(f);
}
LDEQ_INLINE double spread_of(const double* w, int64_t count, double mean) {
  constexpr int64_t L = LDEQ_BYTES / 8;
  Doubles s = {}, d = first_indices() - mean;
  for (int64_t i = 0; i < count; i += L, d += (double)L) s += load(w + i) * d * d;
  return sum(s);
}

LDEQ_INLINE void add_to(double* sums, Floats v) {
  constexpr int64_t L = LDEQ_BYTES / 8;
  store(sums, load(sums) + low_half(v));
  store(sums + L, load(sums + L) + high_half(v));
}
LDEQ_INLINE void add_to(double* sums, Doubles v) {
  store(sums, load(sums) + v);
}

// While one map is weighed in cache, the next one comes from memory. (A map behind the last one is asked for in vain.)
template <typename T>
LDEQ_INLINE void fetch_row_of_next_map(const T* row, int64_t map_size, int64_t width) {
  const char* next = (const char*)(row + map_size);
  for (int64_t b = 0; b < width * (int64_t)sizeof(T); b += 64) __builtin_prefetch(next + b);
}

// Reads one map once more, writes its weights where wanted and returns their moments. kWide is the number of vectors in a
// row, whose sums then stay in registers; 0 means any width.
template <typename T, typename Exp, bool kWrite, int kWide>
LDEQ_INLINE Moments weigh(const Maps& m, const T* map, T* heatmap, const Exp& exp, double* ties, void* scratch) {
  using Acc = typename Traits<T>::Acc;
  using Vec = typename Traits<T>::Vec;
  constexpr int64_t L = Traits<T>::lanes, D = LDEQ_BYTES / 8;
  const int64_t padded = up_to_lanes(m.width, L), height = up_to_lanes(m.height, D);
  double* columns = (double*)scratch;
  double* rows = columns + padded;
  Acc* partial = (Acc*)(rows + height);
  __builtin_memset(columns, 0, padded * sizeof(double));
  for (int64_t y = m.height; y < height; ++y) rows[y] = 0;
  typename Traits<T>::Mask tied = {};
  const auto weight = [&](Vec h) __attribute__((always_inline)) {
    if constexpr (kIsExp<Exp>) count_where(tied, h, exp.peak);
    return exp(h);
  };
  for (int64_t block = 0; block < m.height; block += kRowsPerFlush) {
    const int64_t end = block + kRowsPerFlush < m.height ? block + kRowsPerFlush : m.height;
    if constexpr (kWide > 0) {
      Vec in_column[kWide] = {};
      for (int64_t y = block; y < end; ++y) {
        const T* row = map + y * kWide * L;
        fetch_row_of_next_map(row, m.height * kWide * L, kWide * L);
        Vec along = {};
        for (int u = 0; u < kWide; ++u) {
          const Vec v = weight(load(row + u * L));
          if constexpr (kWrite) store(heatmap + (y * kWide + u) * L, v);
          along += v;
          in_column[u] += v;
        }
        rows[y] = sum(along);
      }
      for (int u = 0; u < kWide; ++u) add_to(columns + u * L, in_column[u]);
    } else {
      __builtin_memset(partial, 0, padded * sizeof(Acc));
      for (int64_t y = block; y < end; ++y) {
        const T* row = map + y * m.width;
        fetch_row_of_next_map(row, m.height * m.width, m.width);
        Vec along = {};
        int64_t x = 0;
        const auto step = [&](Vec v) __attribute__((always_inline)) {
          along += v;
          store(partial + x, load(partial + x) + v);
        };
        for (; x + L <= m.width; x += L) {
          const Vec v = weight(load(row + x));
          if constexpr (kWrite) store(heatmap + y * m.width + x, v);
          step(v);
        }
        if (const int64_t count = m.width - x; count > 0) {
          const Vec v = keep_first(weight(load_part(row + x, count, kIsExp<Exp> ? (Acc)-__builtin_inf() : (Acc)0)), count);
          if constexpr (kWrite) store_part(heatmap + y * m.width + x, v, count);
          step(v);
        }
        rows[y] = sum(along);
      }
      for (int64_t i = 0; i < padded; i += L) add_to(columns + i, load(partial + i));
    }
  }
  // The reference sums in the maps' precision and divides by that; all of this is in double, and then rounded once.
  Moments r;
  double total = 0, sx = 0, sy = 0;
  sums_of(columns, padded, total, sx);
  sums_of(rows, height, total, sy);
  r.total = total + m.eps;
  r.mass = total / r.total;
  r.mean_x = sx / r.total;
  r.mean_y = sy / r.total;
  r.var_x = spread_of(columns, padded, r.mean_x) / r.total;
  r.var_y = spread_of(rows, height, r.mean_y) / r.total;
  if constexpr (kIsExp<Exp>) {
    int64_t n = 0;
    for (int l = 0; l < L; ++l) n += tied[l];
    *ties = (double)n;
  }
  return r;
}

// The widths of common heatmaps have a loop of their own, where there are registers enough: with 16 of them it was slower.
template <typename T, typename Exp, bool kWrite>
LDEQ_INLINE Moments weigh_fast(const Maps& m, const T* map, T* heatmap, const Exp& exp, double* ties, void* scratch) {
#if LDEQ_BYTES == 64
  constexpr int64_t L = Traits<T>::lanes;
  if (m.width == 2 * L) return weigh<T, Exp, kWrite, 2>(m, map, heatmap, exp, ties, scratch);
  if (m.width == 4 * L) return weigh<T, Exp, kWrite, 4>(m, map, heatmap, exp, ties, scratch);
  if (m.width == 8 * L) return weigh<T, Exp, kWrite, 8>(m, map, heatmap, exp, ties, scratch);
#endif
  return weigh<T, Exp, kWrite, 0>(m, map, heatmap, exp, ties, scratch);
}

template <typename T, bool kWrite>
LDEQ_INLINE Moments weigh_logits(const Maps& m, const T* map, T* heatmap, double beta, double* peak, double* ties, void* scratch) {
  using Acc = typename Traits<T>::Acc;
  const int64_t count = m.height * m.width;
  *peak = largest<T, false>(map, count);
  if constexpr (kMayFall<T>) {
    if (falls(beta, *peak)) {
      const Moments r = weigh_fast<T, FallingExp<T>, kWrite>(m, map, heatmap, {*peak, beta}, ties, scratch);
      if (r.total == r.total) return r;
    }
  }
  *peak = largest<T, true>(map, count);
  // A map of -inf alone: its exp must be 0, and -inf - -inf is NaN.
  if (*peak == -__builtin_inf()) *peak = 0;
  return weigh<T, AnyExp<T>, kWrite, 0>(m, map, heatmap, {(Acc)*peak, (Acc)beta}, ties, scratch);
}

template <typename T>
static void softargmax_forward_of(const MapsForward& a, int64_t begin, int64_t end, void* scratch) {
  using Acc = typename Traits<T>::Acc;
  const Maps& m = a.maps;
  const int64_t count = m.height * m.width;
  for (int64_t i = begin; i < end; ++i) {
    const T* map = (const T*)m.in + i * count;
    double* stats = m.stats + i * kStats;
    Moments r;
    double peak = 0, ties = 0;
    if (m.beta) {
      const double beta = m.beta[i % m.channels * m.beta_stride];
      r = a.heatmap ? weigh_logits<T, true>(m, map, (T*)a.heatmap + i * count, beta, &peak, &ties, scratch)
                    : weigh_logits<T, false>(m, map, nullptr, beta, &peak, &ties, scratch);
    } else {
      r = weigh_fast<T, NoExp<T>, false>(m, map, nullptr, {}, nullptr, scratch);
    }
    const double v = (r.var_x + r.var_y) / 2;
    Acc* xy = (Acc*)a.xy + 2 * i;
    xy[0] = (Acc)(r.mean_x * m.axes.scale_x + r.mass * m.axes.offset_x);
    xy[1] = (Acc)(r.mean_y * m.axes.scale_y + r.mass * m.axes.offset_y);
    ((Acc*)a.std)[i] = (Acc)((v > 0 ? __builtin_sqrt(v) : v) * m.axes.scale_x);
    stats[kPeak] = peak;
    stats[kTies] = ties;
    stats[kTotal] = r.total;
    stats[kMass] = r.mass;
    stats[kMeanX] = r.mean_x;
    stats[kMeanY] = r.mean_y;
    stats[kVariance] = v;
    stats[kStats - 1] = 0;
  }
}

// dL/dp of a pixel is ax x + bx x^2 + ay y + by y^2 + constants; pixels are counted from the mean for precision.
struct Slope {
  double x, xx, y, yy, mean_x, mean_y, constant, heat;
};

template <typename T, typename Exp, bool kHeat>
LDEQ_INLINE void backward_map(const MapsBackward& a, int64_t i, const Slope& s, const Exp& exp, double beta_, void* scratch) {
  constexpr bool kExp = kIsExp<Exp>;
  using Acc = typename Traits<T>::Acc;
  using Vec = typename Traits<T>::Vec;
  constexpr int64_t L = Traits<T>::lanes;
  const Maps& m = a.maps;
  const int64_t count = m.height * m.width;
  const double* stats = m.stats + i * kStats;
  const T* map = (const T*)m.in + i * count;
  const T* heat = kHeat ? (const T*)a.grad_heatmap + i * count : nullptr;
  T* out = (T*)a.grad_in + i * count;
  const Acc beta = (Acc)beta_;
  // The part of the slope that depends on the column alone, once per map.
  const int64_t padded = (m.width + L - 1) / L * L;
  Acc* across = (Acc*)scratch;
  for (int64_t x = 0; x < padded; ++x) {
    const double d = (double)x - s.mean_x;
    across[x] = (Acc)(s.x * d + s.xx * d * d);
  }
  auto slope = [&](int64_t y, int64_t x) __attribute__((always_inline)) {
    const double d = (double)y - s.mean_y;
    return load(across + x) + (Acc)(s.y * d + s.yy * d * d + s.constant);
  };
  Acc at_peak = 0;
  if constexpr (kExp) {
    // What reaches the peak through h - max h: minus beta times the sum of all slopes, shared by the tied pixels.
    double through = s.heat;
    if constexpr (kHeat) {
      through = 0;
      for (int64_t y = 0; y < m.height; ++y) {
        Vec along = {};
        for (int64_t x = 0; x < m.width; x += L) {
          const int64_t n = m.width - x;
          const Vec h = n >= L ? load(map + y * m.width + x) : load_part(map + y * m.width + x, n, (Acc)-__builtin_inf());
          const Vec gh = n >= L ? load(heat + y * m.width + x) : load_part(heat + y * m.width + x, n, (Acc)0);
          const Vec q = exp(h) * (slope(y, x) + gh);
          along += n >= L ? q : keep_first(q, n);
        }
        through += sum(along);
      }
    }
    at_peak = (Acc)(-beta * through / (stats[kTies] > 0 ? stats[kTies] : 1));
  }
  const bool learned = kExp && a.grad_betas;
  double grad_beta = 0;
  for (int64_t y = 0; y < m.height; ++y) {
    Vec along = {};
    auto step = [&](int64_t x, int64_t n) __attribute__((always_inline)) {
      const int64_t at = y * m.width + x;
      Vec q = slope(y, x);
      if constexpr (kHeat) q += n >= L ? load(heat + at) : load_part(heat + at, n, (Acc)0);
      if constexpr (kExp) {
        const Vec h = n >= L ? load(map + at) : load_part(map + at, n, (Acc)-__builtin_inf());
        q *= exp(h);
        if (learned) {
          const Vec share = q * exp.below(h);
          along += n >= L ? share : keep_first(share, n);
        }
        q *= beta;
        q = h == exp.peak ? q + at_peak : q;
      }
      if (n >= L)
        store(out + at, q);
      else
        store_part(out + at, q, n);
    };
    int64_t x = 0;
    for (; x + L <= m.width; x += L) step(x, L);
    if (x < m.width) step(x, m.width - x);
    if (learned) grad_beta += sum(along);
  }
  if (learned) a.grad_betas[i] = grad_beta;
}

template <typename T, typename Exp>
LDEQ_INLINE void backward_logits(const MapsBackward& a, int64_t i, const Slope& s, const Exp& exp, double beta, void* scratch) {
  if (a.grad_heatmap)
    backward_map<T, Exp, true>(a, i, s, exp, beta, scratch);
  else
    backward_map<T, Exp, false>(a, i, s, exp, beta, scratch);
}

template <typename T>
static void softargmax_backward_of(const MapsBackward& a, int64_t begin, int64_t end, void* scratch) {
  using Acc = typename Traits<T>::Acc;
  const Maps& m = a.maps;
  for (int64_t i = begin; i < end; ++i) {
    const double* t = m.stats + i * kStats;
    const double gx = a.grad_xy ? (double)((const Acc*)a.grad_xy)[2 * i] : 0;
    const double gy = a.grad_xy ? (double)((const Acc*)a.grad_xy)[2 * i + 1] : 0;
    const double gs = a.grad_std ? (double)((const Acc*)a.grad_std)[i] : 0;
    const double v = t[kVariance];
    const double k = gs * m.axes.scale_x / 2 * (v > 0 ? 0.5 / __builtin_sqrt(v) : 1.0);
    // d var / d mean = -2 sum p (x - mean) = -2 mean (1 - mass), which is not 0 for eps > 0.
    const double lost = 1 - t[kMass];
    const double cx = gx * m.axes.scale_x - 2 * k * t[kMeanX] * lost, cy = gy * m.axes.scale_y - 2 * k * t[kMeanY] * lost;
    // G = cx x + cy y + k ((x - mean_x)^2 + (y - mean_y)^2) + offsets, and dL/dz = (G - sum p G) / total.
    const double offsets = gx * m.axes.offset_x + gy * m.axes.offset_y;
    const double mean_g = cx * t[kMeanX] + cy * t[kMeanY] + 2 * k * v + offsets * t[kMass];
    Slope s;
    s.mean_x = t[kMeanX];
    s.mean_y = t[kMeanY];
    s.x = cx / t[kTotal];
    s.y = cy / t[kTotal];
    s.xx = s.yy = k / t[kTotal];
    s.constant = (offsets + cx * t[kMeanX] + cy * t[kMeanY] - mean_g) / t[kTotal];
    s.heat = mean_g * lost;  // sum z dL/dz, in closed form
    if (!m.beta) {
      backward_map<T, NoExp<T>, false>(a, i, s, {}, 1, scratch);
      continue;
    }
    const double beta = m.beta[i % m.channels * m.beta_stride];
    if constexpr (kMayFall<T>) {
      if (falls(beta, t[kPeak])) {
        backward_logits<T>(a, i, s, FallingExp<T>{t[kPeak], beta}, beta, scratch);
        continue;
      }
    }
    backward_logits<T>(a, i, s, AnyExp<T>{(Acc)t[kPeak], (Acc)beta}, beta, scratch);
  }
}

static void softargmax_forward(const MapsForward& a, int64_t begin, int64_t end, void* scratch) {
  switch (a.maps.type) {
    case Type::f32: return softargmax_forward_of<float>(a, begin, end, scratch);
    case Type::f64: return softargmax_forward_of<double>(a, begin, end, scratch);
    case Type::bf16: return softargmax_forward_of<Bf16>(a, begin, end, scratch);
    case Type::f16: return softargmax_forward_of<Fp16>(a, begin, end, scratch);
  }
}

static void softargmax_backward(const MapsBackward& a, int64_t begin, int64_t end, void* scratch) {
  switch (a.maps.type) {
    case Type::f32: return softargmax_backward_of<float>(a, begin, end, scratch);
    case Type::f64: return softargmax_backward_of<double>(a, begin, end, scratch);
    case Type::bf16: return softargmax_backward_of<Bf16>(a, begin, end, scratch);
    case Type::f16: return softargmax_backward_of<Fp16>(a, begin, end, scratch);
  }
}

}  // namespace ldeq::cpu::LDEQ_ISA
