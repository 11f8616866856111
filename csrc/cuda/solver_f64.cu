#include "solver_launch.cuh"

namespace ldeq {
LDEQ_SETTLE(, double)
LDEQ_ANDERSON(, double, double)
LDEQ_FIXED_POINT(, double)
}
