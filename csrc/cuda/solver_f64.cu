#include "solver_launch.cuh"

namespace ldeq {
LDEQ_DECIDE(, double)
LDEQ_ANDERSON(, double, double)
LDEQ_FIXED_POINT(, double)
}
