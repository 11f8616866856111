#include "solver_launch.cuh"

namespace ldeq {
LDEQ_SETTLE(, float)
LDEQ_ANDERSON(, float, float)
LDEQ_ANDERSON(, float, __nv_bfloat16)
LDEQ_FIXED_POINT(, float)
}
