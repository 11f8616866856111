"""Fixed-point (Picard) iteration: x <- x + beta g with g = f(x) - x.

A damped step for beta < 1. Converges where f contracts; the released video model of LDEQ uses it, since a stopped
iteration stays near its start, which is what *recurrence without recurrence* wants.
"""

from __future__ import annotations

from torch import Tensor

from ..ops.fixed_point import fixed_point_step
from .fused import try_fused
from .solution import Map, Progress, Solution


def fixed_point(
    f: Map,
    z0: Tensor,
    *,
    max_iter: int = 50,
    tol: float = 1e-4,
    stop: str = "relative",
    stop_scope: str = "sample",
    beta: float = 1.0,
    returns: str = "f",
    trace: bool = False,
) -> Solution:
    """Solves z = f(z) by (damped) iteration.

    ```python
    sol = fixed_point(torch.cos, torch.zeros(1, 1, dtype=torch.float64), tol=1e-12, max_iter=100)
    sol.value           # 0.7391, (1, 1)
    ```

    Args:
        f: maps `(B, ...)` to `(B, ...)`.
        z0: `(B, ...)`, the start, floating point. Half types iterate in float32 and are cast for f alone.
        max_iter: evaluations of f at most.
        tol: a sample stops when its residual is at most this; 0 runs the whole budget unless the residual is exactly 0.
        stop: ``"relative"``, ||f(x) - x|| / ||f(x)||, or ``"absolute"``, ||f(x) - x||.
        stop_scope: ``"sample"``, or ``"batch"`` to stop all on the mean residual, as the published LDEQ loop does.
        beta: step length in (0, 1].
        returns: ``"f"``, f at the point of lowest residual, or ``"x"``, that point itself.
        trace: keep the residual of every evaluation.

    Returns:
        `Solution`.

    Raises:
        ValueError: for arguments out of range or an f that changes the shape.
    """
    check_beta(beta)
    progress = Progress(z0, max_iter=max_iter, tol=tol, stop=stop, stop_scope=stop_scope, returns=returns, trace=trace)
    solution, f = try_fused(f, progress, fixed_point_step, m=0, trace=trace, beta=beta)
    if solution is not None:
        return solution
    x = progress.start
    for step in range(max_iter):
        fx = progress.evaluate(f, x)
        g = fx - x
        progress.record(x, fx, g)
        if step + 1 == max_iter or progress.done:
            break
        x = progress.advance(x, fx if beta == 1.0 else x + beta * g)
    return progress.solution()


def check_beta(beta: float) -> None:
    if not 0 < beta <= 1:
        raise ValueError(f"beta must lie in (0, 1], got {beta}")
