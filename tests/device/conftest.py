"""One suite for every compiled backend: `target` is the device and the backend that its tests run on.

- as it is: the C++ kernels on the CPU;
- TRITON_INTERPRET=1: the Triton kernels in Triton's interpreter;
- LDEQ_TEST_DEVICE=cuda: the CUDA and the Triton kernels on a GPU (`make test-gpu`).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import NamedTuple

import pytest
import torch

import ldeq.ops
from ldeq.ops import triton_library


class Target(NamedTuple):
    device: str
    backend: str

    @property
    def suffix(self) -> str:
        """Of the names of its operators, torch.ops.ldeq.<name><suffix>."""
        return "_triton" if self.backend == "triton" else ""

    def operator(self, name: str):
        return getattr(torch.ops.ldeq, name + self.suffix)


ON_GPU = os.environ.get("LDEQ_TEST_DEVICE") == "cuda"
if ON_GPU:
    if not torch.cuda.is_available():
        raise pytest.UsageError("LDEQ_TEST_DEVICE=cuda, but torch sees no GPU")
    TARGETS = [Target("cuda", "cuda"), Target("cuda", "triton")]
else:
    TARGETS = [Target("cpu", "triton" if triton_library.interpreted() else "cpu")]


@pytest.fixture(params=TARGETS, ids="-".join)
def target(request: pytest.FixtureRequest) -> Iterator[Target]:
    reason = ldeq.ops.available_backends()[request.param.backend]
    if reason != "available":
        # A run on a GPU that leaves a backend out would be green for nothing.
        (pytest.fail if ON_GPU else pytest.skip)(f"backend {request.param.backend}: {reason}")
    with ldeq.ops.use_backend(request.param.backend):
        yield request.param
