// Runs CUDA device code on the CPU: __syncthreads is a barrier of a block, a shuffle an exchange among the 32 threads of its warp.
//
// A CUDA thread is a fiber, and one thread of the CPU runs those of a block in turn. Under a sanitizer it is a std::thread, and
// several blocks run at the same time, so that races show, between blocks too.
#pragma once

#include <cxxabi.h>

#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <type_traits>
#include <typeinfo>
#include <vector>

#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
#define LDEQ_THREADS 1
#else
#define LDEQ_THREADS 0
#include <ucontext.h>
#endif

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

// By a kernel's name, how often it was launched.
inline std::map<std::string, int64_t> launches;

// What runs kernels in place of this file, if set: it is given the kernel's name and the bytes of its parameters.
inline std::function<void(const std::string& kernel, dim3 grid, int threads, const void* parameters, size_t size)> launcher;

template <auto kKernel>
struct Named {};

// A kernel's name with its types, as c++filt writes it: it stands in the type "on_host::Named<&(void ldeq::kernel<float>(...))>".
template <auto kKernel>
std::string name_of() {
  const std::unique_ptr<char, void (*)(void*)> text(abi::__cxa_demangle(typeid(Named<kKernel>).name(), nullptr, nullptr, nullptr), free);
  const std::string name = text.get();
  const size_t start = name.find("&(") + 2;
  return name.substr(start, name.rfind(")>") - start);
}

#if LDEQ_THREADS

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

#else

// The fibers of one block, which take turns whenever one of them waits.
class Fibers {
 public:
  static constexpr size_t kStack = 64 * 1024;

  void run(int count, const std::function<void(int)>& body) {
    if (static_cast<int>(contexts_.size()) < count) {
      contexts_.resize(count);
      stacks_.reset(new char[count * kStack]);
    }
    body_ = &body;
    live_.resize(count);
    for (int i = 0; i < count; ++i) {
      live_[i] = i;
      getcontext(&contexts_[i]);
      contexts_[i].uc_stack.ss_sp = stacks_.get() + i * kStack;
      contexts_[i].uc_stack.ss_size = kStack;
      contexts_[i].uc_link = nullptr;
      makecontext(&contexts_[i], &Fibers::enter, 0);
    }
    at_ = 0;
    swapcontext(&home_, &contexts_[0]);
  }

  void yield() {
    ucontext_t& from = contexts_[live_[at_]];
    at_ = (at_ + 1) % live_.size();
    if (&from != &contexts_[live_[at_]]) swapcontext(&from, &contexts_[live_[at_]]);
  }

  static Fibers& of_this_thread() {
    static thread_local Fibers fibers;
    return fibers;
  }

 private:
  static void enter() {
    Fibers& self = of_this_thread();
    (*self.body_)(self.live_[self.at_]);
    self.live_.erase(self.live_.begin() + self.at_);
    if (self.live_.empty()) setcontext(&self.home_);
    self.at_ %= self.live_.size();
    setcontext(&self.contexts_[self.live_[self.at_]]);
  }

  const std::function<void(int)>* body_ = nullptr;
  std::vector<ucontext_t> contexts_;
  std::unique_ptr<char[]> stacks_;
  std::vector<int> live_;
  size_t at_ = 0;
  ucontext_t home_;
};

struct Thread;
inline thread_local Thread* current = nullptr;

class Barrier {
 public:
  explicit Barrier(int threads) : threads_(threads) {}

  void arrive_and_wait() {
    Thread* const self = current;
    const int phase = phase_;
    if (++arrived_ == threads_) {
      arrived_ = 0;
      ++phase_;
    }
    while (phase_ == phase) Fibers::of_this_thread().yield();
    current = self;
  }

 private:
  const int threads_;
  int arrived_ = 0, phase_ = 0;
};

#endif

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

#if LDEQ_THREADS
inline thread_local Thread* current = nullptr;
#endif

// One shared object a kernel is all that the device code uses.
template <typename T>
T& shared() {
  static_assert(std::is_trivially_default_constructible_v<T> && sizeof(T) <= kSharedBytes, "plain shared memory");
  return *reinterpret_cast<T*>(current->block->shared);
}

inline void sync_block() {
  if (current->syncs++ != dropped_sync) current->block->barrier.arrive_and_wait();
}

