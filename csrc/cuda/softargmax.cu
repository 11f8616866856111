// CUDA side of soft-argmax and of the readout of normalised heatmaps.

#include "launch.h"
#include "softargmax_launch.cuh"

namespace ldeq::cuda {
namespace {

struct Coordinates {
  double scale_x, offset_x, scale_y, offset_y;

  template <typename A>
  Axes<A> as() const {
    return {static_cast<A>(scale_x), static_cast<A>(offset_x), static_cast<A>(scale_y), static_cast<A>(offset_y)};
  }
};

Maps layout_of(const Tensor& maps, const char* name) {
  STD_TORCH_CHECK(divisible(maps.size(2), maps.size(3)), name, " has larger maps than the CUDA kernels take; choose backend 'torch'");
  check_blocks(maps.size(0) * maps.size(1), name);
  return {maps.stride(0), maps.stride(1), maps.stride(2), maps.stride(3), static_cast<int>(maps.size(1)),
          static_cast<int>(maps.size(2)), static_cast<int>(maps.size(3)), division_magic(maps.size(3)), short_division_magic(maps.size(3))};
}

std::tuple<Tensor, Tensor, Tensor, Tensor> forward(const Place& place, const Tensor& maps, const char* name, const Beta* beta,
                                                   double eps, const Coordinates& axes, bool want_heatmap) {
  const int64_t b = maps.size(0), k = maps.size(1);
  const ScalarType type = maps.scalar_type(), acc = accumulator(type);
  const Maps layout = layout_of(maps, name);
  Tensor heatmap = want_heatmap ? empty({b, k, maps.size(2), maps.size(3)}, type, maps) : empty({0}, type, maps);
  Tensor xy = empty({b, k, 2}, acc, maps), std = empty({b, k}, acc, maps), stats = empty({b, k, kStats}, ScalarType::Double, maps);
  const Launch launch(place);
  with_element(type_of(maps, name), [&](auto element) {
    using T = decltype(element);
    using A = Accumulate<T>;
    const SoftargmaxForward<T> p{layout,
                                 axes.as<A>(),
                                 static_cast<A>(eps),
                                 beta ? beta->each : nullptr,
                                 beta ? beta->stride : 0,
                                 beta ? beta->one : 1,
                                 static_cast<const T*>(maps.const_data_ptr()),
                                 want_heatmap ? static_cast<T*>(heatmap.mutable_data_ptr()) : nullptr,
                                 static_cast<A*>(xy.mutable_data_ptr()),
                                 static_cast<A*>(std.mutable_data_ptr()),
                                 static_cast<double*>(stats.mutable_data_ptr())};
    beta ? launch_softargmax_forward(p, b * k, launch) : launch_readout_forward(p, b * k, launch);
  });
  launch.check();
  return {heatmap, xy, std, stats};
}

std::tuple<Tensor, Tensor> backward(const Place& place, const MapGradients& grads, const Tensor& maps, const char* name,
                                    const Beta* beta, const Tensor& stats, const Coordinates& axes) {
  const int64_t b = maps.size(0), k = maps.size(1);
  const Maps layout = layout_of(maps, name);
  Tensor grad_in = empty({b, k, maps.size(2), maps.size(3)}, maps.scalar_type(), maps);
  const bool learned = beta && beta->each;
  Tensor grad_betas = learned ? empty({b, k}, ScalarType::Double, maps) : empty({0}, ScalarType::Double, maps);
  const Launch launch(place);
  with_element(type_of(maps, name), [&](auto element) {
    using T = decltype(element);
    using A = Accumulate<T>;
    const SoftargmaxBackward<T> p{layout,
                                  axes.as<A>(),
                                  beta ? beta->each : nullptr,
                                  beta ? beta->stride : 0,
                                  beta ? beta->one : 1,
                                  static_cast<const T*>(maps.const_data_ptr()),
                                  static_cast<const double*>(stats.const_data_ptr()),
                                  static_cast<const T*>(pointer(grads.heatmap)),
                                  static_cast<const A*>(pointer(grads.xy)),
                                  static_cast<const A*>(pointer(grads.std)),
                                  static_cast<T*>(grad_in.mutable_data_ptr()),
                                  learned ? static_cast<double*>(grad_betas.mutable_data_ptr()) : nullptr};
    beta ? launch_softargmax_backward(p, b * k, launch) : launch_readout_backward(p, b * k, launch);
  });
  launch.check();
  return {grad_in, grad_betas};
}

std::tuple<Tensor, Tensor, Tensor, Tensor> softargmax_forward(const Tensor& logits, std::optional<Tensor> betas, double beta,
                                                              double eps, double scale_x, double offset_x, double scale_y,
                                                              double offset_y, bool want_heatmap) {
  const Place place = check_maps(logits, "logits", kDevice);
  const Beta b(place, betas, beta, logits);
  return forward(place, logits, "logits", &b, eps, {scale_x, offset_x, scale_y, offset_y}, want_heatmap);
}

std::tuple<Tensor, Tensor> softargmax_backward(std::optional<Tensor> grad_heatmap, std::optional<Tensor> grad_xy,
                                               std::optional<Tensor> grad_std, const Tensor& logits,
                                               std::optional<Tensor> betas, double beta, const Tensor& stats, double scale_x,
                                               double offset_x, double scale_y, double offset_y) {
  const Place place = check_maps(logits, "logits", kDevice);
  const Beta b(place, betas, beta, logits);
  return backward(place, {place, grad_heatmap, grad_xy, grad_std, logits, stats}, logits, "logits", &b, stats,
                  {scale_x, offset_x, scale_y, offset_y});
}

std::tuple<Tensor, Tensor, Tensor> heatmap_readout_forward(const Tensor& heatmap, double eps, double scale_x, double offset_x,
                                                           double scale_y, double offset_y) {
  const Place place = check_maps(heatmap, "heatmap", kDevice);
  auto [unused, xy, std, stats] =
      forward(place, heatmap, "heatmap", nullptr, eps, {scale_x, offset_x, scale_y, offset_y}, false);
  return {xy, std, stats};
}

Tensor heatmap_readout_backward(std::optional<Tensor> grad_xy, std::optional<Tensor> grad_std, const Tensor& heatmap,
                                const Tensor& stats, double scale_x, double offset_x, double scale_y, double offset_y) {
  const Place place = check_maps(heatmap, "heatmap", kDevice);
  return std::get<0>(backward(place, {place, std::nullopt, grad_xy, grad_std, heatmap, stats}, heatmap, "heatmap", nullptr, stats,
                              {scale_x, offset_x, scale_y, offset_y}));
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(LDEQ_NAMESPACE, LDEQ_KEY, m) {
  m.impl("softargmax_forward", TORCH_BOX(&softargmax_forward));
  m.impl("softargmax_backward", TORCH_BOX(&softargmax_backward));
  m.impl("heatmap_readout_forward", TORCH_BOX(&heatmap_readout_forward));
  m.impl("heatmap_readout_backward", TORCH_BOX(&heatmap_readout_backward));
}

}  // namespace ldeq::cuda
