r"""Broyden's (good) method with limited memory, each sample of the batch on its own.

Finds the root of g(x) = f(x) - x with an estimate H of the inverse Jacobian of g, started at -I (so that the first step is
x + g = f(x)) and corrected by rank one after each step (Broyden 1965; Kelley, *Iterative Methods*, section 7.3):

$$ dx = -H g, \quad H \leftarrow H + \frac{(dx - H\,dg)\, (dx^T H)}{dx^T H\,dg}. $$

H = -I + sum u_i v_i^T is kept as pairs `(B, D)`. When the memory is full or the residual grows, a sample's pairs are dropped.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .anderson import RESTART_FACTOR
from .motion import Observe
from .solution import Map, Progress, Solution, check_count

# An update is skipped when |dx^T H dg| falls below this share of ||dx|| ||H dg||: the quotient would be noise.
MIN_CURVATURE = 1e-6


def broyden(
    f: Map,
    z0: Tensor,
    *,
    m: int = 16,
    max_iter: int = 50,
    tol: float = 1e-4,
    stop: str = "relative",
    stop_scope: str = "sample",
    observe: Observe | None = None,
    returns: str = "f",
    check_every: int = 1,
    compact: float = 0.0,
    trace: bool = False,
    trajectory: bool = False,
) -> Solution:
    """Solves z = f(z) by Broyden's method.

    ```python
    sol = broyden(torch.cos, torch.zeros(1, 1, dtype=torch.float64), tol=1e-12)
    ```

    Args:
        f, z0, max_iter, tol, stop, stop_scope, observe, returns, check_every, compact, trace, trajectory: as in
            [`fixed_point`](./fixed_point.py).
        m: rank-one corrections kept, >= 1; memory is 2 m states.

    Returns:
        `Solution`.

    Raises:
        ValueError: for arguments out of range or an f that changes the shape.
    """
    check_count("m", m)
    if m < 1:
        raise ValueError(f"m must be >= 1, got {m}")
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
    x = progress.start
    us: list[Tensor] = []
    vs: list[Tensor] = []
    dx: Tensor | None = None
    g_before = x
    corrected = torch.zeros_like(progress.active)
    lowest = progress.norm
    for step in range(max_iter):
        fx = progress.evaluate(x)
        g = fx - x
        norm = progress.record(x, fx, g)
        if progress.done(step):
            break
        # A corrected step that led astray; growth after a plain one says that f expands there (see `RESTART_FACTOR`).
        grown = corrected & (norm > RESTART_FACTOR * lowest)
        lowest = torch.where(grown, norm, torch.minimum(norm, lowest))
        if dx is not None:
            if len(us) == m:
                us, vs = [], []
                corrected = torch.zeros_like(corrected)
            h_dg = _apply(us, vs, g - g_before)
            curvature = (dx * h_dg).sum(1, keepdim=True)
            usable = curvature.abs() > MIN_CURVATURE * dx.norm(dim=1, keepdim=True) * h_dg.norm(dim=1, keepdim=True)
            usable = usable & progress.active.unsqueeze(1)
            # (dx^T H) as a vector is H^T dx, with the pairs' roles exchanged.
            v = _apply(vs, us, dx)
            u = (dx - h_dg) / torch.where(usable, curvature, 1.0)
            us.append(torch.where(usable, u, 0.0))
            vs.append(torch.where(usable, v, 0.0))
            corrected = (corrected | usable.squeeze(1)) & ~grown
            # A sample whose residual grew starts anew: its own pairs become zero, the others keep theirs.
            us = [torch.where(grown.unsqueeze(1), 0.0, p) for p in us]
            vs = [torch.where(grown.unsqueeze(1), 0.0, p) for p in vs]
        x_next = x - _apply(us, vs, g)
        x_next = progress.advance(x, x_next)
        dx, g_before = x_next - x, g
        x = x_next
        stay = progress.shrink_all()
        if stay is not None:
            x, dx, g_before, corrected, lowest = x[stay], dx[stay], g_before[stay], corrected[stay], lowest[stay]
            us, vs = [t[stay] for t in us], [t[stay] for t in vs]
    return progress.solution()


def _apply(us: list[Tensor], vs: list[Tensor], p: Tensor) -> Tensor:
    """H p for H = -I + sum u_i v_i^T."""
    out = -p
    for u, v in zip(us, vs, strict=True):
        out = torch.addcmul(out, u, (v * p).sum(1, keepdim=True))
    return out
