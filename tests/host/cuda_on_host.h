// Runs CUDA device code on the CPU: a CUDA thread is a std::thread, __syncthreads a barrier of its block, a shuffle an exchange
// among the 32 threads of its warp. Several blocks run at the same time, so that sanitizers see races between blocks too.
#pragma once

#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <thread>
#include <type_traits>
#include <vector>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)

struct dim3 {
  unsigned x, y, z;
  dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};
struct alignas(16) uint4 {
  uint32_t x, y, z, w;
};
struct alignas(8) uint2 {
  uint32_t x, y;
};

namespace on_host {

using Stream = int;  // nothing runs behind the caller's back here
constexpr int kWarp = 32;
constexpr size_t kSharedBytes = 64 * 1024;

// Set by the self-test to leave out the k-th __syncthreads that each thread reaches: a sanitizer must notice.
inline int dropped_sync = -1;
inline int concurrent_blocks = 2;

// std::barrier of gcc 12 waits on a byte, which wakes hundreds of threads of other barriers each time.
class Barrier {
 public:
  explicit Barrier(int threads) : threads_(threads) {}

  void arrive_and_wait() {
    const int phase = phase_.load(std::memory_order_acquire);
    if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 == threads_) {
      arrived_.store(0, std::memory_order_relaxed);
      phase_.store(phase + 1, std::memory_order_release);
      phase_.notify_all();
    } else {
      while (phase_.load(std::memory_order_acquire) == phase) phase_.wait(phase, std::memory_order_acquire);
    }
  }

 private:
  const int threads_;
  std::atomic<int> arrived_{0}, phase_{0};
};

struct Warp {
  Barrier barrier{kWarp};
  // Two halves used in turn, so that a shuffle needs one barrier: nobody writes a half before all have read it.
  uint64_t exchange[2][kWarp];
};

struct Block {
  explicit Block(int threads) : barrier(threads), warps(threads / kWarp) {}
  Barrier barrier;
  std::vector<Warp> warps;
  alignas(16) char shared[kSharedBytes];
};

struct Thread {
  Block* block;
  Warp* warp;
  dim3 index, block_index, block_dim, grid_dim;
  unsigned half = 0;
  int syncs = 0;
};

inline thread_local Thread* current = nullptr;

// One shared object a kernel is all that the device code uses.
template <typename T>
T& shared() {
  static_assert(std::is_trivially_default_constructible_v<T> && sizeof(T) <= kSharedBytes, "plain shared memory");
  return *reinterpret_cast<T*>(current->block->shared);
}

inline void sync_block() {
  if (current->syncs++ != dropped_sync) current->block->barrier.arrive_and_wait();
}

template <typename T>
T shuffle_xor(T value, int distance) {
  static_assert(sizeof(T) <= 8, "a word");
  const int lane = current->index.x % kWarp;
  auto& half = current->warp->exchange[current->half];
  current->half ^= 1;
  std::memcpy(&half[lane], &value, sizeof(T));
  current->warp->barrier.arrive_and_wait();
  std::memcpy(&value, &half[lane ^ distance], sizeof(T));
  return value;
}

template <typename Kernel, typename... Args>
void launch(dim3 grid, int threads, Stream, Kernel kernel, const Args&... args) {
  const int64_t blocks = int64_t{grid.x} * grid.y;
  const int slots = static_cast<int>(blocks < concurrent_blocks ? blocks : concurrent_blocks);
  std::vector<std::unique_ptr<Block>> rooms;
  std::vector<std::thread> workers;
  for (int slot = 0; slot < slots; ++slot) {
    rooms.push_back(std::make_unique<Block>(threads));
    for (int t = 0; t < threads; ++t) {
      workers.emplace_back([&, slot, t, room = rooms.back().get()] {
        for (int64_t b = slot; b < blocks; b += slots) {
          // Shared memory starts as NaN: what a kernel reads before it wrote it shows.
          if (t == 0) std::memset(room->shared, 0xff, kSharedBytes);
          room->barrier.arrive_and_wait();
          Thread self{room, &room->warps[t / kWarp], dim3(t), dim3(b % grid.x, b / grid.x), dim3(threads), grid};
          current = &self;
          kernel(args...);
          room->barrier.arrive_and_wait();
        }
      });
    }
  }
  for (auto& worker : workers) worker.join();
}

}  // namespace on_host

#define threadIdx (::on_host::current->index)
#define blockIdx (::on_host::current->block_index)
#define blockDim (::on_host::current->block_dim)
#define gridDim (::on_host::current->grid_dim)

inline void __syncthreads() { on_host::sync_block(); }
inline void __syncwarp() { on_host::current->warp->barrier.arrive_and_wait(); }
inline int __popc(unsigned bits) { return __builtin_popcount(bits); }
template <typename T>
T __shfl_xor_sync(unsigned, T value, int distance) {
  return on_host::shuffle_xor(value, distance);
}

struct __nv_bfloat16 {
  uint16_t bits;
};
inline float __bfloat162float(__nv_bfloat16 v) {
  const uint32_t bits = uint32_t{v.bits} << 16;
  float out;
  std::memcpy(&out, &bits, 4);
  return out;
}
inline __nv_bfloat16 __float2bfloat16_rn(float v) {
  uint32_t bits;
  std::memcpy(&bits, &v, 4);
  if (v != v) return {0x7fff};
  bits += 0x7fff + (bits >> 16 & 1);  // to nearest, ties to even
  return {static_cast<uint16_t>(bits >> 16)};
}
using __half = _Float16;
inline float __half2float(__half v) { return static_cast<float>(v); }
inline __half __float2half_rn(float v) { return static_cast<__half>(v); }
