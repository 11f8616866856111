// Every kernel of csrc/cuda, for the compiler's report; no torch, nothing to link. LDEQ_PART picks a part, so that parts compile
// side by side.
#include "softargmax_launch.cuh"
#include "solver_launch.cuh"

namespace ldeq {

#define LDEQ_SOFTARGMAX(T)                                                                   \
  template void launch_softargmax_forward<T>(const SoftargmaxForward<T>&, int64_t, Stream);   \
  template void launch_readout_forward<T>(const SoftargmaxForward<T>&, int64_t, Stream);      \
  template void launch_softargmax_backward<T>(const SoftargmaxBackward<T>&, int64_t, Stream); \
  template void launch_readout_backward<T>(const SoftargmaxBackward<T>&, int64_t, Stream);

#define LDEQ_SOLVERS(F)                                                                                   \
  template void launch_anderson_step<F, float>(AndersonStep<F, float>, Stream);                           \
  template void launch_anderson_step<F, __nv_bfloat16>(AndersonStep<F, __nv_bfloat16>, Stream);           \
  template void launch_fixed_point_step<F>(FixedPointStep<F>, Stream);                                    \
  template void launch_finish<F, F>(Finish<F, F>, int64_t, Stream);

#if LDEQ_PART == 0
LDEQ_SOFTARGMAX(float)
LDEQ_SOFTARGMAX(double)
template void launch_sum_beta_gradient<float>(const float*, float*, int64_t, int, Stream);
template void launch_sum_beta_gradient<double>(const double*, double*, int64_t, int, Stream);
#elif LDEQ_PART == 1
LDEQ_SOFTARGMAX(__nv_bfloat16)
LDEQ_SOFTARGMAX(__half)
#else
LDEQ_SOLVERS(float)
LDEQ_SOLVERS(__nv_bfloat16)
LDEQ_SOLVERS(__half)
template void launch_finish<float, __nv_bfloat16>(Finish<float, __nv_bfloat16>, int64_t, Stream);
template void launch_finish<float, __half>(Finish<float, __half>, int64_t, Stream);
#endif

}  // namespace ldeq
