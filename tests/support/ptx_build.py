"""Builds what the tests run, in build/ptx: PTX by nvcc, C++ of it, and a library of kernels that the machine loads."""

from __future__ import annotations

import subprocess
import sysconfig
from functools import cache
from pathlib import Path
from types import ModuleType

import nvcc
import pybind11
from host_build import alone, imported
from native_build import ROOT, Target, Toolchain, Unit, build
from ptx_text import Kernel, kernels
from ptx_translation import translate

HERE = ROOT / "tests" / "ptx"
FOLDER = ROOT / "build" / "ptx"
FLAGS = ["-std=c++20", "-fPIC", "-march=native", "-ffp-contract=off", "-U_FORTIFY_SOURCE"]
UNITS = ("solver", "softargmax")


@cache
def machine() -> ModuleType:
    """The module `ptx_machine`."""
    tools = Toolchain()
    headers = [tools.home / "include", Path(sysconfig.get_path("include")), Path(pybind11.get_include())]
    target = Target(
        name="ptx_machine.so",
        compile=[*tools.cxx, *FLAGS, "-O2", "-Wall", "-Wextra", *(f"-isystem{path}" for path in headers)],
        units=[Unit(HERE / "ptx_machine.cpp")],
        link=[*tools.cxx, "-shared"],
        libraries=[f"-L{tools.home / 'lib'}", "-lc10"],
    )
    FOLDER.mkdir(parents=True, exist_ok=True)
    with alone(FOLDER):
        build([target], FOLDER)
    return imported(FOLDER / target.name)


def compiled(architecture: str, kind: str) -> list[Kernel]:
    """The kernels that nvcc makes of csrc/cuda for one type of elements, like ``"f32"``."""
    return [kernel for unit in UNITS for kernel in kernels(nvcc.ptx_of(architecture, nvcc.DEVICE_CODE / f"{unit}_{kind}.cu"))]


def library(name: str, found: list[Kernel]) -> Path:
    """A library with these kernels; what has not changed since the last time is not compiled again."""
    machine()
    folder = FOLDER / name
    folder.mkdir(exist_ok=True)
    with alone(folder):
        sources = [written(folder / f"{kernel.name}.cpp", translate(kernel)) for kernel in found]
        tools = Toolchain()
        target = Target(
            name=f"{name}.so",
            compile=[*tools.cxx, *FLAGS, "-O1", "-fwrapv", "-w", f"-I{HERE}"],
            units=[Unit(source) for source in sources],
            link=[*tools.cxx, "-shared"],
            libraries=[str(FOLDER / "ptx_machine.so")],
        )
        build([target], folder)
    return folder / target.name


def written(path: Path, text: str) -> Path:
    """`path`, whose time changes only if its text does."""
    if not path.exists() or path.read_text() != text:
        path.write_text(text)
    return path


def readable(names: list[str]) -> dict[str, str]:
    """By a kernel's name as nvcc.readable() has it, its name in PTX."""
    said = subprocess.run(["c++filt"], input="\n".join(names), capture_output=True, text=True, check=True).stdout
    return {nvcc.readable(line): name for line, name in zip(said.splitlines(), names, strict=True)}
