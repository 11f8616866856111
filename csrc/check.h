// What every operator demands of its arguments, on the CPU and on CUDA: errors of one sentence that name the argument.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/util/Exception.h>

#include <initializer_list>
#include <optional>
#include <vector>

#include "layout.h"

namespace ldeq {

using torch::headeronly::DeviceType;
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

inline int64_t bytes_of(Type type) {
  return type == Type::f64 ? 8 : type == Type::f32 ? 4 : 2;
}

inline ScalarType accumulator(ScalarType type) {
  return type == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}

// Where a kernel runs: all tensors must be there. An operator is dispatched to CUDA if any of its arguments is on a GPU.
struct Place {
  DeviceType type;
  int index;

  Place(const Tensor& first, const char* name, DeviceType type) : type(type), index(first.get_device_index()) {
    check(first, name);
  }

  void check(const Tensor& t, const char* name) const {
    if (type == DeviceType::CPU) {
      STD_TORCH_CHECK(t.is_cpu(), name, " must be on the CPU like the other arguments");
    } else {
      STD_TORCH_CHECK(t.is_cuda() && t.get_device_index() == index, name, " must be on the same GPU as the other arguments");
    }
  }
};

inline void check(const Place& place, const Tensor& t, const char* name, ScalarType type, std::initializer_list<int64_t> shape) {
  place.check(t, name);
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

inline const void* pointer(const std::optional<Tensor>& t) { return t ? t->const_data_ptr() : nullptr; }
inline void* mutable_pointer(const std::optional<Tensor>& t) { return t ? t->mutable_data_ptr() : nullptr; }

// --- soft-argmax -------------------------------------------------------------------------------------------------------

constexpr int64_t kLargestMap = int64_t{1} << 40;

inline Place check_maps(const Tensor& maps, const char* name, DeviceType type) {
  const Place place(maps, name, type);
  STD_TORCH_CHECK(maps.dim() == 4 && maps.size(2) > 0 && maps.size(3) > 0, name, " must have shape (B, K, H, W) with H, W >= 1");
  // Without an element a tensor may have any size, and a product that overflows can be 0.
  STD_TORCH_CHECK(maps.size(2) <= kLargestMap / maps.size(3), name, " must have maps of at most 2^40 pixels");
  type_of(maps, name);
  return place;
}

// The inverse temperature: a tensor's, where there is one, else a number, which costs a GPU no launch to fill a tensor.
struct Beta {
  std::optional<Tensor> held;
  const double* each = nullptr;  // (channels) or (1), see stride
  int stride = 0;                // 1 for a beta of each channel, else 0
  double one;                    // where `each` is null

  Beta(const Place& place, const std::optional<Tensor>& betas, double beta, const Tensor& logits) : one(beta) {
    if (!betas) return;
    place.check(*betas, "betas");
    STD_TORCH_CHECK(betas->scalar_type() == ScalarType::Double, "betas must be float64");
    STD_TORCH_CHECK(betas->dim() == 0 || (betas->dim() == 1 && betas->size(0) == logits.size(1)), "betas must have shape () or (K,)");
    held = torch::stable::contiguous(*betas);
    each = static_cast<const double*>(held->const_data_ptr());
    stride = betas->dim() == 1 ? 1 : 0;
  }
};

// What comes back from the results of a forward pass, contiguous.
struct MapGradients {
  std::optional<Tensor> heatmap, xy, std;

  MapGradients(const Place& place, const std::optional<Tensor>& heatmap_, const std::optional<Tensor>& xy_,
               const std::optional<Tensor>& std_, const Tensor& maps, const Tensor& stats) {
    const int64_t b = maps.size(0), k = maps.size(1);
    const ScalarType type = maps.scalar_type(), acc = accumulator(type);
    const auto dense = [&](const std::optional<Tensor>& t, const char* name, ScalarType type_, std::initializer_list<int64_t> shape) {
      std::optional<Tensor> out;
      if (t) check(place, *(out = torch::stable::contiguous(*t)), name, type_, shape);
      return out;
    };
    check(place, stats, "stats", ScalarType::Double, {b, k, kStats});
    heatmap = dense(heatmap_, "grad_heatmap", type, {b, k, maps.size(2), maps.size(3)});
    xy = dense(xy_, "grad_xy", acc, {b, k, 2});
    std = dense(std_, "grad_std", acc, {b, k});
  }
};

// --- steps of a solve --------------------------------------------------------------------------------------------------

// The arguments that both steps share.
struct StepTensors {
  const Tensor &x, &measurements, &flags, &saved_best;
  const std::optional<Tensor>&evicted, &x_next, &x_cast;
};

inline void check_step(const Place& place, const StepTensors& t, ScalarType state, int64_t m) {
  const int64_t batch = t.x.size(0), dim = t.x.size(1);
  const ScalarType work = accumulator(state);
  check(place, t.x, "x", work, {batch, dim});
  check(place, t.measurements, "measurements", ScalarType::Double, {batch, kMeasurements});
  check(place, t.flags, "flags", ScalarType::Long, {batch, kFlags + m});
  type_of(t.saved_best, "saved_best");
  check(place, t.saved_best, "saved_best", t.saved_best.scalar_type(), {batch, dim});
  if (t.evicted) check(place, *t.evicted, "evicted", t.saved_best.scalar_type(), {batch, dim});
  if (t.x_next) check(place, *t.x_next, "x_next", work, {batch, dim});
  if (t.x_cast) check(place, *t.x_cast, "x_cast", state, {batch, dim});
}

inline Place check_anderson(const StepTensors& t, const std::vector<Tensor>& f_ring, const Tensor& g_ring, const Tensor& gram,
                            int64_t slot, DeviceType type) {
  const Place place(t.x, "x", type);
  STD_TORCH_CHECK(t.x.dim() == 2, "x must have shape (B, D)");
  STD_TORCH_CHECK(g_ring.dim() == 3, "g_ring must have shape (m, B, D)");
  const int64_t batch = t.x.size(0), dim = t.x.size(1), m = g_ring.size(0), n = (int64_t)f_ring.size();
  STD_TORCH_CHECK(1 <= m && m <= kMaxHistory, "m must lie in 1..16, got ", m);
  STD_TORCH_CHECK(1 <= n && n <= m, "f_ring must have 1..m entries, got ", n);
  STD_TORCH_CHECK(0 <= slot && slot < n, "slot must name an entry of f_ring, got ", slot);
  const ScalarType state = f_ring[0].scalar_type(), work = accumulator(state);
  type_of(f_ring[0], "f_ring");
  check(place, t.x, "x", work, {batch, dim});
  for (const Tensor& f : f_ring) check(place, f, "f_ring", state, {batch, dim});
  const bool half = g_ring.scalar_type() == ScalarType::BFloat16 && work == ScalarType::Float;
  check(place, g_ring, "g_ring", half ? ScalarType::BFloat16 : work, {m, batch, dim});
  check(place, gram, "gram", ScalarType::Double, {batch, m, m});
  check_step(place, t, state, m);
  return place;
}

inline Place check_fixed_point(const StepTensors& t, const Tensor& f, int64_t slot, DeviceType type) {
  const Place place(t.x, "x", type);
  STD_TORCH_CHECK(t.x.dim() == 2, "x must have shape (B, D)");
  STD_TORCH_CHECK(slot == 0, "slot must be 0: a fixed-point step keeps no history, got ", slot);
  type_of(f, "f");
  check(place, t.x, "x", accumulator(f.scalar_type()), {t.x.size(0), t.x.size(1)});
  check(place, f, "f", f.scalar_type(), {t.x.size(0), t.x.size(1)});
  check_step(place, t, f.scalar_type(), 0);
  return place;
}

inline Place check_best(const std::vector<Tensor>& ring, const Tensor& saved_best, const Tensor& start, const Tensor& flags, DeviceType type) {
  const Place place(start, "start", type);
  STD_TORCH_CHECK(start.dim() == 2 && flags.dim() == 2 && flags.size(1) >= kFlags, "start and flags must have two dimensions");
  STD_TORCH_CHECK(ring.size() <= kMaxHistory, "ring must have at most 16 entries, got ", ring.size());
  const int64_t batch = start.size(0), dim = start.size(1);
  type_of(start, "start");
  check(place, start, "start", start.scalar_type(), {batch, dim});
  check(place, saved_best, "saved_best", start.scalar_type(), {batch, dim});
  check(place, flags, "flags", ScalarType::Long, {batch, flags.size(1)});
  for (const Tensor& value : ring) check(place, value, "ring", start.scalar_type(), {batch, dim});
  return place;
}

}  // namespace ldeq
