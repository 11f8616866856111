"""One operator at a time, against its peers and the bytes that it must move."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import dsntnn
import kornia
import torch
from published import anderson as published
from torch import Tensor
from torchdeq.solver import get_solver

from ldeq.cli.bench import free_map
from ldeq.cli.timing import Timings, paired
from ldeq.ops import softargmax
from ldeq.ops.softargmax import softargmax_reference
from ldeq.solvers import anderson

BETA = 0.4
INPUTS = 3  # rotated: no cache serves one of them twice


def kornia_readout(h: Tensor) -> Tensor:
    return kornia.geometry.subpix.spatial_soft_argmax2d(h, temperature=torch.tensor(1 / BETA, device=h.device))


def dsntnn_readout(h: Tensor) -> Tensor:
    return dsntnn.dsnt(dsntnn.flat_softmax(BETA * h))


def eager(h: Tensor) -> Tensor:
    return softargmax_reference(h, BETA, "unit", 1e-4, False).xy


def ours(h: Tensor) -> Tensor:
    return softargmax(h, BETA, coords="unit", eps=1e-4, heatmap=False).xy


def readouts(compile: bool = True) -> dict[str, Callable[[Tensor], Tensor]]:
    """Soft-argmax by us and by peers, (B, K, h, w) to (B, K, 2), each in its own coordinates."""
    peers: dict[str, Callable[[Tensor], Tensor]] = {
        "ours": ours,
        "eager": eager,
        "kornia": kornia_readout,
        "dsntnn": dsntnn_readout,
    }
    if compile:
        peers |= {f"torch.compile of {name}": torch.compile(peers[name]) for name in ("eager", "kornia", "dsntnn")}
    return peers


def _of_round(read: Callable[[Tensor], Tensor], maps: list[Tensor], i: int) -> Tensor:
    return read(maps[i % INPUTS])


def softargmax_forward(shape: tuple[int, ...], device: str = "cpu", *, rounds: int = 15, compile: bool = True) -> Timings:
    maps = [torch.randn(shape, device=device) for _ in range(INPUTS)]
    with torch.no_grad():
        candidates: dict[str, Callable[[int], object]] = {
            name: partial(_of_round, f, maps) for name, f in readouts(compile).items()
        }
        candidates["floor: read 1 N"] = lambda i: maps[i % INPUTS].sum()
        return paired(candidates, device=device, rounds=rounds)


def softargmax_backward(shape: tuple[int, ...], device: str = "cpu", *, rounds: int = 15, compile: bool = True) -> Timings:
    maps = [torch.randn(shape, device=device).requires_grad_() for _ in range(INPUTS)]

    def backward(f: Callable[[Tensor], Tensor]) -> Callable[[int], object]:
        outputs = [f(h) for h in maps]
        ones = torch.ones_like(outputs[0])
        return lambda i: torch.autograd.grad(outputs[i % INPUTS], maps[i % INPUTS], ones, retain_graph=True)

    candidates = {name: backward(f) for name, f in readouts(compile).items()}
    target = torch.empty_like(maps[0])
    candidates["floor: copy 2 N"] = lambda i: target.detach().copy_(maps[i % INPUTS].detach())
    return paired(candidates, device=device, rounds=rounds)


@torch.no_grad()
def anderson_step(b: int, d: int, m: int, steps: int, device: str = "cpu", *, rounds: int = 9) -> Timings:
    """One iteration, from whole solves of `steps` whose f costs nothing."""
    outputs = [torch.randn(b, d, device=device) for _ in range(8)]
    targets = [torch.empty(b, d, device=device) for _ in range(8)]
    start = torch.zeros(b, d, device=device)
    torchdeq = get_solver("anderson")

    def solve(history: torch.dtype | None = None) -> object:
        return anderson(free_map(outputs), start, m=m, max_iter=steps, tol=0, history_dtype=history)

    def stream(_: int) -> None:
        # 16 D a step: eight copies, each of which reads D and writes D.
        for _ in range(steps - 1):
            for source, target in zip(outputs, targets, strict=True):
                target.copy_(source)

    candidates: dict[str, Callable[[int], object]] = {
        "ours": lambda _: solve(),
        "ours, bf16 history": lambda _: solve(torch.bfloat16),
        "published loop": lambda _: published(free_map(outputs), start, m=m, max_iter=steps),
        "torchdeq": lambda _: torchdeq(free_map(outputs), start, max_iter=steps, tol=0.0, m=m, lam=1e-4),
        "floor: stream 16 D": stream,
    }
    results = paired(candidates, device=device, rounds=rounds, warm=1)
    for entry in results.values():
        for key in ("median_ms", "best_ms", "p20_ms", "p80_ms"):
            entry[key] /= steps
    return results
