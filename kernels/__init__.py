"""Triton kernels, one file an operator. `ldeq.ops` does not choose them yet: see `make test-device` for what they can do."""
