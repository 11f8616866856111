// Heatmap soft-argmax and its readout, backward.
//
// With p = z / T, T = sum z + eps, and L the loss, the gradient of the readout by z is, centred on the means (mx, my) so that
// nothing cancels, and with r = eps / T the weight that eps takes away:
//
//   dL/dz = (a r + bx (X - mx) + by (Y - my) + v ((X - mx)^2 + (Y - my)^2 - var_x - var_y)) / T,
//   a = gx offset_x + gy offset_y,  bx = gx scale_x - 2 v mx r,  by likewise,  v = g_std scale_x / (4 sqrt((var_x + var_y) / 2)).
//
// Through z = exp(beta (h - max h)) it becomes dL/dh = beta z dL/dz, less the sum of it shared by the pixels at the max. What the
// readout adds to that sum is known without summing: beta r q, q = sum p dL/dp. Summed up, its terms would cancel, and leave
// their rounding (1e-3 of the largest gradient was seen coming for flat maps) on the max alone.
#pragma once

#include "softargmax.cuh"

namespace ldeq {

template <typename T>
struct SoftargmaxBackward {
  using A = Accumulate<T>;
  Maps maps;
  Axes<A> axes;
  const double* beta;
  int beta_stride;
  const T* logits;        // unused where kNormalise is false
  const double* stats;    // of the forward pass
  const T* grad_heatmap;  // (maps, height, width), or null
  const A* grad_xy;       // (maps, 2), or null
  const A* grad_std;      // (maps), or null
  T* grad_input;          // (maps, height, width)
  double* grad_beta;      // (maps), each map's part, or null
};

// dL/dz of one map's readout as a function of the place.
template <typename T>
struct ReadoutGradient {
  using A = Accumulate<T>;
  A mean_x, mean_y, constant, slope_x, slope_y, square;
  A sum;  // of z dL/dz over the map

  __device__ __forceinline__ ReadoutGradient(const SoftargmaxBackward<T>& p, int64_t map) {
    const double* const stats = p.stats + map * kStats;
    mean_x = static_cast<A>(stats[kMeanX]);
    mean_y = static_cast<A>(stats[kMeanY]);
    const A total = static_cast<A>(stats[kTotal]), lost = static_cast<A>(1 - stats[kMass]);
    const A grad_x = p.grad_xy == nullptr ? A(0) : p.grad_xy[2 * map];
    const A grad_y = p.grad_xy == nullptr ? A(0) : p.grad_xy[2 * map + 1];
    const A grad_std = p.grad_std == nullptr ? A(0) : p.grad_std[map];
    const A variance = static_cast<A>(stats[kVariance]);
    // As the reference: where the variance is 0, std is the variance itself.
    const A v = grad_std * p.axes.scale_x * (variance > 0 ? 1 / (4 * root(variance)) : A(0.5));
    slope_x = (grad_x * p.axes.scale_x - 2 * v * mean_x * lost) / total;
    slope_y = (grad_y * p.axes.scale_y - 2 * v * mean_y * lost) / total;
    square = v / total;
    const A a = grad_x * p.axes.offset_x + grad_y * p.axes.offset_y, spread = 2 * variance;
    constant = a * lost / total - square * spread;
    const A q = a * (1 - lost) + grad_x * p.axes.scale_x * mean_x + grad_y * p.axes.scale_y * mean_y +
                v * (spread - 2 * lost * (mean_x * mean_x + mean_y * mean_y));
    // A map with a +inf has no pixel that passes a gradient on, and a sum of 0.
    sum = total == total ? lost * q : A(0);
  }

