"""One suite for every backend: `target` is the device and the backend that its tests run on.

- as it is: plain PyTorch and the C++ kernels on the CPU;
- TRITON_INTERPRET=1: the Triton kernels in Triton's interpreter;
- LDEQ_TEST_DEVICE=cuda: the CUDA and the Triton kernels on a GPU (`make test-gpu`).
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import torch
from targets import Target, uninitialised_memory_is_nan

import ldeq.ops
from ldeq.ops import triton_library

ON_GPU = os.environ.get("LDEQ_TEST_DEVICE") == "cuda"
if ON_GPU:
    if not torch.cuda.is_available():
        raise pytest.UsageError("LDEQ_TEST_DEVICE=cuda, but torch sees no GPU")
    TARGETS = [Target("cuda", "cuda"), Target("cuda", "triton")]
elif triton_library.interpreted():
    TARGETS = [Target("cpu", "triton")]
else:
    TARGETS = [Target("cpu", "torch"), Target("cpu", "cpu")]


@pytest.fixture(params=TARGETS, ids=lambda t: f"{t.device}-{t.backend}")
def target(request: pytest.FixtureRequest) -> Iterator[Target]:
    reason = ldeq.ops.available_backends()[request.param.backend]
    if reason != "available":
        # A run on a GPU that leaves a backend out would be green for nothing.
        (pytest.fail if ON_GPU else pytest.skip)(f"backend {request.param.backend}: {reason}")
    with ldeq.ops.use_backend(request.param.backend), uninitialised_memory_is_nan():
        yield request.param
