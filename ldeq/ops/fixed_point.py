"""One damped fixed-point step, fused: x_next = x + beta (f - x), the norms, the stopping and the best-so-far in 3 D.

Without x_next it is 2 D: undamped, the next x is f itself where a sample goes on, and a caller that knows that all do need not
have it written. The reference is the loop of `ldeq.solvers.fixed_point`; see `ldeq.ops.anderson` for the state that both share.
"""

from __future__ import annotations

from torch import Tensor

from .anderson import SolveState, StopRule
from .backends import implementation


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
    implementation("fixed_point_step", x)(
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
