"""Triton kernels, one file an operator. None is part of this version: operators run on their PyTorch reference."""
