"""The suite of soft-argmax on the PTX of the CUDA kernels."""

from softargmax_suite import *  # noqa: F403
