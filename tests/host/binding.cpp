// The CUDA operators for CPU tensors as a Python module: importing it registers them with torch, and its functions say which
// kernels ran, or let something else run them.
#include <pybind11/functional.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <optional>

#include "cuda_on_host.h"

namespace py = pybind11;

using Launch = std::function<void(const std::string& kernel, unsigned grid, int threads, py::bytes parameters)>;

PYBIND11_MODULE(host_operators, m) {
  m.def("launches", [] { return on_host::launches; }, "How often each kernel was launched, by its name with its types.");
  m.def(
      "launch_by",
      [](std::optional<Launch> launch) {
        if (!launch) {
          on_host::launcher = nullptr;
          return;
        }
        on_host::launcher = [launch = *launch](const std::string& kernel, dim3 grid, int threads, const void* bytes, size_t size) {
          // Backward passes come from a thread of torch's own, without Python's lock.
          const py::gil_scoped_acquire lock;
          launch(kernel, grid.x, threads, py::bytes(static_cast<const char*>(bytes), size));
        };
      },
      py::arg("launch"),
      "Calls launch(kernel, grid, threads, parameters) in place of running a kernel here; None: runs kernels here again.");
}
