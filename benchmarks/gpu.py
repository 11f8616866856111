"""What is measured on a GPU alone: every backend at every batch and precision, and solves replayed as CUDA graphs.

The bodies run on a CPU too, so that they can be tested where there is no GPU.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torchdeq import get_deq

from ldeq.cli.bench import measure
from ldeq.cli.timing import Timings, copy_bandwidth, paired
from ldeq.implicit import DEQ
from ldeq.solvers import anderson

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
