"""Fixtures of the host build: see host_build.py."""

import importlib
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from host_build import host_operators

from ldeq.ops import library


@pytest.fixture(scope="session")
def host_library() -> None:
    """Loads the device code as ``torch.ops.ldeq_host``, with the gradients of the operators that ldeq has."""
    torch.ops.load_library(str(host_operators()))
    module = importlib.import_module("ldeq.ops.softargmax")  # the package's attribute of this name is the function
    for name, backward, setup in (
        ("softargmax", module._softargmax_backward, module._softargmax_setup),
        ("heatmap_readout", module._readout_backward, module._readout_setup),
    ):
        torch.library.register_autograd(f"ldeq_host::{name}_forward", backward, setup_context=setup)


# Before `device_code` puts others in their place.
_CPU_OPERATORS = torch.ops.ldeq


@pytest.fixture
def cpu_operators() -> Any:
    """The operators of the CPU library, for comparison."""
    if library.MISSING is not None:
        pytest.skip(f"native library: {library.MISSING}")
    return _CPU_OPERATORS


@pytest.fixture
def device_code(host_library: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """ldeq's compiled operators are the CUDA ones, built for the CPU; memory that nothing has written yet is NaN."""
    monkeypatch.setattr(torch.ops, "ldeq", torch.ops.ldeq_host)
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)
