"""What the operators launch at real sizes: each kernel with its grid, its parameters and its machine code.

The CUDA operators run in their build for the CPU (tests/support/host_build.py), which hands over every launch in place of
running it; Triton's launches are stood in for (tests/support/triton_ahead.py). Nothing is computed.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import nvcc
import torch
from host_build import host_operators
from torch import Tensor
from triton_ahead import Ahead, TritonLaunch

from ldeq.ops import schemas
from ldeq.ops.layout import FLAGS, MEASUREMENTS

from .gpus import GPU
from .sass import Instruction, functions

MAPS = (98, 64, 64)
"""Heatmaps of a sample in the paper: 98 landmarks."""
HISTORY = 6


@dataclass(frozen=True)
class Launch:
    name: str
    grid: int
    threads: int
    registers: int
    shared: int
    stack: int
    parameters: bytes
    code: list[Instruction]


@dataclass(frozen=True)
class Case:
    """One call of an operator."""

    name: str
    batch: int
    kind: str
    """Of the elements: f32 or bf16."""
    bytes: int
    """That it must move, by the formulas of ldeq/ops."""
    call: Callable[[str], object]
    """Runs it, given the suffix of the operators' names."""


def cases(batch: int, kind: str) -> list[Case]:
    """The hot operators at the paper's sizes."""
    dtype = {"f32": torch.float32, "bf16": torch.bfloat16}[kind]
    d = batch * MAPS[0] * MAPS[1] * MAPS[2]
    size = dtype.itemsize
    maps = torch.empty(batch, *MAPS, dtype=dtype)
    stats = torch.empty(batch, MAPS[0], 8, dtype=torch.float64)
    grads = torch.empty(batch, MAPS[0], 2), torch.empty(batch, MAPS[0])
    axes = (1 / 64, 0.0, 1 / 64, 0.0)

    def forward(suffix: str, heatmap: bool) -> object:
        return _operator("softargmax_forward", suffix)(maps, None, 0.4, 1e-4, *axes, heatmap)

    def backward(suffix: str, heatmap: bool) -> object:
        grad = torch.empty_like(maps) if heatmap else None
        return _operator("softargmax_backward", suffix)(grad, *grads, maps, None, 0.4, stats, *axes)

    found = [
        Case("soft-argmax forward, heatmap", batch, kind, 2 * d * size, lambda s: forward(s, True)),
        Case("soft-argmax forward, coordinates alone", batch, kind, d * size, lambda s: forward(s, False)),
        Case("soft-argmax backward, heatmap", batch, kind, 3 * d * size, lambda s: backward(s, True)),
        Case("soft-argmax backward, coordinates alone", batch, kind, 2 * d * size, lambda s: backward(s, False)),
    ]
    for history in (torch.float32, torch.bfloat16) if kind == "bf16" else (torch.float32,):
        g = history.itemsize
        # Reads f, x and the older g, writes g; reads the ring of f, writes x, and its cast for a cell in a half type.
        moved = d * (size + 4 + HISTORY * g + HISTORY * size + 4 + (size if size == 2 else 0))
        name = "Anderson step" + (f", {'bf16' if g == 2 else 'float32'} history" if kind == "bf16" else "")
        found.append(Case(name, batch, kind, moved, _anderson(batch, dtype, history)))
    moved = d * (size + 4 + 4 + (size if size == 2 else 0))
    return [*found, Case("fixed-point step", batch, kind, moved, _fixed_point(batch, dtype))]


def _operator(name: str, suffix: str) -> Callable[..., object]:
    found: Callable[..., object] = getattr(torch.ops.ldeq if suffix else torch.ops.ldeq_host, name + suffix)
    return found


def _state(batch: int, dtype: torch.dtype, history: int) -> tuple[int, list[Tensor], Tensor, Tensor, Tensor, Tensor | None]:
    d = MAPS[0] * MAPS[1] * MAPS[2]
    x, x_next = torch.empty(batch, d), torch.empty(batch, d)
    measurements = torch.empty(batch, MEASUREMENTS, dtype=torch.float64)
    flags = torch.empty(batch, FLAGS + history, dtype=torch.int64)
    cast = torch.empty(batch, d, dtype=dtype) if dtype.itemsize == 2 else None
    return d, [x, x_next], measurements, flags, torch.empty(batch, d, dtype=dtype), cast


