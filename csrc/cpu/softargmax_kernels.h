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

template <typename T>
LDEQ_INLINE typename Traits<T>::Acc peak_of(const T* map, int64_t count) {
  using Acc = typename Traits<T>::Acc;
  using Vec = typename Traits<T>::Vec;
  constexpr int64_t L = Traits<T>::lanes;
  const Acc lowest = -__builtin_inf();
  Vec best[4];
  for (auto& b : best) b = Vec{} + lowest;
  typename Traits<T>::Mask poison = {};  // comparisons alone would lose a NaN
  int64_t i = 0;
  for (; i + 4 * L <= count; i += 4 * L)
    for (int u = 0; u < 4; ++u) {
      const Vec v = load(map + i + u * L);
      best[u] = larger(v, best[u]);
      poison += v != v;
    }
  for (; i < count; i += L) {
    const Vec v = count - i >= L ? load(map + i) : load_part(map + i, count - i, lowest);
    best[0] = larger(v, best[0]);
    poison += v != v;
  }
  for (int u = 1; u < 4; ++u) best[0] = larger(best[u], best[0]);
  Acc peak = lowest;
  for (int l = 0; l < L; ++l) peak = best[0][l] > peak ? best[0][l] : peak;
  for (int l = 0; l < L; ++l)
    if (poison[l]) peak = __builtin_nan("");
  // A map of -inf alone: its exp must be 0, and -inf - -inf is NaN.
  return peak == lowest ? 0 : peak;
}

// exp(beta (h - peak)), with -inf - peak made finite so that beta = 0 gives 1 and gradients stay 0.
template <typename Vec, typename Acc>
LDEQ_INLINE Vec below_peak(Vec h, Acc peak, Acc least) {
  return larger(Vec{} + least, h - peak);
}

template <typename T>
constexpr typename Traits<T>::Acc least_finite() {
  return sizeof(typename Traits<T>::Acc) == 8 ? (typename Traits<T>::Acc)-__DBL_MAX__ : (typename Traits<T>::Acc)-__FLT_MAX__;
}

// Reads one map once more, writes its exp where wanted and returns the moments of what it weighs.
template <typename T, bool kExp, bool kWrite>
LDEQ_INLINE Moments weigh(const Maps& m, const T* map, T* heatmap, double beta_, typename Traits<T>::Acc peak, double* ties,
                          void* scratch) {
  using Acc = typename Traits<T>::Acc;
  using Vec = typename Traits<T>::Vec;
  constexpr int64_t L = Traits<T>::lanes;
  const Acc beta = (Acc)beta_, least = least_finite<T>();
  const int64_t padded = (m.width + L - 1) / L * L;
  double* columns = (double*)scratch;
  Acc* partial = (Acc*)(columns + padded);
  __builtin_memset(columns, 0, padded * sizeof(double));
  __builtin_memset(partial, 0, padded * sizeof(Acc));
  int64_t tied = 0;
  double* rows = (double*)(partial + padded);
  double total = 0, sy = 0;
  for (int64_t y = 0; y < m.height; ++y) {
    const T* row = map + y * m.width;
    Vec along = {};
    auto step = [&](int64_t x, int64_t count) __attribute__((always_inline)) {
      Vec v = count >= L ? load(row + x) : load_part(row + x, count, kExp ? (Acc)-__builtin_inf() : (Acc)0);
      if constexpr (kExp) {
        tied += count_equal(v, peak);
        v = vexp(beta * below_peak(v, peak, least));
        if (count < L)
          for (int64_t l = count; l < L; ++l) v[l] = 0;
        if constexpr (kWrite) {
          if (count >= L)
            store(heatmap + y * m.width + x, v);
          else
            store_part(heatmap + y * m.width + x, v, count);
        }
      }
      along += v;
      store(partial + x, load(partial + x) + v);
    };
    int64_t x = 0;
    for (; x + L <= m.width; x += L) step(x, L);
    if (x < m.width) step(x, m.width - x);
    rows[y] = sum(along);
    total += rows[y];
    sy += rows[y] * (double)y;
    if ((y + 1) % kRowsPerFlush == 0 || y + 1 == m.height) {
      for (int64_t i = 0; i < padded; ++i) {
        columns[i] += partial[i];
        partial[i] = 0;
      }
    }
  }
  Moments r;
  // The reference sums in the maps' precision and divides by that; all of this is in double, and then rounded once.
  r.total = total + m.eps;
  double sx = 0;
  for (int64_t x = 0; x < m.width; ++x) sx += columns[x] * (double)x;
  r.mass = total / r.total;
  r.mean_x = sx / r.total;
  r.mean_y = sy / r.total;
  double vx = 0, vy = 0;
  for (int64_t x = 0; x < m.width; ++x) {
    const double d = (double)x - r.mean_x;
    vx += columns[x] * d * d;
  }
  r.var_x = vx / r.total;
  for (int64_t y = 0; y < m.height; ++y) {
    const double d = (double)y - r.mean_y;
    vy += rows[y] * d * d;
  }
  r.var_y = vy / r.total;
  if (ties) *ties = (double)tied;
  return r;
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
    Acc peak = 0;
    double ties = 0;
    if (m.beta) {
      const double beta = m.beta[i % m.channels * m.beta_stride];
      peak = peak_of(map, count);
      r = a.heatmap ? weigh<T, true, true>(m, map, (T*)a.heatmap + i * count, beta, peak, &ties, scratch)
                    : weigh<T, true, false>(m, map, nullptr, beta, peak, &ties, scratch);
    } else {
      r = weigh<T, false, false>(m, map, nullptr, 0, 0, nullptr, scratch);
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

template <typename T, bool kExp, bool kHeat>
LDEQ_INLINE void backward_map(const MapsBackward& a, int64_t i, const Slope& s, void* scratch) {
  using Acc = typename Traits<T>::Acc;
  using Vec = typename Traits<T>::Vec;
  constexpr int64_t L = Traits<T>::lanes;
  const Maps& m = a.maps;
  const int64_t count = m.height * m.width;
  const double* stats = m.stats + i * kStats;
  const T* map = (const T*)m.in + i * count;
  const T* heat = kHeat ? (const T*)a.grad_heatmap + i * count : nullptr;
  T* out = (T*)a.grad_in + i * count;
  const Acc peak = (Acc)stats[kPeak], least = least_finite<T>();
  const Acc beta = kExp ? (Acc)m.beta[i % m.channels * m.beta_stride] : 1;
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
          Vec q = vexp(beta * below_peak(h, peak, least)) * (slope(y, x) + gh);
          for (int64_t l = n; l < L; ++l) q[l] = 0;
          along += q;
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
        const Vec below = below_peak(h, peak, least);
        q *= vexp(beta * below);
        if (learned) {
          Vec share = q * below;
          if (n < L)
            for (int64_t l = n; l < L; ++l) share[l] = 0;
          along += share;
        }
        q *= beta;
        q = h == peak ? q + at_peak : q;
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
    if (!m.beta)
      backward_map<T, false, false>(a, i, s, scratch);
    else if (a.grad_heatmap)
      backward_map<T, true, true>(a, i, s, scratch);
    else
      backward_map<T, true, false>(a, i, s, scratch);
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
