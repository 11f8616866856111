#include "solver_launch.cuh"

namespace ldeq {
LDEQ_ANDERSON(, __half, float)
LDEQ_ANDERSON(, __half, __nv_bfloat16)
LDEQ_FIXED_POINT(, __half)
}
