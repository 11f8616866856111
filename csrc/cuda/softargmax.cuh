// Heatmap soft-argmax and its readout, forward. The formulas and names are those of ldeq/ops/softargmax.py.
//
// One block a map. Maps of up to kThreads * kItems pixels are held in registers: one read. Bigger ones are read three times.
#pragma once

#include "../layout.h"
#include "block.cuh"

namespace ldeq {

// Pixel (row, column) lies at scale * index + offset in the chosen coordinates.
template <typename A>
struct Axes {
  A scale_x, offset_x, scale_y, offset_y;
};

// Strides are in elements; `vectors` says that a map is dense and that 16-byte accesses are aligned.
struct Maps {
  int64_t stride_batch, stride_channel, stride_row, stride_column;
  int channels, height, width;
  uint64_t magic;  // see `division_magic`
};

// A map's pixel is divided by the width by multiplication and shift, which is exact for `divisible` maps (up to 10,321 x 10,321).
constexpr int kDivisionShift = 40;
inline uint64_t division_magic(int64_t width) { return ((uint64_t{1} << kDivisionShift) + width - 1) / width; }
inline bool divisible(int64_t height, int64_t width) {
  // Pixels, and products with the magic number of 2^40 / width, stay within their types.
  const bool small = height < int64_t{1} << 23 && width < int64_t{1} << 30 && height * width <= int64_t{1} << 30;
  return small && height * width * width <= int64_t{1} << kDivisionShift;
}

template <typename T>
struct SoftargmaxForward {
  using A = Accumulate<T>;
  Maps maps;
  Axes<A> axes;
  A eps;
  const double* beta;  // (channels) or (1), see beta_stride
  int beta_stride;   // 1 for a beta of each channel, else 0
  const T* input;    // logits, or heatmaps where kNormalise is false
  T* heatmap;        // (maps, height, width), or null
  A* xy;             // (maps, 2)
  A* std;            // (maps)
  double* stats;     // (maps, kStats)
};

__device__ __forceinline__ int row_of(const Maps& maps, int pixel) {
  return static_cast<int>((pixel * maps.magic) >> kDivisionShift);
}

// Offset of a map's first element.
__device__ __forceinline__ int64_t map_offset(const Maps& maps, int64_t map) {
  return map / maps.channels * maps.stride_batch + map % maps.channels * maps.stride_channel;
}

// z of one logit. A NaN stays one; -inf below any max gives 0 and not 0 x inf.
template <typename T>
__device__ __forceinline__ Accumulate<T> below_peak(Accumulate<T> logit, Accumulate<T> peak) {
  const auto below = logit - peak;
  return below < -Element<T>::kLargest ? -Element<T>::kLargest : below;
}

// This thread's pixels of a map, kVec at a time: body(values, first pixel, row, column of the first).
// The values are kept between visits where they fit (kItems > 0), and loaded anew otherwise.
template <typename T, int kThreads, int kItems, int kVec>
struct Pixels {
  using A = Accumulate<T>;
  static constexpr bool kHeld = kItems > 0;
  static constexpr int kRounds = kHeld ? kItems / kVec : 1;
  static_assert(kItems % kVec == 0, "whole vectors");

  const Maps& maps;
  const T* map;
  const int count;  // pixels
  A held[kRounds][kVec];

  __device__ __forceinline__ Pixels(const Maps& maps, const T* map)
      : maps(maps), map(map), count(maps.height * maps.width) {
    if constexpr (kHeld) {
#pragma unroll
      for (int r = 0; r < kRounds; ++r) {
        const int first = (r * kThreads + static_cast<int>(threadIdx.x)) * kVec;
        if (first < count) fetch(first, held[r]);
      }
    }
  }

  __device__ __forceinline__ void fetch(int first, A (&to)[kVec]) const {
    if constexpr (kVec > 1) {
      load<kVec>(map + first, to);
    } else {
      const int row = row_of(maps, first);
      to[0] = Element<T>::load(map[row * maps.stride_row + (first - row * maps.width) * maps.stride_column]);
    }
  }

  template <typename Body>
  __device__ __forceinline__ void visit(Body body) {
    if constexpr (kHeld) {
#pragma unroll
      for (int r = 0; r < kRounds; ++r) {
        const int first = (r * kThreads + static_cast<int>(threadIdx.x)) * kVec;
        if (first < count) body(held[r], first);
      }
    } else {
      // Two doubles take the registers of four floats: unrolled, the loop spills on some architectures.
#pragma unroll(sizeof(T) == 8 ? 1 : 4)
      for (int first = static_cast<int>(threadIdx.x) * kVec; first < count; first += kThreads * kVec) {
        fetch(first, held[0]);
        body(held[0], first);
      }
    }
  }

