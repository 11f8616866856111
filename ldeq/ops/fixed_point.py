"""One damped fixed-point step, fused: x_next = x + beta (f - x), the norms, the stopping and the best-so-far in 3 D.

The reference is the loop of `ldeq.solvers.fixed_point`; see `ldeq.ops.anderson` for the state that both share.
"""

from __future__ import annotations

import torch
from torch import Tensor

from . import library
from .anderson import SolveState, StopRule


def fixed_point_step(
    state: SolveState,
    x: Tensor,
    f: Tensor,
    value: Tensor,
    x_next: Tensor | None,
    x_cast: Tensor | None,
    *,
    stop: StopRule,
    beta: float = 1.0,
) -> None:
    """Takes in f = f(x) and writes the next iterate. Arguments as in `ldeq.ops.anderson.anderson_step`; `state` has m = 0."""
    slot, leaving = state.take(f, value, 1)
    torch.ops.ldeq.fixed_point_step(
        x,
        f,
        leaving,
        state.numbers,
        state.flags,
        state.kept,
        x_next,
        x_cast,
        slot,
        beta,
        stop.tol,
        stop.relative,
        stop.batch,
    )


if library.MISSING is None:
    torch.library.register_fake("ldeq::fixed_point_step")(lambda *_: None)
