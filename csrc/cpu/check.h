// Shared by the operators' CPU side: types, and errors of one sentence that name the argument.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/util/Exception.h>

#include <optional>

#include "kernels.h"

namespace ldeq::cpu {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

inline Type type_of(const Tensor& t, const char* name) {
  switch (t.scalar_type()) {
    case ScalarType::Float: return Type::f32;
    case ScalarType::Double: return Type::f64;
    case ScalarType::BFloat16: return Type::bf16;
    case ScalarType::Half: return Type::f16;
    default: STD_TORCH_CHECK(false, name, " must be float32, float64, bfloat16 or float16");
  }
}

inline ScalarType accumulator(ScalarType type) {
  return type == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}

inline void check(const Tensor& t, const char* name, ScalarType type, std::initializer_list<int64_t> shape) {
  STD_TORCH_CHECK(t.is_cpu(), name, " must be on the CPU like the other arguments");
  STD_TORCH_CHECK(t.scalar_type() == type, name, " has another dtype than this operator expects with the others");
  bool same = t.dim() == (int64_t)shape.size();
  int64_t d = 0;
  for (int64_t n : shape) {
    same = same && t.size(d) == n;
    ++d;
  }
  STD_TORCH_CHECK(same, name, " has another shape than this operator expects with the others");
  STD_TORCH_CHECK(t.is_contiguous(), name, " must be contiguous");
}

inline Tensor empty(std::initializer_list<int64_t> shape, ScalarType type, const Tensor& like) {
  return torch::stable::new_empty(like, {shape.begin(), shape.size()}, type);
}

}  // namespace ldeq::cpu
