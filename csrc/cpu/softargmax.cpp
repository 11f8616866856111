// CPU side of soft-argmax and of the readout of normalised heatmaps.

#include <memory>

#include "../check.h"
#include "kernels.h"

namespace ldeq::cpu {
namespace {

using torch::stable::contiguous;
using torch::stable::parallel_for;

// Elements that are worth waking another thread for.
constexpr int64_t kGrain = 16384;

// Scratch is per call of the lambda, so per thread: maps are independent and results do not depend on their number.
template <typename F>
void over_maps(const Maps& m, int64_t maps, const F& f) {
  const int64_t grain = kGrain / (m.height * m.width) + 1;
  parallel_for(0, maps, grain, [&](int64_t begin, int64_t end) {
    const auto scratch = std::make_unique<char[]>(scratch_bytes(m.height, m.width));
    f(begin, end, scratch.get());
  });
}

Maps describe(const Tensor& in, const Tensor& stats, const Beta* beta, double eps, const Axes& axes) {
  Maps m{};
  m.type = type_of(in, "heatmaps");
  m.height = in.size(2);
  m.width = in.size(3);
  m.channels = in.size(1);
  m.axes = axes;
  m.eps = eps;
  m.beta = !beta ? nullptr : beta->each ? beta->each : &beta->one;
  m.beta_stride = beta ? beta->stride : 0;
  m.in = in.const_data_ptr();
  m.stats = static_cast<double*>(stats.mutable_data_ptr());
  return m;
}

std::tuple<Tensor, Tensor, Tensor, Tensor> forward(const Tensor& maps, const Beta* beta, double eps, const Axes& axes,
                                                   bool want_heatmap) {
  const Tensor in = contiguous(maps);
  const int64_t b = in.size(0), k = in.size(1);
  const ScalarType acc = accumulator(in.scalar_type());
  Tensor heatmap = want_heatmap ? torch::stable::empty_like(in) : empty({0}, in.scalar_type(), in);
  Tensor xy = empty({b, k, 2}, acc, in), std = empty({b, k}, acc, in), stats = empty({b, k, kStats}, ScalarType::Double, in);
  const MapsForward a{describe(in, stats, beta, eps, axes), want_heatmap ? heatmap.mutable_data_ptr() : nullptr,
                      xy.mutable_data_ptr(), std.mutable_data_ptr()};
  over_maps(a.maps, b * k, [&](int64_t begin, int64_t end, void* s) { kernels().softargmax_forward(a, begin, end, s); });
  return {heatmap, xy, std, stats};
}

std::tuple<Tensor, Tensor> backward(const MapGradients& grads, const Tensor& maps, const Beta* beta, const Tensor& stats,
                                    const Axes& axes) {
  const Tensor in = contiguous(maps);
  const int64_t b = in.size(0), k = in.size(1);
  const bool learned = beta && beta->each;
  Tensor grad_in = torch::stable::empty_like(in);
  Tensor grad_betas = learned ? empty({b, k}, ScalarType::Double, in) : empty({0}, ScalarType::Double, in);
  const MapsBackward a{describe(in, stats, beta, 0, axes),
                       pointer(grads.heatmap),
                       pointer(grads.xy),
                       pointer(grads.std),
                       grad_in.mutable_data_ptr(),
                       learned ? static_cast<double*>(grad_betas.mutable_data_ptr()) : nullptr};
  over_maps(a.maps, b * k, [&](int64_t begin, int64_t end, void* s) { kernels().softargmax_backward(a, begin, end, s); });
  return {grad_in, grad_betas};
}

std::tuple<Tensor, Tensor, Tensor, Tensor> softargmax_forward(const Tensor& logits, std::optional<Tensor> betas, double beta,
                                                              double eps, double scale_x, double offset_x, double scale_y,
                                                              double offset_y, bool want_heatmap) {
  const Beta b(check_maps(logits, "logits", DeviceType::CPU), betas, beta, logits);
  return forward(logits, &b, eps, {scale_x, offset_x, scale_y, offset_y}, want_heatmap);
}

std::tuple<Tensor, Tensor> softargmax_backward(std::optional<Tensor> grad_heatmap, std::optional<Tensor> grad_xy,
                                               std::optional<Tensor> grad_std, const Tensor& logits,
                                               std::optional<Tensor> betas, double beta, const Tensor& stats, double scale_x,
                                               double offset_x, double scale_y, double offset_y) {
  const Place place = check_maps(logits, "logits", DeviceType::CPU);
  const Beta b(place, betas, beta, logits);
  return backward({place, grad_heatmap, grad_xy, grad_std, logits, stats}, logits, &b, stats, {scale_x, offset_x, scale_y, offset_y});
}

std::tuple<Tensor, Tensor, Tensor> heatmap_readout_forward(const Tensor& heatmap, double eps, double scale_x, double offset_x,
                                                           double scale_y, double offset_y) {
  check_maps(heatmap, "heatmap", DeviceType::CPU);
  auto [unused, xy, std, stats] = forward(heatmap, nullptr, eps, {scale_x, offset_x, scale_y, offset_y}, false);
  return {xy, std, stats};
}

Tensor heatmap_readout_backward(std::optional<Tensor> grad_xy, std::optional<Tensor> grad_std, const Tensor& heatmap,
                                const Tensor& stats, double scale_x, double offset_x, double scale_y, double offset_y) {
  const Place place = check_maps(heatmap, "heatmap", DeviceType::CPU);
  return std::get<0>(backward({place, std::nullopt, grad_xy, grad_std, heatmap, stats}, heatmap, nullptr, stats,
                              {scale_x, offset_x, scale_y, offset_y}));
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(ldeq, CPU, m) {
  m.impl("softargmax_forward", TORCH_BOX(&softargmax_forward));
  m.impl("softargmax_backward", TORCH_BOX(&softargmax_backward));
  m.impl("heatmap_readout_forward", TORCH_BOX(&heatmap_readout_forward));
  m.impl("heatmap_readout_backward", TORCH_BOX(&heatmap_readout_backward));
}

}  // namespace ldeq::cpu