// What the lanes of this warp have handed in, by lane, and with it this lane's value.
template <typename T>
auto& exchanged(T value) {
  static_assert(sizeof(T) <= 8, "a word");
  auto& half = current->warp->exchange[current->half];
  current->half ^= 1;
  std::memcpy(&half[current->index.x % kWarp], &value, sizeof(T));
  current->warp->barrier.arrive_and_wait();
  return half;
}

template <typename T>
T shuffle(T value, int from) {
  std::memcpy(&value, &exchanged(value)[from], sizeof(T));
  return value;
}

inline unsigned ballot(bool value) {
  auto& half = exchanged(unsigned{value});
  unsigned bits = 0;
  for (int lane = 0; lane < kWarp; ++lane) {
    unsigned one;
    std::memcpy(&one, &half[lane], sizeof one);
    bits |= one << lane;
  }
  return bits;
}

// Runs one thread of one block. Shared memory starts as NaN: what a kernel reads before it wrote it shows.
template <auto kKernel, typename P>
void run_thread(Block& room, int t, int threads, dim3 block, dim3 grid, const P& parameters) {
  if (t == 0) std::memset(room.shared, 0xff, kSharedBytes);
  room.barrier.arrive_and_wait();
  Thread self{&room, &room.warps[t / kWarp], dim3(t), block, dim3(threads), grid};
  current = &self;
  kKernel(parameters);
  room.barrier.arrive_and_wait();
}

template <auto kKernel, typename P>
void launch(dim3 grid, int threads, Stream, const P& parameters) {
  static const std::string name = name_of<kKernel>();
  ++launches[name];
  if (launcher) return launcher(name, grid, threads, &parameters, sizeof(P));
  const int64_t blocks = int64_t{grid.x} * grid.y;
#if LDEQ_THREADS
  const int slots = static_cast<int>(blocks < concurrent_blocks ? blocks : concurrent_blocks);
  std::vector<std::unique_ptr<Block>> rooms;
  std::vector<std::thread> workers;
  for (int slot = 0; slot < slots; ++slot) {
    rooms.push_back(std::make_unique<Block>(threads));
    for (int t = 0; t < threads; ++t) {
      workers.emplace_back([&, slot, t, room = rooms.back().get()] {
        for (int64_t b = slot; b < blocks; b += slots)
          run_thread<kKernel>(*room, t, threads, dim3(b % grid.x, b / grid.x), grid, parameters);
      });
    }
  }
  for (auto& worker : workers) worker.join();
#else
  Block room(threads);
  for (int64_t b = 0; b < blocks; ++b) {
    Fibers::of_this_thread().run(
        threads, [&](int t) { run_thread<kKernel>(room, t, threads, dim3(b % grid.x, b / grid.x), grid, parameters); });
  }
#endif
}

}  // namespace on_host

#define threadIdx (::on_host::current->index)
#define blockIdx (::on_host::current->block_index)
#define blockDim (::on_host::current->block_dim)
#define gridDim (::on_host::current->grid_dim)

inline void __syncthreads() { on_host::sync_block(); }
inline void __syncwarp() { on_host::current->warp->barrier.arrive_and_wait(); }
inline double rsqrt(double v) { return 1 / std::sqrt(v); }
inline unsigned __umulhi(unsigned a, unsigned b) { return static_cast<unsigned>(uint64_t{a} * b >> 32); }
inline int __popc(unsigned bits) { return __builtin_popcount(bits); }
template <typename T>
T __shfl_xor_sync(unsigned, T value, int distance) {
  return on_host::shuffle(value, static_cast<int>(threadIdx.x % on_host::kWarp) ^ distance);
}
template <typename T>
T __shfl_sync(unsigned, T value, int from) {
  return on_host::shuffle(value, from);
}
inline unsigned __ballot_sync(unsigned, bool value) { return on_host::ballot(value); }

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
struct __half {
  uint16_t bits;
};
inline float __half2float(__half v) {
  _Float16 out;
  std::memcpy(&out, &v, 2);
  return static_cast<float>(out);
}
inline __half __float2half_rn(float v) {
  const auto rounded = static_cast<_Float16>(v);
  __half out;
  std::memcpy(&out, &rounded, 2);
  return out;
}
