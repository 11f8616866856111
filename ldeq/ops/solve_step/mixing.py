r"""The small regularised system of Anderson mixing: a few pairs a sample, solved for the weights alpha.

The residuals of a history are often all but parallel, and their Gram matrix then all but singular; with fewer numbers in a
state than pairs it is singular. So the system is that of their differences, from the newest to the oldest: with d_i = g_i -
g_(i+1), g_0 the newest, sum alpha_i g_i = g_0 - sum t_i d_i, and t solves the normal equations of

$$ \min_t \|g_0 - \sum_i t_i d_i\|^2 + \lambda \|\alpha\|^2, \quad
   \alpha_i = t_{i-1} - t_i \;\text{ with }\; t_{-1} = 1,\; t_{n-1} = 0. $$

Their products are differences of entries of the Gram matrix, so one row of it is still all that a step has to add.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .state import wide

# A difference takes part if the square of what is new in it, its part outside the span of those taken before, exceeds this
# share of its own square; 1e-7 is an angle of 3e-4. Of 1e-5 to 1e-10 this took the fewest evaluations on 14 problems, in
# float32 and in float64. Below that, differences of nonlinear maps that are all but parallel lead astray.
LEAST_PIVOT = 1e-7

# Entries of the Gram matrix carry a relative error of some units in the last place. A squared difference is noise below this
# many of them, of the squares that it is the difference of.
GRAM_ROUNDING = 10.0

_DOUBLE = torch.finfo(torch.float64).eps


def mixing_weights(gram: Tensor, valid: Tensor, ridge: float, newest: int = -1, precision: float = _DOUBLE) -> Tensor:
    """Weights alpha `(B, n)` that sum to one and minimise ||sum alpha_i g_i||^2 + lambda ||alpha||^2.

    Solved in float64, after a symmetric scaling to unit diagonal, by a Cholesky factorisation that takes the newest difference
    first, then always the one that adds most, and leaves out dependent ones.

    Args:
        gram: `(B, n, n)`, the products of the residuals g, by slot.
        valid: `(B, n)` bool, the pairs that take part; the others get the weight 0.
        ridge: lambda, relative to the mean diagonal from 0 upwards, absolute below 0.
        newest: the slot of the newest pair; the one before it is one older, and so on around.
        precision: relative precision of the arithmetic that the entries of `gram` come from.
    """
    n = gram.shape[-1]
    slots = (newest - torch.arange(n, device=gram.device)) % n
    # By age, those that take part first.
    order = slots[torch.argsort((~valid[:, slots]).to(torch.int8), dim=1, stable=True)]
    taking = valid.gather(1, order)
    a = gram.to(wide(gram)).gather(1, order.unsqueeze(2).expand_as(gram)).gather(2, order.unsqueeze(1).expand_as(gram))
    a = torch.where(taking.unsqueeze(2) & taking.unsqueeze(1), a, 0.0)
    squares = a.diagonal(dim1=1, dim2=2)
    mean = squares.sum(1, keepdim=True) / taking.sum(1, keepdim=True)
    shift = ridge * mean if ridge >= 0 else torch.full_like(mean, -ridge)
    t = _differences(a + torch.diag_embed(torch.where(taking, shift, 0.0)), taking, precision)
    weights = torch.cat((t.new_ones(len(t), 1), t), 1) - torch.cat((t, t.new_zeros(len(t), 1)), 1)
    return torch.zeros_like(weights).scatter(1, order, weights)


def _differences(a: Tensor, taking: Tensor, precision: float) -> Tensor:
    """t `(B, n - 1)` of the module's formula, from the Gram matrix `(B, n, n)` of the pairs by age."""
    squares = a.diagonal(dim1=1, dim2=2)
    products = a[:, :-1, :-1] - a[:, 1:, :-1] - a[:, :-1, 1:] + a[:, 1:, 1:]
    own = products.diagonal(dim1=1, dim2=2)
    noise = GRAM_ROUNDING * precision * (squares[:, :-1] + squares[:, 1:])
    free = taking[:, 1:] & (own > noise)
    scale = torch.where(free, torch.where(free, own, 1.0).rsqrt(), 0.0)
    pair = free.unsqueeze(2) & free.unsqueeze(1)
    scaled = torch.where(pair, products, 0.0) * scale.unsqueeze(2) * scale.unsqueeze(1)
    right = torch.where(free, a[:, 0, :-1] - a[:, 0, 1:], 0.0) * scale
    return scale * _solve(scaled, right, free, (noise * scale**2).detach().clamp_min(LEAST_PIVOT))


class _Pivot(NamedTuple):
    """One step of the factorisation: the difference chosen, one-hot, or none; its column, its root, its entry of L^-1 b."""

    chosen: Tensor
    column: Tensor
    root: Tensor
    y: Tensor


def _solve(a: Tensor, b: Tensor, free: Tensor, least: Tensor) -> Tensor:
    """x `(B, k)` of a x = b, for a `(B, k, k)` of unit diagonal in the columns that are `free`; 0 in the others, and in those
    whose pivot does not exceed `least`. Out of place, so that autograd can follow."""
    k = a.shape[1]
    index = torch.arange(k, device=a.device)
    pivots: list[_Pivot] = []
    for step in range(k):
        diagonal = a.diagonal(dim1=1, dim2=2)
        score = torch.where(free & (diagonal > least), diagonal.detach(), -1.0)
        if step == 0:
            score = torch.where(free & (index == 0), 2.0, score)
        highest = score.amax(1, keepdim=True)
        found = highest > 0
        chosen = found & (index == torch.where(score == highest, index, k).amin(1, keepdim=True))
        root = torch.where(found, torch.where(chosen, diagonal, 0.0).sum(1, keepdim=True), 1.0).sqrt()
        column = torch.where(free, torch.where(chosen.unsqueeze(1), a, 0.0).sum(2) / root, 0.0)
        y = torch.where(chosen, b, 0.0).sum(1, keepdim=True) / root
        a, b, free = a - column.unsqueeze(2) * column.unsqueeze(1), b - column * y, free & ~chosen
        pivots.append(_Pivot(chosen, column, root, y))
    x = torch.zeros_like(b)
    for pivot in reversed(pivots):
        x = torch.where(pivot.chosen, (pivot.y - (pivot.column * x).sum(1, keepdim=True)) / pivot.root, x)
    return x