def _anderson(batch: int, dtype: torch.dtype, history: torch.dtype) -> Callable[[str], object]:
    def call(suffix: str) -> object:
        d, (x, x_next), measurements, flags, saved, cast = _state(batch, dtype, HISTORY)
        ring = [torch.empty(batch, d, dtype=dtype) for _ in range(HISTORY)]
        g, gram = torch.empty(HISTORY, batch, d, dtype=history), torch.empty(batch, HISTORY, HISTORY, dtype=torch.float64)
        tensors = x, ring, torch.empty_like(saved), g, gram, measurements, flags, saved, x_next, cast
        return _operator("anderson_step", suffix)(*tensors, 2, 1.0, 0.0, 1e-3, True, False, True)

    return call


def _fixed_point(batch: int, dtype: torch.dtype) -> Callable[[str], object]:
    def call(suffix: str) -> object:
        d, (x, x_next), measurements, flags, saved, cast = _state(batch, dtype, 0)
        f = torch.empty(batch, d, dtype=dtype)
        tensors = x, f, torch.empty_like(saved), measurements, flags, saved, x_next, cast
        return _operator("fixed_point_step", suffix)(*tensors, 0, 1.0, 1e-3, True, False)

    return call


# --- CUDA ---


@cache
def _host() -> tuple[object, object]:
    """The CUDA operators for CPU tensors, and what keeps their schemas, if nobody has defined them yet."""
    return None if hasattr(torch.ops.ldeq_host, "anderson_step") else schemas.define("ldeq_host"), host_operators()


def cuda_launches(case: Case, gpu: GPU) -> list[Launch]:
    """What the CUDA library launches for a call."""
    _, host = _host()
    found: list[Launch] = []

    def record(name: str, grid: int, threads: int, parameters: bytes) -> None:
        kernel = _cuda_kernels(gpu.capability)[nvcc.readable(name)]
        found.append(replace(kernel, grid=grid, threads=threads, parameters=parameters))

    host.launch_by(record)  # type: ignore[attr-defined]
    try:
        case.call("")
    finally:
        host.launch_by(None)  # type: ignore[attr-defined]
    return found


@cache
def _cuda_kernels(capability: int) -> dict[str, Launch]:
    """Every kernel of float32 and bf16, by its readable name."""
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for unit in ("solver_f32", "softargmax_f32", "solver_bf16", "softargmax_bf16"):
            cubin = Path(folder) / f"{unit}.cubin"
            nvcc.cubin(str(capability), nvcc.DEVICE_CODE / f"{unit}.cu", cubin)
            for mangled, launch in _dumped(cubin).items():
                said = subprocess.run(["c++filt", mangled], capture_output=True, text=True, check=True).stdout
                name = nvcc.readable(said)
                found[name] = replace(launch, name=name)
    return found


# --- Triton ---


@cache
def _ahead(capability: int) -> Ahead:
    return Ahead(capability, lambda launch: None)


def triton_launches(case: Case, gpu: GPU) -> list[Launch]:
    """What the Triton operators launch for a call."""
    ahead = _ahead(gpu.capability)
    found: list[Launch] = []

    def record(launch: TritonLaunch) -> None:
        kernel = _triton_kernel(launch.compiled.cubin)
        compiled = launch.compiled
        found.append(
            replace(kernel, name=compiled.name, grid=launch.grid, threads=compiled.threads, shared=compiled.shared,
                    parameters=launch.parameters)
        )  # fmt: skip

    ahead.receive = record
    with ahead.installed():
        case.call("_triton")
    return found


@cache
def _triton_kernel(cubin: bytes) -> Launch:
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        (launch,) = _dumped(Path(file.name)).values()
    return launch


# --- both ---


def _dumped(cubin: Path) -> dict[str, Launch]:
    """The kernels of a file of machine code by their mangled names; grid, threads and parameters are those of a launch."""
    return {
        name: Launch(name, 0, 0, use["REG"], use["SHARED"], use["STACK"] + use["LOCAL"], b"", code)
        for (name, code), use in ((item, _usage(cubin)[item[0]]) for item in functions(_objdump("-sass", cubin)).items())
    }


def _usage(cubin: Path) -> dict[str, dict[str, int]]:
    said = _objdump("--dump-resource-usage", cubin)
    return {
        name: {key: int(value) for key, value in re.findall(r"(REG|STACK|SHARED|LOCAL):(\d+)", rest)}
        for name, rest in re.findall(r"Function (\S+):\n(.*)", said)
    }


def _objdump(flag: str, cubin: Path) -> str:
    return subprocess.run([_tool(), flag, str(cubin)], capture_output=True, text=True, check=True).stdout


@cache
def _tool() -> str:
    """cuobjdump of the CUDA toolkit, or the one that comes with Triton."""
    if found := shutil.which("cuobjdump"):
        return found
    import triton

    return str(Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump")
