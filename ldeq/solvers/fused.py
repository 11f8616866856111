"""The loop around the fused steps: what `anderson` and `fixed_point` run where nothing is differentiated.

Same evaluations, stops and values as their loops in plain PyTorch, which remain the reference and the differentiable path.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..ops.anderson import ACTIVE, ITERATIONS, LAST, RESIDUAL, STATUS, SolveState, StopRule, fused_solves
from .solution import Map, Progress, Solution


def try_fused(
    f: Map,
    progress: Progress,
    step: Callable[..., None],
    *,
    m: int,
    trace: bool,
    history: torch.dtype | None = None,
    **options: Any,
) -> tuple[Solution | None, Map]:
    """Runs the solve on fused steps if it can.

    Args:
        f: the map.
        progress: a fresh `Progress`: the start and the stop.
        step: `anderson_step` or `fixed_point_step`.
        m: slots of the history, 0 for none.
        trace: keep the residual of every evaluation.
        history: dtype of the ring of g, None for that of the arithmetic.
        options: go to `step`.

    Returns:
        the solution, or None where autograd records or no compiled step serves the device; and f, which may already
        have been evaluated at the start once: it then hands out that result first.
    """
    start = progress.start
    if not fused_solves(start) or torch.compiler.is_compiling() or start.requires_grad or 0 in start.shape:
        return None, f
    x_arg = start.to(progress.dtype).reshape(progress.shape)
    first = f(x_arg)
    if torch.is_grad_enabled() and first.requires_grad:
        return None, _Again(f, first)
    return _solve(_Again(f, first), progress, step, m, trace, history, options), f


class _Again:
    """f, whose first result is known."""

    def __init__(self, f: Map, first: Tensor) -> None:
        self.f = f
        self.first: Tensor | None = first

    def __call__(self, x: Tensor) -> Tensor:
        if self.first is None:
            return self.f(x)
        first, self.first = self.first, None
        return first


def _solve(
    f: Map, p: Progress, step: Callable[..., None], m: int, trace: bool, history: torch.dtype | None, options: Any
) -> Solution:
    x = p.start.contiguous()
    cast = p.dtype != x.dtype  # half states: x is kept in float32, and f is given a copy in its own type
    x_cast = x.to(p.dtype) if cast else None
    stop = StopRule(p.tol, p.stop == "relative", p.stop_scope == "batch")
    state: SolveState | None = None
    dtype = p.dtype
    traced: list[Tensor] = []
    for i in range(p.max_iter):
        fx = f((x if x_cast is None else x_cast).reshape(p.shape))
        if fx.shape != p.shape:
            raise ValueError(f"f must keep the shape of its argument {tuple(p.shape)}, it returned {tuple(fx.shape)}")
        if state is None:
            # An f that answers in another type than it was asked in is taken at the precision of the arithmetic.
            dtype = p.dtype if fx.dtype == p.dtype else x.dtype
            value = x.to(dtype) if p.returns == "f" else x
            state = SolveState.new(value, m, dtype, history)
        fx = fx.detach().to(dtype).flatten(1).contiguous()
        last = i + 1 == p.max_iter
        x_next = None if last else torch.empty_like(x)
        x_cast = torch.empty_like(x, dtype=p.dtype) if cast and not last else None
        both = x_cast if dtype == p.dtype else None
        step(state, x, fx, fx if p.returns == "f" else x, x_next, both, stop=stop, **options)
        if trace:
            traced.append(state.numbers[:, LAST].to(x.dtype, copy=True))
        if x_next is None or not bool(state.flags[:, ACTIVE].any()):
            break
        if x_cast is not None and both is None:
            x_cast = x_next.to(p.dtype)
        x = x_next
    assert state is not None
    value = state.best().to(p.dtype).reshape(p.shape)
    residual = state.numbers[:, RESIDUAL].to(x.dtype, copy=True)
    flags = state.flags
    return Solution(
        value, residual, flags[:, ITERATIONS].clone(), flags[:, STATUS].clone(), torch.stack(traced) if trace else None
    )
