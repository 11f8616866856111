"""Builds the device code for the CPU by ninja: the CUDA operators as a Python module, and a program for each sanitizer.

What is built stays in build/host between runs; ninja compiles what has changed.
"""

from __future__ import annotations

import fcntl
import importlib
import sys
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import pybind11
from native_build import ROOT, STABLE_ABI, Target, Toolchain, Unit, build
from native_build.libraries import CSRC, ISA_FLAGS, X86

HERE = ROOT / "tests" / "host"
DEVICE_CODE = ROOT / "csrc" / "cuda"
FOLDER = ROOT / "build" / "host"

FLAGS = ["-std=c++20", "-pthread", "-Wall", "-Wextra", "-Wno-unknown-pragmas", f"-I{DEVICE_CODE}", f"-I{HERE}"]
OPERATORS_FLAGS = ["-O1", "-fPIC", "-fvisibility=hidden", "-Wno-unused-parameter", "-DLDEQ_NAMESPACE=ldeq_host", STABLE_ABI]
# The kernels that selftest.cpp launches.
SELFTEST = ("softargmax_f32.cu", "softargmax_bf16.cu", "softargmax_f16.cu", "solver_f32.cu", "solver_bf16.cu")


def host_operators() -> ModuleType:
    """The CUDA operators' own code for CPU tensors: importing it registers the kernels of ``torch.ops.ldeq_host``.

    Its schemas must be defined first; binding.cpp says what the module offers besides.
    """
    tools = Toolchain()
    headers = [f"-isystem{path}" for path in (tools.home / "include", sysconfig.get_path("include"), pybind11.get_include())]
    sources = [HERE / "binding.cpp", *sorted(DEVICE_CODE.glob("*.cu"))]
    target = Target(
        name="host_operators.so",
        compile=[*tools.cxx, *FLAGS, *OPERATORS_FLAGS, *headers, "-x", "c++"],
        units=[Unit(source) for source in sources],
        link=[*tools.cxx, "-shared", "-pthread"],
        libraries=tools.torch_libraries,
    )
    return imported(built(target))


def program(name: str, *sanitizers: str) -> Path:
    """selftest.cpp with `sanitizers`, flags such as ``"-fsanitize=thread"``."""
    tools = Toolchain()
    sources = [HERE / "selftest.cpp", *(DEVICE_CODE / unit for unit in SELFTEST)]
    target = Target(
        name=name,
        compile=[*tools.cxx, *FLAGS, "-O1", "-g1", *sanitizers, "-x", "c++"],
        units=[Unit(source) for source in sources],
        link=[*tools.cxx, "-pthread", *sanitizers],
    )
    return built(target)


def cpu_program(*sanitizers: str) -> Path:
    """kernels_selftest.cpp with the CPU kernels of all instruction sets and `sanitizers`."""
    tools = Toolchain()
    target = Target(
        name="cpu_kernels",
        compile=[*tools.cxx, "-std=c++20", "-O0", "-g1", "-Wall", *sanitizers],
        units=[
            Unit(HERE / "kernels_selftest.cpp"),
            *(Unit(CSRC / "cpu" / f"{name}.cpp", flags) for name, flags in ISA_FLAGS.items() if X86 or not flags),
        ],
        link=[*tools.cxx, *sanitizers],
    )
    return built(target)


def built(target: Target) -> Path:
    """Builds a target in a folder of its own."""
    folder = FOLDER / target.name.split(".")[0]
    folder.mkdir(parents=True, exist_ok=True)
    with alone(folder):
        build([target], folder)
    return folder / target.name


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Two processes of tests do not build the same files at the same time."""
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def imported(path: Path) -> ModuleType:
    """Imports the extension module at `path`."""
    sys.path.insert(0, str(path.parent))
    try:
        return importlib.import_module(path.stem)
    finally:
        sys.path.remove(str(path.parent))
