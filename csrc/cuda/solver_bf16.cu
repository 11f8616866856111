#include "solver_launch.cuh"

namespace ldeq {
LDEQ_ANDERSON(, __nv_bfloat16, float)
LDEQ_ANDERSON(, __nv_bfloat16, __nv_bfloat16)
LDEQ_FIXED_POINT(, __nv_bfloat16)
}
