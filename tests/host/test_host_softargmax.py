"""The suite of soft-argmax on the CUDA kernels, built for the CPU."""

from softargmax_suite import *  # noqa: F403
