// Binds the host build of the device code for pytest. Tensors come as addresses: this file knows as little of torch as the kernels.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <stdexcept>
#include <string>

#include "softargmax_launch.cuh"
#include "solver_launch.cuh"

namespace py = pybind11;
using namespace ldeq;

namespace {

template <typename T>
T* at(const py::dict& d, const char* name) {
  return reinterpret_cast<T*>(d[name].cast<uintptr_t>());
}

Maps maps_of(const py::dict& d) {
  const auto s = d["strides"].cast<std::vector<int64_t>>();
  const auto n = d["shape"].cast<std::vector<int64_t>>();
  return {s[0], s[1], s[2], s[3], int(n[1]), int(n[2]), int(n[3]), division_magic(n[3])};
}

template <typename A>
Axes<A> axes_of(const py::dict& d) {
  const auto a = d["axes"].cast<std::vector<double>>();
  return {A(a[0]), A(a[1]), A(a[2]), A(a[3])};
}

template <typename T>
void softargmax(const std::string& what, const py::dict& d) {
  using A = Accumulate<T>;
  const auto shape = d["shape"].cast<std::vector<int64_t>>();
  const int64_t maps = shape[0] * shape[1];
  if (what == "forward" || what == "readout_forward") {
    const SoftargmaxForward<T> p{maps_of(d),          axes_of<A>(d),         d["eps"].cast<A>(), at<A>(d, "beta"), d["beta_stride"].cast<int>(),
                                 at<T>(d, "input"),   at<T>(d, "heatmap"),   at<A>(d, "xy"),     at<A>(d, "std"),  at<A>(d, "stats")};
    py::gil_scoped_release release;
    what == "forward" ? launch_softargmax_forward(p, maps, 0) : launch_readout_forward(p, maps, 0);
  } else {
    const SoftargmaxBackward<T> p{maps_of(d),        axes_of<A>(d),       d["eps"].cast<A>(),       at<A>(d, "beta"),
                                  d["beta_stride"].cast<int>(), at<T>(d, "input"), at<A>(d, "stats"), at<T>(d, "grad_heatmap"),
                                  at<A>(d, "grad_xy"), at<A>(d, "grad_std"), at<T>(d, "grad_input"), at<A>(d, "grad_beta_parts")};
    A* const grad_beta = at<A>(d, "grad_beta");
    const int betas = p.beta_stride == 1 ? p.maps.channels : 1;
    py::gil_scoped_release release;
    what == "backward" ? launch_softargmax_backward(p, maps, 0) : launch_readout_backward(p, maps, 0);
    if (grad_beta != nullptr) launch_sum_beta_gradient(p.grad_beta, grad_beta, maps, betas, 0);
  }
}

Progress progress_of(const py::dict& d) {
  return {at<uint8_t>(d, "active"), at<int64_t>(d, "status"), at<int64_t>(d, "iterations"), at<float>(d, "residual"), at<float>(d, "norm"),
          at<float>(d, "first_norm"), at<int32_t>(d, "best_slot"), at<float>(d, "trace"), d["batch"].cast<int64_t>(), d["step"].cast<int>(),
          d["tol"].cast<float>(), d["relative"].cast<bool>()};
}

template <typename T>
void ring_of(const py::dict& d, const char* name, T* (&to)[kMaxHistory]) {
  const auto from = d[name].cast<std::vector<uintptr_t>>();
  for (size_t i = 0; i < kMaxHistory; ++i) to[i] = i < from.size() ? reinterpret_cast<T*>(from[i]) : nullptr;
}

template <typename F, typename G>
void anderson(const py::dict& d) {
  AndersonStep<F, G> p{};
  p.progress = progress_of(d);
  p.mixing = {at<double>(d, "gram"), at<float>(d, "alpha"), at<uint32_t>(d, "valid"), at<uint8_t>(d, "mixed"), at<float>(d, "lowest"),
              d["m"].cast<int>(), d["ridge"].cast<double>(), d["safeguards"].cast<bool>()};
  ring_of(d, "f", p.f);
  ring_of(d, "g", p.g);
  p.f_new = at<F>(d, "f_new");
  p.f_copy = at<F>(d, "f_copy");
  p.evicted = at<F>(d, "evicted");
  p.x = at<float>(d, "x");
  p.x_cast = at<F>(d, "x_cast");
  p.value = at<F>(d, "value");
  p.partials = at<float>(d, "partials");
  p.ticket = at<unsigned>(d, "ticket");
  p.size = d["size"].cast<int64_t>();
  p.n = d["n"].cast<int>();
  p.slot = d["slot"].cast<int>();
  p.beta = d["beta"].cast<float>();
  p.returns_x = d["returns_x"].cast<bool>();
  p.last = d["last"].cast<bool>();
  py::gil_scoped_release release;
  launch_anderson_step(p, 0);
}

template <typename F>
void fixed_point(const py::dict& d) {
  FixedPointStep<F> p{};
  p.progress = progress_of(d);
  p.f = at<F>(d, "f_new");
  p.evicted_f = at<F>(d, "evicted_f");
  p.previous_f = at<F>(d, "previous_f");
  p.evicted_x = at<float>(d, "evicted_x");
  p.x = at<float>(d, "x");
  p.x_out = at<float>(d, "x_out");
  p.x_cast = at<F>(d, "x_cast");
  p.value = at<F>(d, "value");
  p.partials = at<float>(d, "partials");
  p.ticket = at<unsigned>(d, "ticket");
  p.size = d["size"].cast<int64_t>();
  p.slot = d["slot"].cast<int>();
  p.evicted_slot = d["evicted_slot"].cast<int>();
  p.beta = d["beta"].cast<float>();
  py::gil_scoped_release release;
  launch_fixed_point_step(p, 0);
}

template <typename S, typename F>
void finish(const py::dict& d) {
  Finish<S, F> p{};
  const S* ring[kMaxHistory];
  ring_of(d, "ring", ring);
  for (int i = 0; i < kMaxHistory; ++i) p.ring[i] = ring[i];
  p.best_slot = at<int32_t>(d, "best_slot");
  p.iterations = at<int64_t>(d, "iterations");
  p.steps = d["steps"].cast<int>();
  p.value = at<F>(d, "value");
  p.size = d["size"].cast<int64_t>();
  const auto batch = d["batch"].cast<int64_t>();
  py::gil_scoped_release release;
  launch_finish(p, batch, 0);
}

template <typename F>
void solver(const std::string& what, bool half_g, const py::dict& d) {
  if (what == "anderson") return half_g ? anderson<F, __nv_bfloat16>(d) : anderson<F, float>(d);
  if (what == "fixed_point") return fixed_point<F>(d);
  if (what == "finish_x") return finish<float, F>(d);
  finish<F, F>(d);
}

}  // namespace

PYBIND11_MODULE(ldeq_host_kernels, m) {
  m.def("softargmax", [](const std::string& what, const std::string& dtype, const py::dict& d) {
    if (dtype == "float32") return softargmax<float>(what, d);
    if (dtype == "float64") return softargmax<double>(what, d);
    if (dtype == "bfloat16") return softargmax<__nv_bfloat16>(what, d);
    if (dtype == "float16") return softargmax<__half>(what, d);
    throw std::invalid_argument("no kernel for " + dtype);
  });
  m.def("solver", [](const std::string& what, const std::string& dtype, bool half_g, const py::dict& d) {
    if (dtype == "float32") return solver<float>(what, half_g, d);
    if (dtype == "bfloat16") return solver<__nv_bfloat16>(what, half_g, d);
    if (dtype == "float16") return solver<__half>(what, half_g, d);
    throw std::invalid_argument("no kernel for " + dtype);
  });
  m.def("partials", [](int64_t batch, int64_t size, int columns) {
    const bool wide = step_is_wide(size);
    return batch * columns * std::max(step_tiles(size, wide), fixed_point_tiles(size, wide));
  });
}
