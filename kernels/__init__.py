"""Triton kernels, one file an operator, with their launches. `ldeq.ops` imports them when it first needs them."""
