#include "softargmax_launch.cuh"

namespace ldeq {
LDEQ_SOFTARGMAX(, __nv_bfloat16)
}
