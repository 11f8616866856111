"""Fixtures of the host build: see host_build.py."""

from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest
import torch
from host_build import host_operators
from host_install import install
from targets import Target, uninitialised_memory_is_nan

from ldeq.ops import library, schemas
from ldeq.ops.softargmax.registration import register_derivatives


@pytest.fixture(scope="session")
def host_library() -> Iterator[ModuleType]:
    """Loads the device code as ``torch.ops.ldeq_host``, with the schemas and gradients of the operators that ldeq has."""
    defined = schemas.define("ldeq_host")
    module = host_operators()
    register_derivatives("ldeq_host")
    yield module
    del defined


@pytest.fixture
def cpu_operators() -> Any:
    """The operators of the CPU library, for comparison."""
    if library.MISSING is not None:
        pytest.skip(f"native library: {library.MISSING}")
    return torch.ops.ldeq


@pytest.fixture
def device_code(host_library: ModuleType, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """ldeq's backend "cpu" is the CUDA code, built for the CPU; memory that nothing has written yet is NaN."""
    install("ldeq_host", monkeypatch)
    with uninitialised_memory_is_nan():
        yield


@pytest.fixture
def target(device_code: None) -> Target:
    return Target("cpu", "cpu", "ldeq_host")