  // As `visit`, pixel by pixel: body(value, column, row).
  template <typename Body>
  __device__ __forceinline__ void visit_places(Body body) {
    visit([&](A(&values)[kVec], int first) {
      int row = row_of(maps, first), column = first - row * maps.width;
#pragma unroll
      for (int j = 0; j < kVec; ++j) {
        body(values[j], static_cast<A>(column), static_cast<A>(row));
        if (++column == maps.width) column = 0, ++row;
      }
    });
  }
};

// kItems 0 selects the path for maps that do not fit. kNormalise false reads maps that are normalised already.
template <typename T, int kThreads, int kItems, int kVec, bool kNormalise>
__global__ void __launch_bounds__(kThreads, 1) softargmax_forward(const SoftargmaxForward<T> p) {
  using A = Accumulate<T>;
  using Shared = Exchange<A, kThreads, 4>;
  LDEQ_SHARED(Shared, exchange);
  const int64_t map = blockIdx.x;
  Pixels<T, kThreads, kItems, kVec> pixels(p.maps, p.input + map_offset(p.maps, map));

  A peak[1] = {-INFINITY};
  A beta = 1;
  if constexpr (kNormalise) {
    beta = static_cast<A>(p.beta[map % p.maps.channels * p.beta_stride]);
    pixels.visit([&](A(&values)[kVec], int) {
#pragma unroll
      for (int j = 0; j < kVec; ++j) peak[0] = Max()(peak[0], values[j]);
    });
    reduce_block<kThreads>(peak, Max(), exchange, 0);
  }
  const A highest = peak[0];
  if (!kNormalise || highest == -INFINITY) peak[0] = 0;

  // sum z, sum z x, sum z y, pixels at the max.
  A sums[4] = {0, 0, 0, 0};
  T* const out = p.heatmap == nullptr ? nullptr : p.heatmap + map * pixels.count;
  pixels.visit([&](A(&values)[kVec], int first) {
    int row = row_of(p.maps, first), column = first - row * p.maps.width;
    A z[kVec];
#pragma unroll
    for (int j = 0; j < kVec; ++j) {
      z[j] = values[j];
      if constexpr (kNormalise) {
        z[j] = exponential(beta * below_peak<T>(values[j], peak[0]));
        sums[3] += values[j] == highest ? A(1) : A(0);
        if constexpr (kItems > 0) values[j] = z[j];
      }
      sums[0] += z[j];
      sums[1] += z[j] * static_cast<A>(column);
      sums[2] += z[j] * static_cast<A>(row);
      if (++column == p.maps.width) column = 0, ++row;
    }
    if (kNormalise && out != nullptr) store<kVec>(out + first, z);
  });
  reduce_block<kThreads>(sums, Sum(), exchange, 1);
  const A total = sums[0] + p.eps, mean_x = sums[1] / total, mean_y = sums[2] / total;

  // About the mean and not from raw moments, which cancel for narrow peaks far from the origin.
  A squares[2] = {0, 0};
  pixels.visit_places([&](A value, A column, A row) {
    A z = value;
    if constexpr (kNormalise && kItems == 0) z = exponential(beta * below_peak<T>(value, peak[0]));
    squares[0] += z * ((column - mean_x) * (column - mean_x));
    squares[1] += z * ((row - mean_y) * (row - mean_y));
  });
  reduce_block<kThreads>(squares, Sum(), exchange, 0);

  if (threadIdx.x == 0) {
    const A mass = sums[0] / total, variance = (squares[0] / total + squares[1] / total) / 2;
    p.xy[2 * map] = mean_x * p.axes.scale_x + mass * p.axes.offset_x;
    p.xy[2 * map + 1] = mean_y * p.axes.scale_y + mass * p.axes.offset_y;
    p.std[map] = (variance > 0 ? root(variance) : variance) * p.axes.scale_x;
    double* const stats = p.stats + map * kStats;
    stats[kPeak] = peak[0];
    stats[kTies] = sums[3];
    stats[kTotal] = total;
    // Its distance from 1 is what counts, and in float that would be rounding.
    stats[kMass] = 1 - static_cast<double>(p.eps / total);
    stats[kMeanX] = mean_x;
    stats[kMeanY] = mean_y;
    stats[kVariance] = variance;
    stats[kStats - 1] = 0;
  }
}

}  // namespace ldeq
