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
  const double* betas;
  int beta_stride;
  double beta;
  const T* logits;        // unused where kNormalise is false
  const double* stats;    // of the forward pass
  const T* grad_heatmap;  // (maps, height, width), or null
  const A* grad_xy;       // (maps, 2), or null
  const A* grad_std;      // (maps), or null
  T* grad_input;          // (maps, height, width)
  double* grad_betas;     // (maps), each map's part, or null
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

  // What a row's pixels share.
  __device__ __forceinline__ A of_row(int row) const {
    const A dy = static_cast<A>(row) - mean_y;
    return constant + dy * (slope_y + square * dy);
  }

  // dx: column less mean_x.
  __device__ __forceinline__ A operator()(A of_row, A dx) const { return of_row + dx * (slope_x + square * dx); }
};

// Needs the same rules of kThreads, kItems, kVec and kWhole as the forward pass. Without kItems the maps are read twice.
template <typename T, int kThreads, int kItems, int kVec, bool kWhole>
__global__ void __launch_bounds__(kThreads, 1) softargmax_backward(const SoftargmaxBackward<T> p) {
  using A = Accumulate<T>;
  using Shared = Exchange<A, kThreads, 2>;
  LDEQ_SHARED(Shared, exchange);
  const MapIndex index(p.maps);
  const int64_t map = index.map;
  Pixels<T, kThreads, kItems, kVec, kWhole> pixels(p.maps, p.logits + index.offset);
  const T* const grad_heatmap = p.grad_heatmap == nullptr ? nullptr : p.grad_heatmap + map * pixels.count;
  // Asked for with the logits where they are held, and not one by one when they are needed.
  Packed<T, kVec> extras[pixels.kRounds];
  if constexpr (kItems > 0) {
    if (grad_heatmap != nullptr) pixels.each([&](int first, int round) { extras[round].load(grad_heatmap + first); });
  }
  const ReadoutGradient<T> gradient(p, map);
  const double own = p.betas == nullptr ? p.beta : p.betas[index.channel * p.beta_stride];
  const A beta = static_cast<A>(own), rate = static_cast<A>(own * kLog2E);
  const A peak = static_cast<A>(p.stats[map * kStats + kPeak]), ties = static_cast<A>(p.stats[map * kStats + kTies]);

  // dL/dh but for the share of the max; held values are replaced by it, and `at_peak` remembers what they were.
  uint32_t at_peak = 0;
  static_assert(kItems <= 32, "one bit an item");
  A sums[2] = {0, 0};  // of what `grad_heatmap` adds to dL/dh, and of dL/dbeta
  const auto local = [&](A(&values)[kVec], int first, int row, int column, int round, A(&grads)[kVec], bool add) {
    const A of_row = gradient.of_row(row), dx = static_cast<A>(column) - gradient.mean_x;
    A extra[kVec];
#pragma unroll
    for (int j = 0; j < kVec; ++j) extra[j] = 0;
    if (grad_heatmap != nullptr) {
      if constexpr (kItems == 0) extras[round].load(grad_heatmap + first);
      extras[round].unpack(extra);
    }
#pragma unroll
    for (int j = 0; j < kVec; ++j) {
      const A below = below_peak<T>(values[j], peak);
      const A z = power_of_two(rate * below);
      const A dz = z * (gradient(of_row, dx + A(j)) + extra[j]);
      // A pixel below the range (masked with -inf) or a NaN takes no gradient of its own, as through clamp_min.
      const bool in_range = values[j] - peak >= -Element<T>::kLargest;
      const A dh = in_range ? beta * dz : A(0);
      if (add) {
        sums[0] += in_range ? z * extra[j] : A(0);
        sums[1] += dz * below;
      }
      grads[j] = dh;
    }
  };

  pixels.visit([&](A(&values)[kVec], int first, int row, int column, int round) {
    A grads[kVec];
    local(values, first, row, column, round, grads, true);
    if constexpr (kItems > 0) {
#pragma unroll
      for (int j = 0; j < kVec; ++j) {
        at_peak |= (values[j] == peak ? 1u : 0u) << (round * kVec + j);
        values[j] = grads[j];
      }
    }
  });
  reduce_block<kThreads>(sums, Sum(), exchange, 0);

  // No pixel equals a NaN: the map's whole gradient is NaN then, as 0 / 0 in the reference.
  const A share = -beta * (sums[0] + gradient.sum) / ties, elsewhere = ties > 0 ? A(0) : A(NAN);
  T* const out = p.grad_input + map * pixels.count;
  pixels.visit([&](A(&values)[kVec], int first, int row, int column, int round) {
    A grads[kVec];
    if constexpr (kItems > 0) {
#pragma unroll
      for (int j = 0; j < kVec; ++j) grads[j] = values[j] + (at_peak >> (round * kVec + j) & 1u ? share : elsewhere);
    } else {
      local(values, first, row, column, round, grads, false);
#pragma unroll
      for (int j = 0; j < kVec; ++j) grads[j] += values[j] == peak ? share : elsewhere;
    }
    store<kVec>(out + first, grads);
  });
  if (threadIdx.x == 0 && p.grad_betas != nullptr) p.grad_betas[map] = sums[1];
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
    const int row = row_of(p.maps, first);
    const A of_row = gradient.of_row(row), dx = static_cast<A>(first - row * p.maps.width) - gradient.mean_x;
    A grads[kVec];
#pragma unroll
    for (int j = 0; j < kVec; ++j) grads[j] = gradient(of_row, dx + A(j));
    store<kVec>(out + first, grads);
  }
}

}  // namespace ldeq
