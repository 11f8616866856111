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

// Strides are in elements.
struct Maps {
  int64_t stride_batch, stride_channel, stride_row, stride_column;
  int channels, height, width;
  uint64_t magic;  // see `division_magic`
  uint32_t short_magic;
};

// A map's pixel is divided by the width by multiplication and shift, which is exact for `divisible` maps (up to 10,321 x 10,321);
// with 32 bits it is for those of up to 2^16 pixels and two columns at least.
constexpr int kDivisionShift = 40;
inline uint64_t division_magic(int64_t width) { return ((uint64_t{1} << kDivisionShift) + width - 1) / width; }
inline uint32_t short_division_magic(int64_t width) { return width > 1 ? static_cast<uint32_t>((uint64_t{1} << 32) / width + 1) : 0; }
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
  const double* betas;  // (channels) or (1), see beta_stride; null where `beta` is that of all
  int beta_stride;   // 1 for a beta of each channel, else 0
  double beta;
  const T* input;    // logits, or heatmaps where kNormalise is false
  T* heatmap;        // (maps, height, width), or null
  A* xy;             // (maps, 2)
  A* std;            // (maps)
  double* stats;     // (maps, kStats)
};

__device__ __forceinline__ int row_of(const Maps& maps, int pixel) {
  return static_cast<int>((static_cast<uint32_t>(pixel) * maps.magic) >> kDivisionShift);
}

__device__ __forceinline__ int row_of_small(const Maps& maps, int pixel) {
  return static_cast<int>(__umulhi(static_cast<uint32_t>(pixel), maps.short_magic));
}

// The map of this block.
struct MapIndex {
  int64_t map;
  int channel;
  int64_t offset;  // of its first element

  __device__ __forceinline__ explicit MapIndex(const Maps& maps) : map(blockIdx.x) {
    const unsigned sample = blockIdx.x / static_cast<unsigned>(maps.channels);
    channel = static_cast<int>(blockIdx.x - sample * maps.channels);
    offset = sample * maps.stride_batch + channel * maps.stride_channel;
  }
};

// A logit less the max. A NaN stays one; -inf below any max is the lowest number: its z is 0 and not 0 x inf.
template <typename T>
__device__ __forceinline__ Accumulate<T> below_peak(Accumulate<T> logit, Accumulate<T> peak) {
  return greater(logit - peak, -static_cast<Accumulate<T>>(Element<T>::kLargest));
}

// This thread's pixels of a map, kVec at a time: body(values, first pixel, row, column of the first, number of the round).
// The values are kept between visits where they fit (kItems > 0), and loaded anew otherwise. A vector lies in one row. kWhole: the map
// has kThreads * kItems pixels, and a round of all threads is whole rows, so that a thread stays in its columns: no bounds, and one
// division.
template <typename T, int kThreads, int kItems, int kVec, bool kWhole>
struct Pixels {
  using A = Accumulate<T>;
  static constexpr bool kHeld = kItems > 0;
  static constexpr int kRounds = kHeld ? kItems / kVec : 1;
  static_assert(kItems % kVec == 0, "whole vectors");
  static_assert(kHeld || !kWhole, "whole maps are held");

  const Maps& maps;
  const T* map;
  const int count;  // pixels
  A held[kRounds][kVec];

  __device__ __forceinline__ Pixels(const Maps& maps, const T* map)
      : maps(maps), map(map), count(kWhole ? kThreads * kItems : maps.height * maps.width) {
    if constexpr (kHeld) {
      Packed<T, kVec> packed[kRounds];
      each([&](int first, int round) { packed[round].load(at(first)); });
      each([&](int, int round) { packed[round].unpack(held[round]); });
    }
  }

  // body(first pixel, number of the round), without values, for maps that are held.
  template <typename Body>
  __device__ __forceinline__ void each(Body body) const {
#pragma unroll
    for (int r = 0; r < kRounds; ++r) {
      const int first = (r * kThreads + static_cast<int>(threadIdx.x)) * kVec;
      if (kWhole || first < count) body(first, r);
    }
  }

  // Where a vector starts in memory.
  __device__ __forceinline__ const T* at(int first) const {
    if constexpr (kVec > 1) return map + first;
    const int row = row_of(maps, first);
    return map + row * maps.stride_row + (first - row * maps.width) * maps.stride_column;
  }

