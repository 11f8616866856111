// Binds the host build of the device code for pytest. Tensors come as addresses: this file knows as little of torch as the kernels.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <stdexcept>
#include <string>

#include "softargmax_launch.cuh"

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
  return {s[0], s[1], s[2], s[3], int(n[1]), int(n[2]), int(n[3]), division_magic(n[2], n[3])};
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

}  // namespace

PYBIND11_MODULE(ldeq_host_kernels, m) {
  m.def("softargmax", [](const std::string& what, const std::string& dtype, const py::dict& d) {
    if (dtype == "float32") return softargmax<float>(what, d);
    if (dtype == "float64") return softargmax<double>(what, d);
    if (dtype == "bfloat16") return softargmax<__nv_bfloat16>(what, d);
    if (dtype == "float16") return softargmax<__half>(what, d);
    throw std::invalid_argument("no kernel for " + dtype);
  });
}