  __device__ __forceinline__ A operator()(A column, A row) const {
    const A dx = column - mean_x, dy = row - mean_y;
    return constant + slope_x * dx + slope_y * dy + square * (dx * dx + dy * dy);
  }
};

// Needs the same kThreads, kItems and kVec rules as the forward pass. Without kItems the maps are read twice.
template <typename T, int kThreads, int kItems, int kVec>
__global__ void __launch_bounds__(kThreads, 1) softargmax_backward(const SoftargmaxBackward<T> p) {
  using A = Accumulate<T>;
  using Shared = Exchange<A, kThreads, 2>;
  LDEQ_SHARED(Shared, exchange);
  const int64_t map = blockIdx.x;
  Pixels<T, kThreads, kItems, kVec> pixels(p.maps, p.logits + map_offset(p.maps, map));
  const ReadoutGradient<T> gradient(p, map);
  const A beta = static_cast<A>(p.beta[map % p.maps.channels * p.beta_stride]);
  const A peak = static_cast<A>(p.stats[map * kStats + kPeak]), ties = static_cast<A>(p.stats[map * kStats + kTies]);
  const T* const grad_heatmap = p.grad_heatmap == nullptr ? nullptr : p.grad_heatmap + map * pixels.count;

  // dL/dh but for the share of the max; held values are replaced by it, and `at_peak` remembers what they were.
  uint32_t at_peak = 0;
  static_assert(kItems <= 32, "one bit an item");
  A sums[2] = {0, 0};  // of what `grad_heatmap` adds to dL/dh, and of dL/dbeta
  const auto local = [&](A(&values)[kVec], int first, A(&grads)[kVec], bool add) {
    int row = row_of(p.maps, first), column = first - row * p.maps.width;
    A extra[kVec];
#pragma unroll
    for (int j = 0; j < kVec; ++j) extra[j] = 0;
    if (grad_heatmap != nullptr) load<kVec>(grad_heatmap + first, extra);
#pragma unroll
    for (int j = 0; j < kVec; ++j) {
      const A below = below_peak<T>(values[j], peak);
      const A z = exponential(beta * below);
      const A dz = z * (gradient(static_cast<A>(column), static_cast<A>(row)) + extra[j]);
      // A pixel below the range (masked with -inf) or a NaN takes no gradient of its own, as through clamp_min.
      const bool in_range = values[j] - peak >= -Element<T>::kLargest;
      const A dh = in_range ? beta * dz : A(0);
      if (add) {
        sums[0] += in_range ? z * extra[j] : A(0);
        sums[1] += dz * below;
      }
      grads[j] = dh;
      if (++column == p.maps.width) column = 0, ++row;
    }
  };

  int bit = 0;
  pixels.visit([&](A(&values)[kVec], int first) {
    A grads[kVec];
    local(values, first, grads, true);
    if constexpr (kItems > 0) {
#pragma unroll
      for (int j = 0; j < kVec; ++j) {
        at_peak |= (values[j] == peak ? 1u : 0u) << (bit + j);
        values[j] = grads[j];
      }
      bit += kVec;
    }
  });
  reduce_block<kThreads>(sums, Sum(), exchange, 0);

  // No pixel equals a NaN: the map's whole gradient is NaN then, as 0 / 0 in the reference.
  const A share = -beta * (sums[0] + gradient.sum) / ties, elsewhere = ties > 0 ? A(0) : A(NAN);
  T* const out = p.grad_input + map * pixels.count;
  bit = 0;
  pixels.visit([&](A(&values)[kVec], int first) {
    A grads[kVec];
    if constexpr (kItems > 0) {
#pragma unroll
      for (int j = 0; j < kVec; ++j) grads[j] = values[j] + (at_peak >> (bit + j) & 1u ? share : elsewhere);
      bit += kVec;
    } else {
      local(values, first, grads, false);
#pragma unroll
      for (int j = 0; j < kVec; ++j) grads[j] += values[j] == peak ? share : elsewhere;
    }
    store<kVec>(out + first, grads);
  });
  if (threadIdx.x == 0 && p.grad_beta != nullptr) p.grad_beta[map] = sums[1];
}

// The readout's gradient does not depend on the heatmap: nothing but `grad_input` is touched.
template <typename T, int kThreads, int kVec>
__global__ void __launch_bounds__(kThreads, 1) readout_backward(const SoftargmaxBackward<T> p) {
  using A = Accumulate<T>;
  const int64_t map = blockIdx.x;
  const int count = p.maps.height * p.maps.width;
  const ReadoutGradient<T> gradient(p, map);
  T* const out = p.grad_input + map * count;
  for (int first = static_cast<int>(threadIdx.x) * kVec; first < count; first += kThreads * kVec) {
    int row = row_of(p.maps, first), column = first - row * p.maps.width;
    A grads[kVec];
#pragma unroll
    for (int j = 0; j < kVec; ++j) {
      grads[j] = gradient(static_cast<A>(column), static_cast<A>(row));
      if (++column == p.maps.width) column = 0, ++row;
    }
    store<kVec>(out + first, grads);
  }
}

}  // namespace ldeq
