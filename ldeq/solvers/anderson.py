r"""Anderson mixing, type II, with a batch of independent samples.

x is the iterate `(B, D)`, f = f(x), g = f - x. Of the last n <= m pairs, and G = [g_1 ... g_n] as rows, each sample solves

$$ (G G^T + \lambda I) w = 1, \quad \alpha = w / \sum w, \quad x_{next} = \sum_i \alpha_i (f_i - (1 - \beta) g_i), $$

which is min ||sum alpha_i g_i||^2 + lambda ||alpha||^2 subject to sum alpha = 1 (Walker and Ni 2011, eq. 2.2, with the
constraint solved for; the bordered system of Bai, Kolter and Koltun's DEQ code gives the same alpha). Only one row of the
Gram matrix G G^T changes per step, so only that row is computed.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from ..ops.anderson import anderson_step
from .fixed_point import check_beta
from .fused import try_fused
from .motion import Observe
from .solution import Map, Progress, Solution, check_count

MAX_HISTORY = 16

# Floor for the squared pivots of the Cholesky factor of the system scaled to unit diagonal. Gram entries accumulated in
# float32 carry a relative error near 1e-7; a pivot below that is noise and could be negative.
PIVOT_FLOOR = 1e-7

# Share of the mean diagonal below which a squared residual counts as zero: 1e-10 of the residual is less than its rounding.
VANISHED = 1e-20

# Weights of this norm amplify the rounding of float32 history entries to ~1e-3 of the state: worse than a plain step.
MAX_WEIGHT_NORM = 1e4

# A mixed step after which the residual exceeds this multiple of the history's best says that the linear model behind the
# history no longer holds. Growth after a plain step says that f expands there, and another plain step would repeat it.
RESTART_FACTOR = 10.0

# Published LDEQ loop, for parity with its figures: ridge in absolute units, one stop for the batch, the iterate itself
# returned (a final evaluation of f follows in the layer). It spends two start-up evaluations outside its max_iter:
# ``anderson(f, z0, max_iter=5 + 2, tol=1e-4, **PUBLISHED)``.
PUBLISHED: dict[str, Any] = {
    "m": 6,
    "ridge": -1e-4,
    "beta": 1.0,
    "stop": "relative",
    "stop_scope": "batch",
    "returns": "x",
    "safeguards": False,
}


def anderson(
    f: Map,
    z0: Tensor,
    *,
    m: int = 6,
    max_iter: int = 50,
    tol: float = 1e-4,
    stop: str = "relative",
    stop_scope: str = "sample",
    observe: Observe | None = None,
    ridge: float = 1e-8,
    beta: float = 1.0,
    returns: str = "f",
    safeguards: bool = True,
    history_dtype: torch.dtype | None = None,
    check_every: int = 1,
    compact: float = 0.0,
    trace: bool = False,
    trajectory: bool = False,
) -> Solution:
    """Solves z = f(z) by Anderson mixing, each sample of the batch on its own.

    ```python
    a = torch.linspace(0, 0.95, 64, dtype=torch.float64)
    sol = anderson(lambda z: a * z + 1, torch.zeros(2, 64, dtype=torch.float64), tol=1e-5)
    (sol.value - 1 / (1 - a)).abs().max(), sol.iterations
    ```

    Args:
        f, z0, max_iter, tol, stop, stop_scope, observe, returns, check_every, compact, trace, trajectory: as in
            [`fixed_point`](./fixed_point.py).
        m: pairs kept, 1 to 16; 1 is plain iteration.
        ridge: lambda. From 0 upwards it is relative to the mean diagonal of the Gram matrix, so that the answer does not
            depend on the scale of the problem (an absolute 1e-4 fails on the small residuals of a mean-reduced loss). A
            negative value is absolute: -1e-4 is the lambda = 1e-4 of published code.
        beta: mixing in (0, 1]; 1 takes f alone.
        safeguards: per sample, drop the history and take a plain step when a mixed step left the residual at 10 times
            the history's best, and a plain step when the weights exceed a norm of 1e4. Off for parity with published loops.
        history_dtype: of the residuals g that are kept; None for the dtype of the arithmetic, or `torch.bfloat16`, which
            halves their traffic and, since f is kept as it is, costs no digits of the answer.

    `PUBLISHED` holds the settings that reproduce the published LDEQ loop.

    Returns:
        `Solution`.

    Raises:
        ValueError: for arguments out of range or an f that changes the shape.
    """
    check_beta(beta)
    check_count("m", m)
    if not 1 <= m <= MAX_HISTORY:
        raise ValueError(f"m must lie in 1..{MAX_HISTORY}, got {m}")
    if not math.isfinite(ridge):
        raise ValueError(f"ridge must be a finite number, got {ridge}")
    if history_dtype not in (None, torch.bfloat16) or (history_dtype is not None and z0.dtype == torch.float64):
        raise ValueError(f"history_dtype must be None or, for states below float64, torch.bfloat16, got {history_dtype}")
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
    options: dict[str, Any] = {"ridge": ridge, "beta": beta, "safeguards": safeguards}
    solution = try_fused(progress, anderson_step, m=m, history=history_dtype, **options)
    if solution is not None:
        return solution
    x = progress.start
    batch, device = x.shape[0], x.device
    f_ring: list[Tensor] = []
    g_ring: list[Tensor] = []
    gram: list[list[Tensor]] = []  # gram[i][j] is (B,); lists, so that an unrolled solve is differentiable
    valid = torch.zeros(batch, m, dtype=torch.bool, device=device)
    mixed = torch.zeros(batch, dtype=torch.bool, device=device)
    lowest = progress.norm
    for step in range(max_iter):
        fx = progress.evaluate(x)
        g = fx - x
        norm = progress.record(x, fx, g)
        if progress.done(step):
            break
        if history_dtype is not None:
            g = g.to(history_dtype).to(x.dtype)
        slot = step % m
        if step < m:
            f_ring.append(fx)
            g_ring.append(g)
            gram = [[*row, norm] for row in gram] + [[norm] * (step + 1)]
        else:
            f_ring[slot], g_ring[slot] = fx, g
        for i, g_i in enumerate(g_ring):
            gram[i][slot] = gram[slot][i] = (g_i * g).sum(dim=1)
        if safeguards:
            grown = mixed & (norm > RESTART_FACTOR * lowest)
            valid = valid & ~grown.unsqueeze(1)
            lowest = torch.where(grown, norm, torch.minimum(norm, lowest))
        newest = torch.zeros(m, dtype=torch.bool, device=device)
        newest[slot] = True
        valid = valid | newest
        n = len(f_ring)
        alpha = mixing_weights(torch.stack([torch.stack(row, -1) for row in gram], -2), valid[:, :n], ridge)
        if safeguards:
            sane = alpha.norm(dim=1, keepdim=True) <= MAX_WEIGHT_NORM
            alpha = torch.where(sane, alpha, newest[:n].to(alpha.dtype))
            mixed = sane.squeeze(1) & (valid.sum(1) > 1)
        alpha = alpha.to(x.dtype)
        x_next = torch.zeros_like(x)
        for i in range(n):
            damped = f_ring[i] if beta == 1.0 else f_ring[i] - (1.0 - beta) * g_ring[i]
            x_next = torch.addcmul(x_next, alpha[:, i : i + 1], damped)
        x = progress.advance(x, x_next)
        stay = progress.shrink_all()
        if stay is not None:
            x, valid, mixed, lowest = x[stay], valid[stay], mixed[stay], lowest[stay]
            f_ring, g_ring = [t[stay] for t in f_ring], [t[stay] for t in g_ring]
            gram = [[t[stay] for t in row] for row in gram]
    return progress.solution()


def mixing_weights(gram: Tensor, valid: Tensor, ridge: float) -> Tensor:
    """alpha `(B, n)` of the module's formula, from Gram matrices `(B, n, n)`; entries outside `valid` `(B, n)` get 0.

    Solved in float64 after a symmetric scaling to unit diagonal, by a Cholesky factorisation whose pivots are floored at
    `PIVOT_FLOOR`: linearly dependent residuals then get finite weights instead of failing the whole batch.
    """
    work = torch.float32 if gram.device.type == "mps" else torch.float64
    pair = valid.unsqueeze(-1) & valid.unsqueeze(-2)
    a = torch.where(pair, gram.to(work), 0.0)
    diagonal = a.diagonal(dim1=-2, dim2=-1)
    mean = diagonal.sum(-1, keepdim=True) / valid.sum(-1, keepdim=True)
    diagonal = diagonal + (ridge * mean if ridge >= 0 else -ridge)
    # A residual that vanished takes all the weight, as in the limit of a small one; if all did, or the slot is unused, any
    # positive number keeps the row regular.
    diagonal = torch.maximum(diagonal, VANISHED * mean)
    diagonal = torch.where(valid & (diagonal > 0), diagonal, 1.0)
    scale = diagonal.rsqrt()
    a = a * scale.unsqueeze(-1) * scale.unsqueeze(-2)
    eye = torch.eye(a.shape[-1], dtype=torch.bool, device=a.device)
    a = torch.where(eye, 1.0, a)
    w = scale * _cholesky_solve(a, torch.where(valid, scale, 0.0))
    w = torch.where(valid, w, 0.0)
    return w / w.sum(-1, keepdim=True)


def _cholesky_solve(a: Tensor, b: Tensor) -> Tensor:
    """Solves a x = b for `(B, n, n)` with unit diagonal and `(B, n)`; out of place, so that autograd can follow."""
    n = a.shape[-1]
    lower: list[list[Tensor]] = [[] for _ in range(n)]
    y: list[Tensor] = []
    for i in range(n):
        for j in range(i):
            s = a[:, i, j]
            for k in range(j):
                s = s - lower[i][k] * lower[j][k]
            lower[i].append(s / lower[j][j])
        pivot = a[:, i, i]
        s = b[:, i]
        for k in range(i):
            pivot = pivot - lower[i][k] * lower[i][k]
            s = s - lower[i][k] * y[k]
        lower[i].append(pivot.clamp_min(PIVOT_FLOOR).sqrt())
        y.append(s / lower[i][i])
    x: list[Tensor] = [b[:, 0]] * n
    for i in reversed(range(n)):
        s = y[i]
        for k in range(i + 1, n):
            s = s - lower[k][i] * x[k]
        x[i] = s / lower[i][i]
    return torch.stack(x, -1)
