"""Whole solves with the solvers' device code on the CPU: how a host drives the steps, with nothing read back on the way."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ldeq.solvers import Solution


class _Solve:
    """The state of one solve; unwritten memory is NaN, so that it shows where it is used."""

    def __init__(self, kernels: Any, z0: Tensor, *, max_iter: int, tol: float, stop: str, returns: str, columns: int) -> None:
        self.kernels, self.z0, self.max_iter, self.returns_x = kernels, z0, max_iter, returns == "x"
        b = z0.shape[0]
        self.dtype, self.size = z0.dtype, z0[0].numel()
        self.value = z0.clone()
        self.x = z0.float().reshape(b, -1).clone()
        self.tensors = {
            "active": torch.ones(b, dtype=torch.uint8),
            "status": torch.zeros(b, dtype=torch.int64),
            "iterations": torch.zeros(b, dtype=torch.int64),
            "residual": torch.full((b,), math.inf),
            "norm": torch.full((b,), math.inf),
            "first_norm": torch.full((b,), math.nan),
            "best_slot": torch.full((b,), -1, dtype=torch.int32),
            "trace": torch.full((max_iter, b), math.nan),
            "partials": torch.full((kernels.partials(b, self.size, columns),), math.nan),
            "ticket": torch.zeros(b, dtype=torch.int32),
            "value": self.value,
        }
        self.numbers = {"batch": b, "size": self.size, "tol": tol, "relative": stop == "relative", "returns_x": self.returns_x}

    def call(self, what: str, half_g: bool, tensors: dict[str, Tensor | None], **numbers: Any) -> None:
        addresses = {k: 0 if t is None else t.data_ptr() for k, t in {**self.tensors, **tensors}.items()}
        self.kernels.solver(what, str(self.dtype).removeprefix("torch."), half_g, {**addresses, **self.numbers, **numbers})

    def evaluate(self, f: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        return f(x.to(self.dtype).reshape(self.z0.shape)).contiguous()

    def solution(self, ring: list[Tensor]) -> Solution:
        self.call(
            "finish_x" if self.returns_x else "finish",
            False,
            {},
            ring=[t.data_ptr() for t in ring],
            steps=-1 if self.returns_x else self.max_iter,
        )
        t = self.tensors
        return Solution(self.value, t["residual"], t["iterations"], t["status"], t["trace"])


def host_anderson(
    kernels: Any,
    f: Callable[[Tensor], Tensor],
    z0: Tensor,
    *,
    m: int = 6,
    max_iter: int = 50,
    tol: float = 1e-4,
    stop: str = "relative",
    ridge: float = 1e-8,
    beta: float = 1.0,
    returns: str = "f",
    safeguards: bool = True,
    g_dtype: torch.dtype = torch.float32,
    copy_f: bool = False,
    after_step: Callable[[dict[str, Any]], None] | None = None,
) -> Solution:
    """`ldeq.solvers.anderson` on the device code. `copy_f` copies each f into a ring rather than keeping the tensor."""
    s = _Solve(kernels, z0, max_iter=max_iter, tol=tol, stop=stop, returns=returns, columns=m + 2)
    b = z0.shape[0]
    mixing = {
        "gram": torch.full((b, m, m), math.nan, dtype=torch.float64),
        "alpha": torch.full((b, m), math.nan),
        "valid": torch.zeros(b, dtype=torch.int32),
        "mixed": torch.zeros(b, dtype=torch.uint8),
        "lowest": torch.full((b,), math.inf),
    }
    x_cast = torch.empty_like(z0) if z0.dtype != torch.float32 else None
    copies = [torch.full_like(z0, math.nan) for _ in range(m)] if copy_f else []
    f_ring: list[Tensor] = []
    g_ring: list[Tensor] = []
    for step in range(max_iter):
        before = s.x.clone()
        fx = s.evaluate(f, s.x)
        slot, n, evicted = step % m, min(step + 1, m), None
        if step < m:
            f_ring.append(fx)
            g_ring.append(torch.full((b, s.size), math.nan).to(g_dtype))
        else:
            evicted = f_ring[slot]
        f_ring[slot] = copies[slot] if copy_f else fx
        s.call(
            "anderson",
            g_dtype == torch.bfloat16,
            {
                **mixing,
                "f_new": fx,
                "f_copy": copies[slot] if copy_f else None,
                "evicted": evicted,
                "x": s.x,
                "x_cast": x_cast,
            },
            f=[t.data_ptr() for t in f_ring],
            g=[t.data_ptr() for t in g_ring],
            m=m, n=n, slot=slot, step=step, ridge=ridge, beta=beta, safeguards=safeguards, last=step + 1 == max_iter,
        )  # fmt: skip
        if after_step is not None:
            rings = {"f": f_ring, "g": g_ring, "fx": fx}
            after_step(
                {**mixing, **s.tensors, **rings, "step": step, "slot": slot, "before": before, "x": s.x, "x_cast": x_cast}
            )
    return s.solution([s.x] if s.returns_x else f_ring)


def host_fixed_point(
    kernels: Any,
    f: Callable[[Tensor], Tensor],
    z0: Tensor,
    *,
    max_iter: int = 50,
    tol: float = 1e-4,
    stop: str = "relative",
    beta: float = 1.0,
    returns: str = "f",
) -> Solution:
    """`ldeq.solvers.fixed_point` on the device code."""
    s = _Solve(kernels, z0, max_iter=max_iter, tol=tol, stop=stop, returns=returns, columns=2)
    xs = [s.x, torch.full_like(s.x, math.nan), torch.full_like(s.x, math.nan)] if s.returns_x else [s.x]
    x_cast = torch.empty_like(z0) if z0.dtype != torch.float32 else None
    f_ring: list[Tensor] = []
    for step in range(max_iter):
        now, after = step % len(xs), (step + 1) % len(xs)
        fx = s.evaluate(f, xs[now])
        f_slot = step % 2
        old_f = f_ring[f_slot] if step >= 2 and not s.returns_x else None
        previous_f = f_ring[1 - f_slot] if step >= 1 and not s.returns_x else None
        f_ring[f_slot : f_slot + 1] = [fx]
        slots = (now, after) if s.returns_x else (f_slot, f_slot)
        s.call(
            "fixed_point",
            False,
            {
                "f_new": fx,
                "evicted_f": old_f,
                "previous_f": previous_f,
                "evicted_x": xs[after] if s.returns_x and step >= 2 else None,
                "x": xs[now],
                "x_out": xs[after],
                "x_cast": x_cast,
            },
            slot=slots[0], evicted_slot=slots[1], step=step, beta=beta,
        )  # fmt: skip
    return s.solution(xs if s.returns_x else f_ring)
