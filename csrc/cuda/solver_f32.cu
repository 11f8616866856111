#include "solver_launch.cuh"

namespace ldeq {
LDEQ_DECIDE(, float)
LDEQ_ANDERSON(, float, float)
LDEQ_ANDERSON(, float, __nv_bfloat16)
LDEQ_FIXED_POINT(, float)
LDEQ_GATHER(, uint16_t)
LDEQ_GATHER(, uint32_t)
LDEQ_GATHER(, uint2)
LDEQ_GATHER(, uint4)
}
