"""Whole solves: what a user of a solver sees, with the loop, the stops and the allocations."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import published
import torch
from torch import Tensor
from torchdeq import get_deq

from ldeq.cli.bench import anderson_bytes, free_map
from ldeq.cli.timing import Timings, paired
from ldeq.compat import torchdeq as compat
from ldeq.solvers import anderson, fixed_point

M = 6


def throughput(
    b: int, shape: tuple[int, ...], steps: int, device: str = "cpu", *, rounds: int = 7, compile: bool = True
) -> dict[str, Timings]:
    """Solves of `steps` evaluations that cost nothing, by solver: times, ``iterations_per_s``, and ``bytes_per_s``, the bytes
    that a solve must move over the time that it took (so that one who moves more does not look better)."""
    compat.register()
    outputs = [torch.randn(b, *shape, device=device) for _ in range(8)]
    start = torch.zeros(b, *shape, device=device)
    flat = start.flatten(1)

    def deq(name: str) -> Callable[[int], object]:
        layer = get_deq(f_solver=name, f_max_iter=steps, f_tol=0.0).eval()
        return lambda _: layer(free_map(outputs), start)

    def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
        return torch.compile(function, dynamic=False) if compile else function

    quick_mix = compiled(published.mix)
    quick_loop = compiled(_residual_step)
    candidates: dict[str, dict[str, Callable[[int], object]]] = {
        "Anderson": {
            "ldeq": lambda _: anderson(free_map(outputs), start, m=M, max_iter=steps, tol=0),
            "ldeq in torchdeq": deq("ldeq_anderson"),
            "torchdeq": deq("anderson"),
            "published loop": lambda _: published.anderson(free_map(outputs), flat, m=M, max_iter=steps),
            "published loop, torch.compile of its mixing": lambda _: published.anderson(
                free_map(outputs), flat, m=M, max_iter=steps, mix=quick_mix
            ),
        },
        "fixed point": {
            "ldeq": lambda _: fixed_point(free_map(outputs), start, max_iter=steps, tol=0),
            "ldeq in torchdeq": deq("ldeq_fixed_point"),
            "torchdeq": deq("fixed_point_iter"),
            "eager loop": lambda _: published.fixed_point(free_map(outputs), flat, max_iter=steps),
            "eager loop, torch.compile of its step": lambda _: _compiled_loop(quick_loop, free_map(outputs), flat, steps),
        },
    }
    numbers = start.numel()
    # An undamped step must read f and x and no more: its next x is f.
    floors = {"Anderson": anderson_bytes(steps, M, start.dtype), "fixed point": 2 * steps * start.dtype.itemsize}
    found = {}
    for solver, runs in candidates.items():
        with torch.no_grad():
            found[solver] = paired(runs, device=device, rounds=rounds, warm=1)
        for entry in found[solver].values():
            seconds = entry["median_ms"] / 1e3
            entry["iterations_per_s"] = steps / seconds
            entry["bytes_per_s"] = numbers * floors[solver] / seconds
    return found


def _residual_step(fx: Tensor, x: Tensor) -> Tensor:
    return (fx - x).norm() / (1e-5 + fx.norm())


def _compiled_loop(residual: Callable[..., object], f: Callable[[Tensor], Tensor], x: Tensor, steps: int) -> Tensor:
    lowest, best = float("inf"), x
    for _ in range(steps):
        fx = f(x)
        relative = residual(fx, x).item()  # type: ignore[attr-defined]
        if relative < lowest:
            lowest, best = relative, fx.clone()
        x = fx
    return best


def answers(b: int, shape: tuple[int, ...], device: str = "cpu", tol: float = 1e-3) -> dict[str, float]:
    """A contraction solved through torchdeq by its Anderson and by ours: each one's distance from the answer and from the
    other, over ``bound``, which the tolerance allows."""
    compat.register()
    rate = 0.9
    slope = torch.linspace(0, rate, shape[-1], device=device)
    shift = torch.randn(b, *shape, device=device)
    exact = shift / (1 - slope)
    z = {}
    evaluations = {}
    for name in ("anderson", "ldeq_anderson"):
        layer = get_deq(f_solver=name, f_max_iter=100, f_tol=tol, f_stop_mode="rel").eval()
        states, info = layer(lambda z: slope * z + shift, torch.zeros_like(shift), solver_kwargs={"m": M})
        z[name] = states[-1]
        evaluations[name] = info["nstep"].max().item()
    # ||z - z*|| <= ||f(z) - z|| rate / (1 - rate) for z = f(x), and ||f(z) - z|| <= tol ||z||.
    bound = tol * rate / (1 - rate) * exact.flatten(1).norm(dim=1).max().item()

    def distance(p: Tensor, q: Tensor) -> float:
        return (p - q).flatten(1).norm(dim=1).max().item() / bound

    return {
        "ours to the answer": distance(z["ldeq_anderson"], exact),
        "torchdeq's to the answer": distance(z["anderson"], exact),
        "ours to torchdeq's": distance(z["ldeq_anderson"], z["anderson"]) / 2,
        "evaluations, ours": evaluations["ldeq_anderson"],
        "evaluations, torchdeq": evaluations["anderson"],
    }
