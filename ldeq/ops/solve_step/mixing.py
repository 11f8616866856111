"""The small regularised system of Anderson mixing: a few pairs a sample, solved for the weights alpha."""

from __future__ import annotations

import torch
from torch import Tensor

from .state import wide

# Floor for the squared pivots of the Cholesky factor of the system scaled to unit diagonal. Gram entries accumulated in
# float32 carry a relative error near 1e-7; a pivot below that is noise and could be negative.
PIVOT_FLOOR = 1e-7

# Share of the mean diagonal below which a squared residual counts as zero: 1e-10 of the residual is less than its rounding.
VANISHED = 1e-20


def mixing_weights(gram: Tensor, valid: Tensor, ridge: float) -> Tensor:
    """Weights alpha `(B, n)` that sum to one and minimise ||sum alpha_i g_i||^2 + lambda ||alpha||^2.

    Solved in float64 after a symmetric scaling to unit diagonal, by a Cholesky factorisation whose pivots are floored at
    `PIVOT_FLOOR`: linearly dependent residuals then get finite weights instead of failing the whole batch.

    Args:
        gram: `(B, n, n)`, the products of the residuals g.
        valid: `(B, n)` bool, the pairs that take part; the others get the weight 0.
        ridge: lambda, relative to the mean diagonal from 0 upwards, absolute below 0.
    """
    pair = valid.unsqueeze(-1) & valid.unsqueeze(-2)
    a = torch.where(pair, gram.to(wide(gram)), 0.0)
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
