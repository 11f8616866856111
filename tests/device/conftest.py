"""One suite for every backend: `target` is the device and the backend that its tests run on.

- as it is: the C++ kernels on the CPU;
- TRITON_INTERPRET=1: the Triton kernels in Triton's interpreter;
- LDEQ_TEST_DEVICE=cuda: the CUDA and the Triton kernels on a GPU (`make test-gpu`).
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from targets import TARGETS, Target, running_on


@pytest.fixture(params=TARGETS, ids=lambda t: f"{t.device}-{t.backend}")
def target(request: pytest.FixtureRequest) -> Iterator[Target]:
    with running_on(request.param):
        yield request.param
