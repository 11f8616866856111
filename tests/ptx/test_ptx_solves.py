"""The suite of solve steps on the PTX of the CUDA kernels."""

from solve_step_suite import *  # noqa: F403
