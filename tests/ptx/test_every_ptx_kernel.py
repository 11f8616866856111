"""Every CUDA kernel, as PTX."""

from every_kernel_suite import *  # noqa: F403
