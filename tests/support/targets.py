"""What the suites of the operators know of the backend that they run on."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest
import torch

import ldeq.ops
from ldeq.ops import triton_library

ON_GPU = os.environ.get("LDEQ_TEST_DEVICE") == "cuda"


@dataclass(frozen=True)
class Target:
    device: str
    backend: str
    namespace: str = "ldeq"
    """Of its operators, torch.ops.<namespace>.<name><suffix>."""

    @property
    def suffix(self) -> str:
        return "_triton" if self.backend == "triton" else ""

    def operator(self, name: str) -> Any:
        return getattr(getattr(torch.ops, self.namespace), name + self.suffix)

    def needs(self, dtype: torch.dtype, size: int) -> None:
        """Skips what the backend does not serve, and what would take the interpreter minutes."""
        if self.backend == "triton" and dtype == torch.float64:
            pytest.skip("the Triton kernels do not serve float64")
        if self.slow and size > 4096:
            pytest.skip("too large for the interpreter")

    def needs_operators(self) -> None:
        if self.backend == "torch":
            pytest.skip("the reference is no operator of torch.ops")

    @property
    def slow(self) -> bool:
        return self.backend == "triton" and triton_library.interpreted()

    @property
    def records_empty_samples(self) -> bool:
        """Triton launches nothing for samples without elements."""
        return self.backend != "triton"

    @property
    def checks_on_the_host(self) -> bool:
        """Whether the operator can read the state before it runs."""
        return self.backend == "cpu" and self.namespace == "ldeq"

    @property
    def opchecks(self) -> tuple[str, ...]:
        """The host build has no fakes of its own."""
        everything = ("test_schema", "test_autograd_registration", "test_faketensor", "test_aot_dispatch_dynamic")
        return everything if self.namespace == "ldeq" else ("test_schema",)


@contextmanager
def uninitialised_memory_is_nan() -> Iterator[None]:
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)


if ON_GPU:
    if not torch.cuda.is_available():
        raise pytest.UsageError("LDEQ_TEST_DEVICE=cuda, but torch sees no GPU")
    TARGETS = [Target("cuda", "cuda"), Target("cuda", "triton")]
else:
    TARGETS = [Target("cpu", "triton" if triton_library.interpreted() else "cpu")]


@contextmanager
def running_on(target: Target) -> Iterator[None]:
    reason = ldeq.ops.available_backends()[target.backend]
    if reason != "available":
        # A run on a GPU that leaves a backend out would be green for nothing.
        (pytest.fail if ON_GPU else pytest.skip)(f"backend {target.backend}: {reason}")
    with ldeq.ops.use_backend(target.backend), uninitialised_memory_is_nan():
        yield
