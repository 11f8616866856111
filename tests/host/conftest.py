"""Fixtures of the host build: see build.py."""

from types import ModuleType

import pytest
from build import host_kernels


@pytest.fixture(scope="session")
def kernels() -> ModuleType:
    pytest.importorskip("pybind11", reason="pybind11 binds the host build of the device code; pip install pybind11")
    return host_kernels()
