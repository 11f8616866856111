// What the CUDA operators need around their launches, by torch's stable ABI.
//
// The same .cu files are built for the CPU by tests/host, under another namespace and for CPU tensors, with kernels that run as
// threads: what follows from LDEQ_NAMESPACE and LDEQ_KEY is all that differs.
#pragma once

#include "../check.h"
#include "platform.cuh"

#ifdef __CUDACC__
#include <torch/csrc/stable/accelerator.h>
// A CPU build of torch has no such function: the library loads all the same, and its operators are never called.
extern "C" __attribute__((weak)) AOTITorchError aoti_torch_get_current_cuda_stream(int32_t device, void** stream);
#define LDEQ_NAMESPACE ldeq
#define LDEQ_KEY CUDA
#else
#define LDEQ_KEY CPU
#endif

namespace ldeq {

constexpr DeviceType kDevice = DeviceType::LDEQ_KEY;

// Makes the tensors' GPU the current one while it lives, and knows torch's current stream there.
class Launch {
 public:
#ifdef __CUDACC__
  explicit Launch(const Place& place) : guard_(place.index) {
    STD_TORCH_CHECK(aoti_torch_get_current_cuda_stream != nullptr, "this torch is a CPU build, the CUDA kernels of ldeq cannot run");
    void* stream = nullptr;
    TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(place.index, &stream));
    stream_ = static_cast<Stream>(stream);
  }

  // After the launches of an operator; does not wait for them.
  void check() const {
    const cudaError_t error = cudaGetLastError();
    STD_TORCH_CHECK(error == cudaSuccess, "a CUDA kernel of ldeq could not be launched: ", cudaGetErrorString(error),
                    "; see `ldeq doctor`, or choose another backend with ldeq.ops.use_backend");
  }

 private:
  torch::stable::accelerator::DeviceGuard guard_;
#else
  explicit Launch(const Place&) {}
  void check() const {}

 private:
#endif
  Stream stream_{};

 public:
  operator Stream() const { return stream_; }
};

// Blocks of one launch are counted in 31 bits.
inline void check_blocks(int64_t blocks, const char* name) {
  STD_TORCH_CHECK(blocks < int64_t{1} << 31, name, " is too large for one launch; split the batch");
}

// Calls run(a value of the element's C++ type).
template <typename Run>
void with_element(Type type, Run run) {
  switch (type) {
    case Type::f32: return run(float{});
    case Type::f64: return run(double{});
    case Type::bf16: return run(__nv_bfloat16{});
    case Type::f16: return run(__half{});
  }
}

}  // namespace ldeq
