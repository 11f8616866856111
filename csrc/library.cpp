// Every operator's schema, in one place. Implementations register themselves per device: csrc/cpu/<op>.cpp for the CPU,
// csrc/cuda/<op>.cu for CUDA.
//
// The names, arguments and results are described where the public functions are: ldeq/ops/<op>.py, which also adds the
// fake implementations and the gradients (the stable ABI has no autograd of its own).

#include <torch/csrc/stable/library.h>

// tests/host builds the CUDA operators for CPU tensors, under a name of their own.
#ifndef LDEQ_NAMESPACE
#define LDEQ_NAMESPACE ldeq
#endif

STABLE_TORCH_LIBRARY(LDEQ_NAMESPACE, m) {
  m.def(
      "softargmax_forward(Tensor logits, Tensor? betas, float beta, float eps, float scale_x, float offset_x, float scale_y, "
      "float offset_y, bool want_heatmap) -> (Tensor heatmap, Tensor xy, Tensor std, Tensor stats)");
  m.def(
      "softargmax_backward(Tensor? grad_heatmap, Tensor? grad_xy, Tensor? grad_std, Tensor logits, Tensor? betas, float beta, "
      "Tensor stats, float scale_x, float offset_x, float scale_y, float offset_y) -> (Tensor grad_logits, Tensor grad_betas)");
  m.def(
      "heatmap_readout_forward(Tensor heatmap, float eps, float scale_x, float offset_x, float scale_y, float offset_y) "
      "-> (Tensor xy, Tensor std, Tensor stats)");
  m.def(
      "heatmap_readout_backward(Tensor? grad_xy, Tensor? grad_std, Tensor heatmap, Tensor stats, float scale_x, "
      "float offset_x, float scale_y, float offset_y) -> Tensor");
  m.def(
      "anderson_step(Tensor x, Tensor[] f_ring, Tensor? leaving, Tensor(a!) g_ring, Tensor(b!) gram, Tensor(c!) numbers, "
      "Tensor(d!) flags, Tensor(e!) kept, Tensor(f!)? x_next, Tensor(g!)? x_cast, int slot, float beta, float ridge, "
      "float tol, bool relative, bool batch_stop, bool safeguards) -> ()");
  m.def(
      "fixed_point_step(Tensor x, Tensor f, Tensor? leaving, Tensor(a!) numbers, Tensor(b!) flags, Tensor(c!) kept, "
      "Tensor(d!)? x_next, Tensor(e!)? x_cast, int slot, float beta, float tol, bool relative, bool batch_stop) -> ()");
  m.def("best_so_far(Tensor[] ring, Tensor kept, Tensor start, Tensor flags) -> Tensor");
}