  template <typename Body>
  __device__ __forceinline__ void visit(Body body) {
    if constexpr (kWhole) {
      const int start = static_cast<int>(threadIdx.x) * kVec, row = row_of_small(maps, start), column = start - row * maps.width;
      const int rows = row_of_small(maps, kThreads * kVec);
      each([&](int first, int r) { body(held[r], first, row + r * rows, column, r); });
    } else if constexpr (kHeld) {
      each([&](int first, int r) { call(body, held[r], first, r); });
    } else {
      // Two doubles take the registers of four floats: unrolled, the loop spills on some architectures.
#pragma unroll(sizeof(T) == 8 ? 1 : 4)
      for (int first = static_cast<int>(threadIdx.x) * kVec; first < count; first += kThreads * kVec) {
        load<kVec>(at(first), held[0]);
        call(body, held[0], first, 0);
      }
    }
  }

  template <typename Body>
  __device__ __forceinline__ void call(Body body, A (&values)[kVec], int first, int round) {
    // A vector takes two columns, and what is held is small.
    const int row = kVec > 1 && kHeld ? row_of_small(maps, first) : row_of(maps, first);
    body(values, first, row, first - row * maps.width, round);
  }
};

// kItems 0 selects the path for maps that do not fit. kNormalise false reads maps that are normalised already.
template <typename T, int kThreads, int kItems, int kVec, bool kNormalise, bool kWhole>
__global__ void __launch_bounds__(kThreads, kWhole ? 7 : 1) softargmax_forward(const SoftargmaxForward<T> p) {
  using A = Accumulate<T>;
  using Shared = Exchange<A, kThreads, 4>;
  LDEQ_SHARED(Shared, exchange);
  const MapIndex index(p.maps);
  const int64_t map = index.map;
  Pixels<T, kThreads, kItems, kVec, kWhole> pixels(p.maps, p.input + index.offset);

  A peak[1] = {-INFINITY};
  A own = 0;   // the highest that this thread saw
  A rate = 0;  // z = 2^(rate (h - peak))
  if constexpr (kNormalise) {
    rate = static_cast<A>((p.betas == nullptr ? p.beta : p.betas[index.channel * p.beta_stride]) * kLog2E);
    pixels.visit([&](A(&values)[kVec], int, int, int, int) {
#pragma unroll
      for (int j = 0; j < kVec; ++j) peak[0] = Max()(peak[0], values[j]);
    });
    own = peak[0];
    reduce_block<kThreads>(peak, Max(), exchange, 0);
  }
  const A highest = peak[0];
  if (!kNormalise || highest == -INFINITY) peak[0] = 0;
  const auto weight = [&](A value) { return kNormalise ? power_of_two(rate * below_peak<T>(value, peak[0])) : value; };

  // sum z, sum z x, sum z y, pixels at the max. A vector's x are those of its first pixel and a part that is constant.
  A sums[4] = {0, 0, 0, 0};
  // Few threads have to look for them.
  if (kNormalise && own == highest) {
    pixels.visit([&](A(&values)[kVec], int, int, int, int) {
#pragma unroll
      for (int j = 0; j < kVec; ++j) sums[3] += values[j] == highest ? A(1) : A(0);
    });
  }
  T* const out = p.heatmap == nullptr ? nullptr : p.heatmap + map * pixels.count;
  pixels.visit([&](A(&values)[kVec], int first, int row, int column, int) {
    A z[kVec], mass = 0, within = 0;
#pragma unroll
    for (int j = 0; j < kVec; ++j) {
      z[j] = weight(values[j]);
      if constexpr (kNormalise && kItems > 0) values[j] = z[j];
      mass = j == 0 ? z[j] : mass + z[j];
      if (j > 0) within = j == 1 ? z[j] : within + z[j] * A(j);
    }
    sums[0] += mass;
    sums[1] += mass * static_cast<A>(column) + within;
    sums[2] += mass * static_cast<A>(row);
    if (kNormalise && out != nullptr) store<kVec>(out + first, z);
  });
  reduce_block<kThreads>(sums, Sum(), exchange, 1);
  const A total = sums[0] + p.eps, mean_x = sums[1] / total, mean_y = sums[2] / total;

  // About the mean and not from raw moments, which cancel for narrow peaks far from the origin.
  A squares[2] = {0, 0};
  pixels.visit([&](A(&values)[kVec], int, int row, int column, int) {
    const A dx = static_cast<A>(column) - mean_x, dy = static_cast<A>(row) - mean_y;
    A mass = 0;
#pragma unroll
    for (int j = 0; j < kVec; ++j) {
      const A z = kItems > 0 ? values[j] : weight(values[j]), d = dx + A(j);
      mass = j == 0 ? z : mass + z;
      squares[0] += z * (d * d);
    }
    squares[1] += mass * (dy * dy);
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
