"""Fixtures of the host build: see host_build.py."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from host_build import host_operators
from host_install import install, softargmax_module

from ldeq.ops import library


@pytest.fixture(scope="session")
def host_library() -> None:
    """Loads the device code as ``torch.ops.ldeq_host``, with the gradients of the operators that ldeq has."""
    torch.ops.load_library(str(host_operators()))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.ops, "ldeq", torch.ops.ldeq_host)
        softargmax = softargmax_module()
        for name, backward, setup in (
            ("softargmax", softargmax._softargmax_gradient(""), softargmax._softargmax_setup),
            ("heatmap_readout", softargmax._readout_gradient(""), softargmax._readout_setup),
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
    install(torch.ops.ldeq_host, monkeypatch)
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)
