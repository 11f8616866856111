#include "softargmax_launch.cuh"

namespace ldeq {
LDEQ_SOFTARGMAX(, __half)
}
