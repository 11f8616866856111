// The passes of an Anderson step over one tile of one sample. The formulas are those of ldeq/ops/solve_step/step.py.
#pragma once

#include "simd.h"

namespace ldeq::cpu::LDEQ_ISA {

// Elements whose newest g stays in the first-level cache while the older g stream past it.
constexpr int64_t kBlock = 1024;

// float64 where x is, float elsewhere: the type of x and of all arithmetic.
template <typename State>
using Work = typename Traits<State>::Acc;

// A sum of products in float64, whatever the vectors are of: squares of float overflow beyond 1e19, and vanish below 1e-23. The
// halves of a vector go to sums of their own.
template <typename Vec>
struct ProductSum {
  Doubles low = {}, high = {};

  LDEQ_INLINE_METHOD void add(Vec a, Vec b) {
    if constexpr (sizeof(a[0]) == sizeof(double)) {
      low += a * b;
    } else {
      low += low_half(a) * low_half(b);
      high += high_half(a) * high_half(b);
    }
  }
  LDEQ_INLINE_METHOD double total() const { return sum(low + high); }
};

// Products of b with several a, added to `sums` times `unit`. Side by side, the a hide each other's latency: the prefetcher of the
// hardware starts anew on every page, and a block is one. So do the terms of pass 2; with m = 6 each pass goes over its memory once.
template <typename G, int kAtOnce>
LDEQ_INLINE void dots(const void* const* others, int64_t start, const typename Traits<G>::Acc* b, int64_t count, double unit,
                      double* sums) {
  using Vec = typename Traits<G>::Vec;
  constexpr int64_t L = Traits<G>::lanes;
  const G* a[kAtOnce];
  Vec even[kAtOnce] = {}, odd[kAtOnce] = {};
  for (int k = 0; k < kAtOnce; ++k) a[k] = (const G*)others[k] + start;
  int64_t i = 0;
  for (; i + 2 * L <= count; i += 2 * L) {
    const Vec first = load(b + i), second = load(b + i + L);
    for (int k = 0; k < kAtOnce; ++k) {
      even[k] += load(a[k] + i) * first;
      odd[k] += load(a[k] + i + L) * second;
    }
  }
  for (; i < count; i += L) {
    const int64_t n = count - i;
    // b is padded with zeros up to a whole vector; a is not.
    for (int k = 0; k < kAtOnce; ++k) even[k] += (n >= L ? load(a[k] + i) : load_part(a[k] + i, n, 0)) * load(b + i);
  }
  for (int k = 0; k < kAtOnce; ++k) sums[k] += unit * sum(even[k] + odd[k]);
}

// Brings the `count` numbers of b, the sum of whose squares is `square`, near 1 if they are so large or small that float could not
// hold their products, and returns the unit they are then in: a power of two, so that nothing is rounded. The products with the
// older g need not be taken in float64 then, which would cost an Anderson step 7 % of its time.
template <typename W>
LDEQ_INLINE double normalise(W* b, int64_t count, double square) {
  if (sizeof(W) == sizeof(double)) return 1;
  const double mean = square / (double)count;
  if (!(mean > 0) || !(mean <= 0x1p256) || (mean >= 0x1p-80 && mean <= 0x1p80)) return 1;
  double unit = 1;
  while (mean < unit * unit && unit > 0x1p-120) unit *= 0.5;
  while (mean > unit * unit) unit *= 2;
  constexpr int64_t L = Traits<W>::lanes;
  const typename Traits<W>::Vec factor = typename Traits<W>::Vec{} + (W)(1 / unit);
  for (int64_t i = 0; i < count; i += L) store(b + i, load(b + i) * factor);
  return unit;
}

// Whether sums of squares in the vectors' own type are right to rounding: nothing that counts vanished, and nothing overflowed.
template <typename W>
LDEQ_INLINE bool squares_fit(double sum) {
  return sizeof(W) == sizeof(double) || (sum >= 1e-25 && sum <= 1e37);
}

// |f - x|^2 and |f|^2 of one block, added to `sums`, in float64; for the blocks alone whose sums in their own type do not fit.
template <typename State>
static void add_wide_squares(const State* f, const Work<State>* x, int64_t count, double* sums) {
  using Vec = typename Traits<State>::Vec;
  constexpr int64_t L = Traits<State>::lanes;
  ProductSum<Vec> gg, ff;
  for (int64_t i = 0; i < count; i += L) {
    const int64_t n = count - i;
    const Vec xv = n >= L ? load(x + i) : load_part(x + i, n, 0);
    const Vec fv = n >= L ? load(f + i) : load_part(f + i, n, 0);
    gg.add(fv - xv, fv - xv);
    ff.add(fv, fv);
  }
  sums[0] += gg.total();
  sums[1] += ff.total();
}

// |v|^2 of one block that is padded to whole vectors, in float64.
template <typename W>
LDEQ_INLINE double wide_square(const W* v, int64_t count) {
  ProductSum<typename Traits<W>::Vec> square;
  for (int64_t i = 0; i < count; i += Traits<W>::lanes) square.add(load(v + i), load(v + i));
  return square.total();
}

// Pass 1: g = f - x, its store, its products with the older g, and the norms of f and g.
template <typename State, typename G>
static void measure_of(const Tile& t) {
  using W = Work<State>;
  using Vec = typename Traits<State>::Vec;
  constexpr int64_t L = Traits<State>::lanes;
  static_assert(L == Traits<G>::lanes, "float64 states keep a float64 history");
  const State* f = (const State*)t.f;
  const W* x = (const W*)t.x;
  G* g = (G*)t.g;
  for (int i = 0; i < t.n + 3; ++i) t.sums[i] = 0;
  for (int64_t start = 0; start < t.count; start += kBlock) {
    const int64_t count = t.count - start < kBlock ? t.count - start : kBlock;
    W fresh[kBlock];  // the newest g as it is stored
    Vec gg = {}, ff = {}, stored = {};
    auto step = [&](int64_t i, int64_t n) __attribute__((always_inline)) {
      const Vec fv = n >= L ? load(f + start + i) : load_part(f + start + i, n, 0);
      const Vec xv = n >= L ? load(x + start + i) : load_part(x + start + i, n, 0);
      Vec gv = fv - xv;
      gg += gv * gv;
      ff += fv * fv;
      if (g) {
        if (n >= L)
          store(g + start + i, gv);
        else
          store_part(g + start + i, gv, n);
        if constexpr (sizeof(G) != sizeof(W)) {
          // What the ring holds is what the mixing will use: the Gram row is that of the rounded numbers.
          G rounded[L];
          store(rounded, gv);
          gv = load(rounded);
          stored += gv * gv;
        }
        store(fresh + i, gv);
      }
    };
    int64_t i = 0;
    for (; i + L <= count; i += L) step(i, L);
    if (i < count) step(i, count - i);
    const double norm = sum(gg), size = sum(ff);
    double square = sizeof(G) != sizeof(W) ? sum(stored) : norm;
    if (squares_fit<W>(norm) && squares_fit<W>(size) && squares_fit<W>(square)) {
      t.sums[0] += norm;
      t.sums[1] += size;
    } else {
      add_wide_squares(f + start, x + start, count, t.sums);
      square = g ? wide_square(fresh, count) : 0;
    }
    t.sums[2] += square;
    if (g) {
      double* const products = t.sums + 3;
      const double unit = normalise(fresh, count, square);
      int k = 0;
      for (; k + 5 <= t.n; k += 5) dots<G, 5>(t.others + k, start, fresh, count, unit, products + k);
      switch (t.n - k) {
        case 4: dots<G, 4>(t.others + k, start, fresh, count, unit, products + k); break;
        case 3: dots<G, 3>(t.others + k, start, fresh, count, unit, products + k); break;
        case 2: dots<G, 2>(t.others + k, start, fresh, count, unit, products + k); break;
        case 1: dots<G, 1>(t.others + k, start, fresh, count, unit, products + k);
      }
    }
  }
}

// Pass 2: x_next = sum alpha_i (f_i - (1 - beta) g_i).
template <typename State, typename G, int kAtOnce, bool kDamped>
LDEQ_INLINE void mix_block(const Tile& t, int first, int64_t start, int64_t count, Work<State>* total, bool more) {
  using W = Work<State>;
  using Vec = typename Traits<State>::Vec;
  constexpr int64_t L = Traits<State>::lanes;
  const State* f[kAtOnce];
  const G* g[kAtOnce];
  W alpha[kAtOnce];
  for (int k = 0; k < kAtOnce; ++k) {
    f[k] = (const State*)t.others[first + k] + start;
    g[k] = kDamped ? (const G*)t.others_g[first + k] + start : nullptr;
    alpha[k] = (W)t.alpha[first + k];
  }
  const W damping = (W)t.damping;
  for (int64_t i = 0; i < count; i += L) {
    const int64_t n = count - i;
    Vec s = more ? load(total + i) : Vec{};
    for (int k = 0; k < kAtOnce; ++k) {
      Vec v = n >= L ? load(f[k] + i) : load_part(f[k] + i, n, 0);
      if constexpr (kDamped) v -= damping * (n >= L ? load(g[k] + i) : load_part(g[k] + i, n, 0));
      s += alpha[k] * v;
    }
    store(total + i, s);
  }
}

template <typename State>
LDEQ_INLINE void put(const Tile& t, int64_t at, typename Traits<State>::Vec v, int64_t n) {
  constexpr int64_t L = Traits<State>::lanes;
  using W = Work<State>;
  W* x = (W*)t.x_next;
  State* cast = (State*)t.x_cast;
  if (n >= L) {
    store(x + at, v);
    if (cast) store(cast + at, v);
  } else {
    store_part(x + at, v, n);
    if (cast) store_part(cast + at, v, n);
  }
}

template <typename State, typename G, bool kDamped>
static void mix_with(const Tile& t) {
  constexpr int64_t L = Traits<State>::lanes;
  for (int64_t start = 0; start < t.count; start += kBlock) {
    const int64_t count = t.count - start < kBlock ? t.count - start : kBlock;
    Work<State> total[kBlock];
    int k = 0;
    for (; k + 6 <= t.n; k += 6) mix_block<State, G, 6, kDamped>(t, k, start, count, total, k > 0);
    switch (t.n - k) {
      case 5: mix_block<State, G, 5, kDamped>(t, k, start, count, total, k > 0); break;
      case 4: mix_block<State, G, 4, kDamped>(t, k, start, count, total, k > 0); break;
      case 3: mix_block<State, G, 3, kDamped>(t, k, start, count, total, k > 0); break;
      case 2: mix_block<State, G, 2, kDamped>(t, k, start, count, total, k > 0); break;
      case 1: mix_block<State, G, 1, kDamped>(t, k, start, count, total, k > 0);
    }
    for (int64_t i = 0; i < count; i += L) put<State>(t, start + i, load(total + i), count - i);
  }
}

template <typename State, typename G>
static void mix_of(const Tile& t) {
  if (t.damping != 0)
    mix_with<State, G, true>(t);
  else
    mix_with<State, G, false>(t);
}

// Fixed-point step: the norms, and x + beta (f - x), from one reading. Without f, x_next is x.
template <typename State>
static void move_of(const Tile& t) {
  using W = Work<State>;
  using Vec = typename Traits<State>::Vec;
  constexpr int64_t L = Traits<State>::lanes;
  const State* f = (const State*)t.f;
  const W* x = (const W*)t.x;
  const W beta = (W)(1 - t.damping);
  t.sums[0] = t.sums[1] = 0;
  for (int64_t start = 0; start < t.count; start += kBlock) {
    const int64_t count = t.count - start < kBlock ? t.count - start : kBlock;
    Vec gg = {}, ff = {};
    for (int64_t i = 0; i < count; i += L) {
      const int64_t n = count - i;
      const Vec xv = n >= L ? load(x + start + i) : load_part(x + start + i, n, 0);
      const Vec fv = !f ? xv : n >= L ? load(f + start + i) : load_part(f + start + i, n, 0);
      const Vec gv = fv - xv;
      gg += gv * gv;
      ff += fv * fv;
      if (t.x_next) put<State>(t, start + i, t.damping != 0 ? xv + beta * gv : fv, n);
    }
    const double square = sum(gg), size = sum(ff);
    if (f && !(squares_fit<W>(square) && squares_fit<W>(size))) {
      add_wide_squares(f + start, x + start, count, t.sums);
    } else {
      t.sums[0] += square;
      t.sums[1] += size;
    }
  }
}

static void measure(const Tile& t) {
  const bool half = t.history == Type::bf16;
  switch (t.state) {
    case Type::f32: return half ? measure_of<float, Bf16>(t) : measure_of<float, float>(t);
    case Type::f64: return measure_of<double, double>(t);
    case Type::bf16: return half ? measure_of<Bf16, Bf16>(t) : measure_of<Bf16, float>(t);
    case Type::f16: return half ? measure_of<Fp16, Bf16>(t) : measure_of<Fp16, float>(t);
  }
}

static void mix(const Tile& t) {
  const bool half = t.history == Type::bf16;
  switch (t.state) {
    case Type::f32: return half ? mix_of<float, Bf16>(t) : mix_of<float, float>(t);
    case Type::f64: return mix_of<double, double>(t);
    case Type::bf16: return half ? mix_of<Bf16, Bf16>(t) : mix_of<Bf16, float>(t);
    case Type::f16: return half ? mix_of<Fp16, Bf16>(t) : mix_of<Fp16, float>(t);
  }
}

static void move(const Tile& t) {
  switch (t.state) {
    case Type::f32: return move_of<float>(t);
    case Type::f64: return move_of<double>(t);
    case Type::bf16: return move_of<Bf16>(t);
    case Type::f16: return move_of<Fp16>(t);
  }
}

}  // namespace ldeq::cpu::LDEQ_ISA
