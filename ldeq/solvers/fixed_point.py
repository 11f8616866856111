"""Fixed-point (Picard) iteration: x <- x + beta g with g = f(x) - x.

A damped step for beta < 1. Converges where f contracts; the released video model of LDEQ uses it, since a stopped
iteration stays near its start, which is what *recurrence without recurrence* wants.
"""

from __future__ import annotations

from torch import Tensor

from ..ops.fixed_point import fixed_point_step
from .fused import try_fused
from .motion import Observe
from .solution import Map, Progress, Solution


def fixed_point(
    f: Map,
    z0: Tensor,
    *,
    max_iter: int = 50,
    tol: float = 1e-4,
    stop: str = "relative",
    stop_scope: str = "sample",
    observe: Observe | None = None,
    beta: float = 1.0,
    returns: str = "f",
    check_every: int = 1,
    compact: float = 0.0,
    trace: bool = False,
    trajectory: bool = False,
) -> Solution:
    """Solves z = f(z) by (damped) iteration.

    ```python
    sol = fixed_point(torch.cos, torch.zeros(1, 1, dtype=torch.float64), tol=1e-12, max_iter=100)
    sol.value           # 0.7391, (1, 1)
    ```

    Args:
        f: maps `(B, ...)` to `(B, ...)`, to a new tensor each time, and leaves its argument as it is: that may be what it
            returned before.
        z0: `(B, ...)`, the start, floating point. Half types iterate in float32 and are cast for f alone.
        max_iter: evaluations of f at most.
        tol: a sample stops when its residual is at most this; 0 runs the whole budget unless the residual is exactly 0.
        stop: ``"relative"``, ||f(x) - x|| / ||f(x)||, which never meets a tolerance at a fixed point of exactly zero that is
            approached from elsewhere; ``"absolute"``, ||f(x) - x||; or ``"motion"``, how far the points that `observe` reads
            have moved since the evaluation before: the L2 distance over d, averaged over P.
        stop_scope: ``"sample"``, or ``"batch"`` to stop all on the mean over the batch, as the published LDEQ loop does.
        observe: for ``"motion"`` alone: maps f(x) `(B, ...)` to `(B, P)` or `(B, P, d)`, in whose units `tol` is then. The
            first evaluation is compared with the start. Of plain tensor operations, it costs no host read.
        beta: step length in (0, 1].
        returns: ``"f"``, f at the point of lowest residual, or ``"x"``, that point itself.
        check_every: evaluations between two looks of the host whether all samples have stopped; 0 for none, so that the whole
            budget is spent, masked, and the solve can be captured in a CUDA graph. The answer is the same. On a CUDA device
            a look is asynchronous, never empties the queue, and ends the solve one look late.
        compact: share of the batch, in [0, 1), at or below which f is evaluated on the samples that go on alone; 0 keeps the
            batch whole. Needs an f with a method ``select(rows)``, such as `Injected`, and a look. A sample's answer is the
            same if f computes it alike in any batch; matrix products, whose order of summation may depend on the size of the
            batch, do so to rounding.
        trace: keep the residual of every evaluation.
        trajectory: keep f(x), or x, of every evaluation; memory grows with the budget.

    Returns:
        `Solution`.

    Raises:
        ValueError: for arguments out of range or an f that changes the shape.
    """
    check_beta(beta)
    progress = Progress(
        f,
        z0,
        max_iter=max_iter,
        tol=tol,
        stop=stop,
        stop_scope=stop_scope,
        observe=observe,
        returns=returns,
        check_every=check_every,
        compact=compact,
        trace=trace,
        trajectory=trajectory,
    )
    solution = try_fused(progress, fixed_point_step, m=0, adopts=beta == 1.0, beta=beta)
    if solution is not None:
        return solution
    x = progress.start
    for step in range(max_iter):
        fx = progress.evaluate(x)
        g = fx - x
        progress.record(x, fx, g)
        if progress.done(step):
            break
        x = progress.advance(x, fx if beta == 1.0 else x + beta * g)
        stay = progress.shrink_all()
        if stay is not None:
            x = x[stay]
    return progress.solution()


def check_beta(beta: float) -> None:
    if not 0 < beta <= 1:
        raise ValueError(f"beta must lie in (0, 1], got {beta}")
