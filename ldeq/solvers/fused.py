"""The loop around the fused steps: what `anderson` and `fixed_point` run where nothing is differentiated.

Same evaluations, stops and values as their loops in plain PyTorch, which remain the reference and the differentiable path.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..ops import scratch
from ..ops.anderson import ACTIVE, BEST, ITERATIONS, LAST, RESIDUAL, STATUS, SolveState, StopRule, fused_solves
from ..ops.backends import transformed
from .solution import Progress, Solution, Status


def try_fused(
    progress: Progress,
    step: Callable[..., None],
    *,
    m: int,
    history: torch.dtype | None = None,
    adopts: bool = False,
    **options: Any,
) -> Solution | None:
    """Runs the solve on fused steps if it can.

    Args:
        progress: a fresh `Progress`: the map, the start and the stop.
        step: `anderson_step` or `fixed_point_step`.
        m: slots of the history, 0 for none.
        history: dtype of the ring of g, None for that of the arithmetic.
        adopts: whether the next x of a sample that goes on is f itself.
        options: go to `step`.

    Returns:
        the solution, or None where something is differentiated or mapped by `torch.func`, or no compiled step serves the
        device. f may then have been evaluated at the start: `progress` hands out that result first.
    """
    start = progress.start
    if not fused_solves(start) or torch.compiler.is_compiling() or start.requires_grad or 0 in start.shape:
        return None
    # What f holds on to may be differentiated or mapped where the start is not: only its answer tells.
    if transformed(start) or transformed(fx := progress.call_ahead()) or (torch.is_grad_enabled() and fx.requires_grad):
        return None
    del fx
    return _solve(progress, step, m, history, adopts, options)


def _solve(p: Progress, step: Callable[..., None], m: int, history: torch.dtype | None, adopts: bool, options: Any) -> Solution:
    x = p.start.contiguous()
    cast = p.dtype != x.dtype  # half states: x is kept in float32, and f is given a copy in its own type
    x_cast = x.to(p.dtype) if cast else None
    # Motion is judged after the step, which must then not see convergence in any residual.
    stop = StopRule(-1.0 if p.motion is not None else p.tol, p.stop != "absolute", p.stop_scope == "batch")
    state: SolveState | None = None
    ring: Tensor | None = None
    dtype = p.dtype
    # Whether all go on, which the host of a CPU may ask for nothing. A device would have to be waited for: there x is written.
    adopts = adopts and x.device.type == "cpu"
    for i in range(p.max_iter):
        fx = p.call(x if x_cast is None else x_cast)
        if state is None:
            # An f that answers in another type than it was asked in is taken at the precision of the arithmetic.
            dtype = p.dtype if fx.dtype == p.dtype else x.dtype
            state = SolveState.new(x.to(dtype) if p.returns == "f" else x, m, dtype, history)
            ring = state.g_ring
        fx = fx.detach().to(dtype).flatten(1).contiguous()
        value = fx if p.returns == "f" else x
        last = i + 1 == p.max_iter
        adopt = adopts and not last and fx.dtype == x.dtype
        x_next = None if last or adopt else torch.empty_like(x)
        x_cast = torch.empty_like(x, dtype=p.dtype) if cast and not last else None
        both = x_cast if dtype == p.dtype else None
        going = state.flags[:, ACTIVE].bool() if p.motion is not None else None
        step(state, x, fx, value, x_next, both, stop=stop, **options)
        if going is not None:
            _settle(p, state, p.measure_motion(fx, going))
        if p.remembers:
            p.remember(state.numbers[:, LAST].to(x.dtype, copy=True), value)
        active = state.flags[:, ACTIVE]
        count = None if last else p.looks.count(active, i)
        if last or count == 0:
            break
        if adopt:
            adopts = all(active.tolist())
            x_next = fx if adopts else torch.where(active.bool().unsqueeze(1), fx, x)
        assert x_next is not None
        if x_cast is not None and both is None:
            x_cast = x_next.to(p.dtype)
        x = x_next
        stay = p.shrink(count, active, partial(_results, p, state, x.dtype))
        if stay is not None:
            state, x, p.moved = _select(state, stay), x[stay], p.moved[stay]
            x_cast = None if x_cast is None else x_cast[stay]
    assert state is not None and ring is not None
    solution = p.assemble(_results(p, state, x.dtype))
    del state
    scratch.leave(ring)
    return solution


def _settle(p: Progress, state: SolveState, moved: Tensor) -> None:
    """Stops the samples at rest, after a step that could not tell. Their next x is written already: they are frozen there."""
    numbers, flags = state.numbers, state.flags
    rest = p.at_rest(moved, flags[:, ACTIVE].bool())
    # As `Progress.record` has it: what has come to rest is the answer.
    slot = (state.steps - 1) % len(state.values)
    flags[:, STATUS].masked_fill_(rest, int(Status.CONVERGED))
    flags[:, ACTIVE].masked_fill_(rest, 0)
    flags[:, BEST].masked_fill_(rest, slot)
    numbers[:, RESIDUAL].copy_(torch.where(rest, numbers[:, LAST], numbers[:, RESIDUAL]))


def _results(p: Progress, state: SolveState, work: torch.dtype) -> dict[str, Tensor]:
    return {
        "value": state.best(),
        "residual": state.numbers[:, RESIDUAL].to(work, copy=True),
        "iterations": state.flags[:, ITERATIONS].clone(),
        "status": state.flags[:, STATUS].clone(),
        "motion": p.moved,
    }


def _select(state: SolveState, rows: Tensor) -> SolveState:
    """The state of the samples `rows` alone."""
    f_ring = [f[rows] for f in state.f_ring]
    # What a solve returns is most often f itself, which need not be gathered twice.
    values = [g if v is f else v[rows] for f, g, v in zip(state.f_ring, f_ring, state.values, strict=True)]
    return SolveState(
        state.start[rows],
        state.numbers[rows],
        state.flags[rows],
        state.gram[rows],
        state.g_ring[:, rows],
        state.kept[rows],
        f_ring,
        values,
        state.steps,
    )
