"""Runs the operators on translated PTX: tests/host builds the operators, and its hook hands every launch to the machine."""

from __future__ import annotations

from collections.abc import Iterator
from types import ModuleType
from typing import Any

import budgets
import launch_counts
import nvcc
import ptx_build
import pytest
import torch
from host_build import host_operators
from host_install import install
from ptx_launcher import Launcher
from targets import Target, uninitialised_memory_is_nan

from ldeq.ops import library as cpu_library
from ldeq.ops import schemas
from ldeq.ops.softargmax.registration import register_derivatives

# All types and architectures, or the part that every run of the tests can afford.
KINDS = ("f32", "bf16", "f16", "f64") if budgets.FULL else ("f32",)
ARCHITECTURES = ("90", "75", "120") if budgets.FULL else ("90",)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leaves out what needs kernels that are not built."""

    def left_out(item: pytest.Item) -> bool:
        values = item.callspec.params.values() if isinstance(item, pytest.Function) and hasattr(item, "callspec") else ()
        return not budgets.FULL and any(isinstance(v, torch.dtype) and v != torch.float32 for v in values)

    config.hook.pytest_deselected(items=[item for item in items if left_out(item)])
    items[:] = [item for item in items if not left_out(item)]


def pytest_terminal_summary(terminalreporter: Any) -> None:
    for line in launch_counts.lines():
        terminalreporter.write_line(line)


@pytest.fixture(scope="session")
def host_library() -> Iterator[ModuleType]:
    if nvcc.compiler() is None:
        pytest.skip("nvcc is not installed; install a CUDA toolkit to run the PTX of the CUDA kernels")
    defined = schemas.define("ldeq_host")
    module = host_operators()
    register_derivatives("ldeq_host")
    ptx_build.machine().watch_memory()
    yield module
    del defined


@pytest.fixture(scope="session", params=ARCHITECTURES, ids=lambda a: f"sm_{a}")
def launcher(request: pytest.FixtureRequest, host_library: ModuleType) -> Iterator[Launcher]:
    """All kernels of one architecture, translated and compiled."""
    found, libraries = {}, {}
    for kind in KINDS:
        kernels = ptx_build.compiled(request.param, kind)
        built = ptx_build.machine().Library(str(ptx_build.library(f"sm_{request.param}_{kind}", kernels)))
        for name, mangled in ptx_build.readable([k.name for k in kernels]).items():
            found[name] = next(k for k in kernels if k.name == mangled)
            libraries[name] = built
    launcher = Launcher(request.param, found, libraries)
    yield launcher
    launch_counts.note("nvcc", f"sm_{request.param}", launcher.launched)


@pytest.fixture
def device_code(host_library: ModuleType, launcher: Launcher, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """ldeq's backend "cpu" is the PTX of the CUDA kernels; memory that nothing has written yet is NaN."""
    install("ldeq_host", monkeypatch)
    host_library.launch_by(launcher)
    with uninitialised_memory_is_nan():
        yield
    host_library.launch_by(None)


@pytest.fixture
def cpu_operators() -> Any:
    """The operators of the CPU library, for comparison."""
    if cpu_library.MISSING is not None:
        pytest.skip(f"native library: {cpu_library.MISSING}")
    return torch.ops.ldeq


@pytest.fixture
def target(device_code: None) -> Target:
    return Target("cpu", "cpu", "ldeq_host")
