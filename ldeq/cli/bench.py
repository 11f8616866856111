"""``ldeq bench``."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from ..engine import SettingsError
from ..engine.device import resolve_device
from ..ops import BackendError, available_backends, softargmax, use_backend
from ..solvers import anderson, fixed_point
from .arguments.bench import BenchArguments
from .timing import copy_bandwidth, machine, paired

# LDEQ's heatmaps and Anderson's history.
SHAPE = (98, 64, 64)
HISTORY = 6
STEPS = 8
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

# Inputs rotate, so that no cache serves one of them twice.
ROTATION = 8


@dataclass(frozen=True)
class Case:
    """One operation at one size: what to run (given the number of the round), and the bytes that it must move."""

    name: str
    run: Callable[[int], object]
    floor_bytes: int
    per: int = 1
    """Steps that one run takes: times are told per step."""


class Bench(BenchArguments):
    def run(self) -> int:
        if self.batch < 1 or self.rounds < 1:
            raise SettingsError(f"batch and rounds must be >= 1, got {self.batch} and {self.rounds}")
        found = measure(str(resolve_device(self.device)), self.batch, DTYPES[self.dtype], rounds=self.rounds)
        if self.json:
            print(json.dumps(found, indent=1))
        else:
            _show(found)
        return 0


def measure(
    device: str, batch: int, dtype: torch.dtype, *, shape: tuple[int, int, int] = SHAPE, steps: int = STEPS, rounds: int = 7
) -> dict[str, Any]:
    """Every case on every backend that serves it, interleaved.

    Returns:
        the machine, the measured copy bandwidth in bytes a second, and for each case, by backend, what `paired` tells, per
        step, with ``floor``, the share of the floor's time at that bandwidth.
    """
    bandwidth = copy_bandwidth(device)
    report: dict[str, Any] = {"batch": batch, "shape": list(shape), "dtype": str(dtype).removeprefix("torch.")}
    report |= {"machine": machine(device), "copy_bytes_per_s": bandwidth, "cases": {}}
    for case in cases(device, batch, dtype, shape=shape, steps=steps):
        served = {name: partial(_under, name, case.run) for name in backends(device) if _serves(name, case)}
        times = paired(served, device=device, rounds=rounds, warm=1)
        for entry in times.values():
            for key in ("median_ms", "best_ms", "p20_ms", "p80_ms"):
                entry[key] /= case.per
            entry["floor"] = case.floor_bytes / bandwidth * 1e3 / (entry["median_ms"] * case.per)
        report["cases"][case.name] = times
    return report


def backends(device: str) -> list[str]:
    """The compiled backends that can run on this kind of device, and the reference."""
    kinds = ("cuda", "triton", "torch") if torch.device(device).type == "cuda" else ("cpu", "torch")
    present = available_backends()
    return [name for name in kinds if present[name] == "available"]


def cases(
    device: str, batch: int, dtype: torch.dtype, *, shape: tuple[int, int, int] = SHAPE, steps: int = STEPS
) -> list[Case]:
    """Soft-argmax forward and backward, and whole solves of Anderson and of the fixed point whose f costs nothing."""
    maps = [torch.randn(batch, *shape, device=device).to(dtype) for _ in range(ROTATION)]
    tracked = [h.detach().requires_grad_() for h in maps]
    start = torch.zeros_like(maps[0])
    ones = torch.ones(batch, shape[0], 2, device=device, dtype=torch.promote_types(dtype, torch.float32))

    def forward(i: int) -> Tensor:
        with torch.no_grad():
            return softargmax(maps[i % ROTATION], 0.4, coords="unit", heatmap=False).xy

    def both(i: int) -> Tensor:
        h = tracked[i % ROTATION]
        xy = softargmax(h, 0.4, coords="unit", heatmap=False).xy
        return torch.autograd.grad(xy, h, ones.to(xy.dtype))[0]

    def solve(solver: Callable[..., Any], **options: Any) -> Callable[[int], object]:
        def run(_: int) -> object:
            with torch.no_grad():
                return solver(free_map(maps), start, max_iter=steps, tol=0.0, **options)

        return run

    n = start.numel()
    return [
        Case("soft-argmax forward", forward, n * dtype.itemsize),
        Case("soft-argmax with backward", both, 3 * n * dtype.itemsize),
        Case("Anderson step, m = 6", solve(anderson, m=HISTORY), n * anderson_bytes(steps, HISTORY, dtype), steps),
        Case("fixed-point step", solve(fixed_point), n * fixed_point_bytes(steps, dtype, start.device.type), steps),
    ]


def free_map(outputs: list[Tensor]) -> Callable[[Tensor], Tensor]:
    """An f that costs nothing: it hands out fixed tensors in turn, so that only the solver is timed."""
    calls = 0

    def f(z: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return outputs[calls % len(outputs)].view_as(z)

    return f


def anderson_bytes(steps: int, m: int, dtype: torch.dtype) -> int:
    """Bytes for each number of the state that a solve of `steps` evaluations must move: 15 numbers a step at m = 6.

    With n pairs, pass 1 reads f, x and n - 1 residuals g and writes g; pass 2 reads n f and writes x. x and g are float32 at
    least; a half state has x written in its own type as well. The last evaluation reads f and x for its norms.
    """
    own, work = dtype.itemsize, max(dtype.itemsize, 4)
    total = 0
    for step in range(steps - 1):
        n = min(step + 1, m)
        total += own * (1 + n) + work * (1 + (n - 1) + 1 + 1) + (own if own < work else 0)
    return total + own + work


def fixed_point_bytes(steps: int, dtype: torch.dtype, device: str) -> int:
    """As `anderson_bytes`: a step reads f and x and writes x. On a CPU x is the f before where no type is converted, and
    nothing is written."""
    own, work = dtype.itemsize, max(dtype.itemsize, 4)
    written = 0 if device == "cpu" and own == work else work + (own if own < work else 0)
    return (steps - 1) * (own + work + written) + own + work


def _under(backend: str, run: Callable[[int], object], i: int) -> object:
    with use_backend(backend):
        return run(i)


def _serves(backend: str, case: Case) -> bool:
    try:
        _under(backend, case.run, 0)
    except BackendError:
        return False
    return True


def _show(report: dict[str, Any]) -> None:
    facts = report["machine"]
    where = f"{facts['device']}, " + (f"driver {facts['driver']}" if "driver" in facts else f"{facts['threads']} threads")
    size = " x ".join(str(n) for n in (report["batch"], *report["shape"]))
    bandwidth = report["copy_bytes_per_s"] / 1e9
    table = Table(
        title=f"{size}, {report['dtype']}; {where}, torch {facts['torch']}", title_justify="left", box=None, pad_edge=False
    )
    for column in ("", "backend", "ms", "20 % .. 80 %", "torch / this", "of the floor"):
        table.add_column(column, justify="left" if column in ("", "backend") else "right")
    for name, times in report["cases"].items():
        reference = times["torch"]["median_ms"]
        for backend, t in times.items():
            spread = f"{t['p20_ms']:.2f} .. {t['p80_ms']:.2f}"
            gain = f"{reference / t['median_ms']:.1f} x"
            table.add_row(name, backend, f"{t['median_ms']:.2f}", spread, gain, f"{100 * t['floor']:.0f} %")
            name = ""
    console = Console(soft_wrap=True)
    console.print(table)
    console.print(
        f"The floor is the time in which the bytes that must move are copied, at {bandwidth:.0f} GB/s measured here just now."
    )
