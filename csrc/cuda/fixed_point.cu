// CUDA side of the fixed-point step.

#include "solver_launch.cuh"
#include "step.h"

namespace ldeq::cuda {
namespace {

void fixed_point_step(const Tensor& x, const Tensor& f, std::optional<Tensor> evicted, const Tensor& measurements, const Tensor& flags,
                      const Tensor& saved_best, std::optional<Tensor> x_next, std::optional<Tensor> x_cast, int64_t slot, double beta,
                      double tol, bool relative, bool batch_stop) {
  const StepTensors t{x, measurements, flags, saved_best, evicted, x_next, x_cast};
  const Place place = check_fixed_point(t, f, slot, kDevice);
  if (x.size(0) == 0) return;
  with_element(type_of(f, "f"), [&](auto element) {
    using F = decltype(element);
    using A = Accumulate<F>;
    FixedPointStep<F> p{};
    p.f = static_cast<const F*>(f.const_data_ptr());
    p.x = static_cast<const A*>(x.const_data_ptr());
    p.x_next = static_cast<A*>(mutable_pointer(x_next));
    p.x_cast = p.x_next ? static_cast<F*>(mutable_pointer(x_cast)) : nullptr;
    p.evicted = evicted_of(t);
    p.size = x.size(1);
    p.beta = static_cast<A>(beta);
    p.decision.samples = sample_state_of(t, {slot, tol, relative, batch_stop}, 0);
    p.decision.columns = kNormColumns;
    const Launch launch(place);
    const Tensor room = workspace(p.decision, step_tiles(p), x);
    launch_step(p, launch);
    launch.check();
  });
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(LDEQ_NAMESPACE, LDEQ_KEY, m) {
  m.impl("fixed_point_step", TORCH_BOX(&fixed_point_step));
}

}  // namespace ldeq::cuda
