"""Every CUDA kernel, built for the CPU."""

from every_kernel_suite import *  # noqa: F403
