"""The loops that people run today, rewritten plainly, as baselines.

Anderson mixing as in the published DEQ and LDEQ loops: the whole Gram matrix in every iteration, both mixing products whatever
beta is, the bordered system, five numbers read on the host in every iteration, one decision for the whole batch.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Map = Callable[[Tensor], Tensor]


def mix(xs: Tensor, fs: Tensor, lam: float, beta: float) -> Tensor:
    """The next iterate `(B, D)` from n points and their images, each `(B, n, D)`."""
    b, n, _ = xs.shape
    g = fs - xs
    system = xs.new_zeros(b, n + 1, n + 1)
    system[:, 0, 1:] = system[:, 1:, 0] = 1
    system[:, 1:, 1:] = torch.bmm(g, g.transpose(1, 2)) + lam * torch.eye(n, dtype=xs.dtype, device=xs.device)[None]
    right = xs.new_zeros(b, n + 1, 1)
    right[:, 0] = 1
    alpha = torch.linalg.solve(system, right)[:, 1:, 0]
    return beta * (alpha[:, None] @ fs)[:, 0] + (1 - beta) * (alpha[:, None] @ xs)[:, 0]


def anderson(
    f: Map,
    x0: Tensor,
    *,
    m: int = 6,
    max_iter: int = 50,
    tol: float = 0.0,
    lam: float = 1e-4,
    beta: float = 1.0,
    mix: Callable[[Tensor, Tensor, float, float], Tensor] = mix,
) -> Tensor:
    """The iterate of lowest relative residual of the batch, `(B, D)`.

    Args:
        f: maps `(B, D)` to `(B, D)`.
        max_iter: evaluations of f, the two at the start included; at least 2.
        mix: the mixing, which a benchmark may have compiled.
    """
    b, d = x0.shape
    xs, fs = x0.new_zeros(b, m, d), x0.new_zeros(b, m, d)
    xs[:, 0], fs[:, 0] = x0, f(x0)
    xs[:, 1], fs[:, 1] = fs[:, 0], f(fs[:, 0])
    lowest, best = float("inf"), x0
    trace = []
    for k in range(2, max_iter):
        n, i = min(k, m), k % m
        xs[:, i] = mix(xs[:, :n], fs[:, :n], lam, beta)
        fs[:, i] = f(xs[:, i])
        difference = fs[:, i] - xs[:, i]
        norm, size = difference.norm(), fs[:, i].norm()
        absolute, relative = norm.item(), (norm / (1e-5 + size)).item()
        trace.append((absolute, relative))
        if relative < lowest:
            lowest, best = relative, xs[:, i].clone()
        # The other three reads are of single numbers, as in the loop that people run.
        if torch.isnan(norm).item() or torch.isinf(size).item() or bool(norm < tol):
            break
    return best


def fixed_point(f: Map, x0: Tensor, *, max_iter: int = 50, tol: float = 0.0) -> Tensor:
    """Plain iteration; the residual is read on the host in every step."""
    x, lowest, best = x0, float("inf"), x0
    for _ in range(max_iter):
        fx = f(x)
        relative = ((fx - x).norm() / (1e-5 + fx.norm())).item()
        if relative < lowest:
            lowest, best = relative, fx.clone()
        if relative < tol:
            break
        x = fx
    return best
