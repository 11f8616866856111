"""What is measured on a GPU alone: every backend at every batch and precision, as launched from Python and as replayed by CUDA
graphs, which is the time of the kernels without the launches.

The bodies run on a CPU too, so that they can be tested where there is no GPU.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torchdeq import get_deq

from ldeq.cli.bench import HISTORY, STEPS, anderson_bytes, backends, fixed_point_bytes, free_map, measure
from ldeq.cli.timing import Timings, copy_bandwidth, paired
from ldeq.implicit import DEQ
from ldeq.ops import softargmax, use_backend
from ldeq.solvers import anderson, fixed_point

BATCHES = (1, 4, 16, 32, 128)
DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def kernels(
    shape: tuple[int, int, int],
    device: str = "cuda",
    *,
    batches: tuple[int, ...] = BATCHES,
    dtypes: tuple[torch.dtype, ...] = DTYPES,
    rounds: int = 30,
) -> tuple[Timings, dict[str, Any]]:
    """Times by operation, batch, dtype and backend, each with ``floor``, the share of the floor's time at the bandwidth that
    was measured beside it; and those bandwidths."""
    found: Timings = {}
    bandwidths = {}
    for batch in batches:
        for dtype in dtypes:
            report = measure(device, batch, dtype, shape=shape, rounds=rounds)
            size = f"B = {batch}, {report['dtype']}"
            bandwidths[size] = report["copy_bytes_per_s"]
            for case, times in report["cases"].items():
                found |= {f"{case}, {size}, {backend}": entry for backend, entry in times.items()}
    return found, {"copy_bytes_per_s": bandwidths}


def replays(
    shape: tuple[int, int, int],
    device: str = "cuda",
    *,
    batches: tuple[int, ...] = BATCHES,
    dtypes: tuple[torch.dtype, ...] = DTYPES,
    rounds: int = 30,
) -> tuple[Timings, dict[str, Any]]:
    """Times of one operator in a CUDA graph of many, by operation, batch, dtype and backend, with ``floor`` as in `kernels`.

    A soft-argmax of a batch takes the GPU less time than its launch takes Python.
    """
    found: Timings = {}
    bandwidth = copy_bandwidth(device)
    beta = torch.tensor(0.4, dtype=torch.float64, device=device)
    for batch in batches:
        for dtype in dtypes:
            maps = [torch.randn(batch, *shape, device=device).to(dtype) for _ in range(STEPS)]
            start, n = torch.zeros_like(maps[0]), maps[0].numel()

            def readouts(maps: list[Tensor] = maps) -> object:
                return [softargmax(h, beta, eps=1e-4, heatmap=False) for h in maps]

            def solve(solver: Callable[..., Any], maps: list[Tensor] = maps, start: Tensor = start) -> object:
                return solver(free_map(maps), start, max_iter=STEPS, tol=0.0, check_every=0)

            # What runs, and the bytes that it must move; each is so many operations.
            cases: dict[str, tuple[Callable[[], object], int]] = {
                "soft-argmax forward": (readouts, STEPS * n * dtype.itemsize),
                "Anderson step, m = 6": (
                    partial(solve, partial(anderson, m=HISTORY)),
                    n * anderson_bytes(STEPS, HISTORY, dtype),
                ),
                "fixed-point step": (
                    partial(solve, fixed_point),
                    n * fixed_point_bytes(STEPS, dtype, torch.device(device).type),
                ),
            }
            for case, (run, floor) in cases.items():
                candidates = {name: _graph(run, name, device) for name in backends(device) if name != "torch"}
                for name, entry in paired(candidates, device=device, rounds=rounds).items():
                    entry["floor"] = floor / bandwidth * 1e3 / entry["median_ms"]
                    for key in ("median_ms", "best_ms", "p20_ms", "p80_ms"):
                        entry[key] /= STEPS
                    found[f"{case}, B = {batch}, {str(dtype).removeprefix('torch.')}, {name}"] = entry
    return found, {"copy_bytes_per_s": bandwidth}


def _graph(run: Callable[[], object], backend: str, device: str) -> Callable[[int], object]:
    """Replays of `run` on `backend`; on a CPU, which has no graphs, its calls."""

    def once() -> object:
        with torch.no_grad(), use_backend(backend):
            return run()

    if device == "cpu":
        return lambda _: once()
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        once()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        kept = once()

    def replay(_: int, kept: object = kept) -> None:  # what it writes to lives as long as it does
        graph.replay()

    return replay


class Cell(nn.Module):
    """z / 2 + x: next to nothing. A module, as graphs ask for."""

    def forward(self, z: Tensor, x: Tensor) -> Tensor:
        return torch.add(x, z, alpha=0.5)


def graph_solves(
    shape: tuple[int, int, int], steps: int, device: str = "cuda", *, batches: tuple[int, ...] = BATCHES, rounds: int = 30
) -> tuple[Timings, dict[str, Any]]:
    """Whole Anderson solves of a cell that does next to nothing: launched one by one, and replayed as one CUDA graph."""
    found: Timings = {}
    reasons = {}
    cell = Cell()
    for batch in batches:
        x = torch.randn(batch, *shape, device=device)
        z0 = torch.zeros_like(x)
        solvers = {every: partial(anderson, m=6, max_iter=steps, tol=0.0, check_every=every) for every in (0, 1)}
        graphed = DEQ(cell, solvers[0], cuda_graphs=True)
        unlooked, looked = DEQ(cell, solvers[0]), DEQ(cell, solvers[1])
        peer = get_deq(f_solver="anderson", f_max_iter=steps, f_tol=0.0).eval()
        candidates = {
            "CUDA graph": lambda _, g=graphed, z0=z0, x=x: g(z0, x),
            "no look at the host": lambda _, g=unlooked, z0=z0, x=x: g(z0, x),
            "a look every step": lambda _, g=looked, z0=z0, x=x: g(z0, x),
            "torchdeq": lambda _, g=peer, z0=z0, x=x: g(lambda z: cell(z, x), z0),
        }
        with torch.no_grad():
            times = paired(candidates, device=device, rounds=rounds)
        reasons[f"B = {batch}"] = graphed.graphs.reason if graphed.graphs is not None else None
        found |= {f"B = {batch}, {name}": entry for name, entry in times.items()}
    return found, {"copy_bytes_per_s": copy_bandwidth(device), "graph_missing_because": reasons}
