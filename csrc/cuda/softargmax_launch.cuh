// Which kernel serves which map: the table of launch shapes, no tuning at run time.
//
// | pixels    | threads | held in registers                                             |
// | to 512    | 32      | 16 a thread, with 16-byte accesses only                       |
// | to 4,096  | 128     | 32 a thread; 256 and 16 without 16-byte accesses              |
// | to 16,384 | 512     | 32 a thread, with 16-byte accesses only                       |
// | above     | 512     | none                                                          |
//
// Maps of just 4,096 pixels whose rows fill the rounds of the block, such as 64 x 64, have a kernel of their own without bounds.
//
// float64 is there for checks and not for speed: nothing is held, 256 threads.
#pragma once

#include "softargmax_backward.cuh"

namespace ldeq {

template <int kThreads_, int kItems_, int kVec_, bool kWhole_ = false>
struct Shape {
  static constexpr int kThreads = kThreads_, kItems = kItems_, kVec = kVec_;
  static constexpr bool kWhole = kWhole_;
};

// Whether 16-byte accesses work: dense maps, whole vectors in each row, aligned pointers (null ones count as aligned).
template <typename T>
bool vectors(const Maps& maps, const void* a, const void* b, const void* c = nullptr) {
  const bool dense = (maps.stride_column == 1 || maps.width == 1) && (maps.stride_row == maps.width || maps.height == 1);
  const int vec = 16 / sizeof(T);
  const bool whole = maps.width % vec == 0 && maps.stride_batch % vec == 0 && maps.stride_channel % vec == 0;
  return dense && whole && aligned(a, 16) && aligned(b, 16) && aligned(c, 16);
}

template <typename T, typename Run>
void with_shape(const Maps& maps, bool vectors, Run run) {
  constexpr int kVec = 16 / sizeof(T);
  const int64_t count = int64_t{maps.height} * maps.width;
  if constexpr (sizeof(T) == 8) {
    vectors ? run(Shape<256, 0, kVec>()) : run(Shape<256, 0, 1>());
  } else if (vectors) {
    if (count <= 512) return run(Shape<32, 16, kVec>());
    if (count == 4096 && 128 * kVec % maps.width == 0) return run(Shape<128, 32, kVec, true>());
    if (count <= 4096) return run(Shape<128, 32, kVec>());
    if (count <= 16384) return run(Shape<512, 32, kVec>());
    run(Shape<512, 0, kVec>());
  } else {
    if (count <= 4096) return run(Shape<256, 16, 1>());
    run(Shape<512, 0, 1>());
  }
}

template <typename T>
void launch_softargmax_forward(const SoftargmaxForward<T>& p, int64_t maps, Stream stream) {
  if (maps == 0) return;
  const auto grid = static_cast<unsigned>(maps);
  with_shape<T>(p.maps, vectors<T>(p.maps, p.input, p.heatmap), [&](auto shape) {
    using S = decltype(shape);
    LDEQ_LAUNCH((softargmax_forward<T, S::kThreads, S::kItems, S::kVec, true, S::kWhole>), grid, S::kThreads, stream, p);
  });
}

// Fewer shapes are enough here: there is nothing to write, and a second read of a small map comes from the caches.
template <typename T>
void launch_readout_forward(const SoftargmaxForward<T>& p, int64_t maps, Stream stream) {
  if (maps == 0) return;
  const auto grid = static_cast<unsigned>(maps);
  constexpr int kVec = 16 / sizeof(T), kThreads = sizeof(T) <= 4 ? 128 : 256, kItems = sizeof(T) <= 4 ? 32 : 0;
  if (!vectors<T>(p.maps, p.input, nullptr)) {
    LDEQ_LAUNCH((softargmax_forward<T, 256, 0, 1, false, false>), grid, 256, stream, p);
  } else if (int64_t{p.maps.height} * p.maps.width <= 4096) {
    LDEQ_LAUNCH((softargmax_forward<T, kThreads, kItems, kVec, false, false>), grid, kThreads, stream, p);
  } else {
    LDEQ_LAUNCH((softargmax_forward<T, 256, 0, kVec, false, false>), grid, 256, stream, p);
  }
}

template <typename T>
void launch_softargmax_backward(const SoftargmaxBackward<T>& p, int64_t maps, Stream stream) {
  if (maps == 0) return;
  const auto grid = static_cast<unsigned>(maps);
  const bool wide = vectors<T>(p.maps, p.logits, p.grad_heatmap, p.grad_input);
  with_shape<T>(p.maps, wide, [&](auto shape) {
    using S = decltype(shape);
    LDEQ_LAUNCH((softargmax_backward<T, S::kThreads, S::kItems, S::kVec, S::kWhole>), grid, S::kThreads, stream, p);
  });
}

template <typename T>
void launch_readout_backward(const SoftargmaxBackward<T>& p, int64_t maps, Stream stream) {
  if (maps == 0) return;
  const auto grid = static_cast<unsigned>(maps);
  constexpr int kVec = 16 / sizeof(T);
  if (p.maps.width % kVec == 0 && aligned(p.grad_input, 16)) {
    LDEQ_LAUNCH((readout_backward<T, 256, kVec>), grid, 256, stream, p);
  } else {
    LDEQ_LAUNCH((readout_backward<T, 256, 1>), grid, 256, stream, p);
  }
}

// Compiled in softargmax_<type>.cu: a file a type, which compile side by side.
#define LDEQ_SOFTARGMAX(prefix, T)                                                                 \
  prefix template void launch_softargmax_forward<T>(const SoftargmaxForward<T>&, int64_t, Stream);   \
  prefix template void launch_readout_forward<T>(const SoftargmaxForward<T>&, int64_t, Stream);      \
  prefix template void launch_softargmax_backward<T>(const SoftargmaxBackward<T>&, int64_t, Stream); \
  prefix template void launch_readout_backward<T>(const SoftargmaxBackward<T>&, int64_t, Stream);

LDEQ_SOFTARGMAX(extern, float)
LDEQ_SOFTARGMAX(extern, double)
LDEQ_SOFTARGMAX(extern, __nv_bfloat16)
LDEQ_SOFTARGMAX(extern, __half)

}  // namespace ldeq
