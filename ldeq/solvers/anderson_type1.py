r"""The step of Anderson mixing, type I, in plain PyTorch on every device.

Of the differences s_i of neighbouring iterates and y_i of their residuals g, up to m - 1 of them, it takes the weights

$$ (S^T Y)\, t = S^T g, \qquad x_{next} = x + \beta g - (S + \beta Y)\, t $$

(Fang and Saad 2009, section 3; Walker and Ni 2011, section 3). Type II has Y^T Y and Y^T g in their place: it makes the mixed
residual small, type I makes it orthogonal to the steps. The one estimates the inverse Jacobian of g, the other the Jacobian: on
linear maps they are GMRES and the Arnoldi method.

S^T Y may be singular at any time. Zhang, O'Donoghue and Boyd (2020) keep it from that by three means: a Powell regularisation,
restarts if the steps are all but dependent, and a plain step if the residual does not fall. Here differences whose pivot is
small are left out, which does what the first two do; the restarts are those of type II.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import cast

import torch
from torch import Tensor

from ..ops.layout import FLAGS, MIXED
from ..ops.solve_step import Next, SolveState, Step, StopRule
from ..ops.solve_step.reference import MAX_WEIGHT_ROUNDING, decide, history, measure, put, unit

# A difference takes part if what is left of its pivot s^T y, after those taken before, exceeds this share of ||s|| ||y||.
LEAST_PIVOT = 1e-6


@dataclass
class TypeOneState(SolveState):
    """The differences by the slot of the newer pair, divided by their norms, and what the next ones need.

    - `steps_taken`: s, a list of `(B, D)`; y is in `g_ring`. `gram` holds the products s_i^T y_j.
    - `step_norms`, `change_norms`: `(B, m)` float64, ||s|| and ||y||.
    - `x_before`, `g_before`: of the last evaluation.
    """

    steps_taken: list[Tensor] = field(default_factory=list)
    step_norms: Tensor | None = None
    change_norms: Tensor | None = None
    x_before: Tensor | None = None
    g_before: Tensor | None = None


class TypeOneStep(Step):
    """The step; `beta`, `ridge` and `safeguards` as in `ldeq.solvers.Anderson`."""

    compiled = False

    def __init__(self, beta: float, ridge: float, safeguards: bool) -> None:
        self.beta, self.ridge, self.safeguards = float(beta), float(ridge), safeguards

    def __call__(
        self, state: SolveState, x: Tensor, f: Tensor, value: Tensor, stop: StopRule, advance: bool, cast: bool
    ) -> Next:
        own = _as_type_one(state)
        f = f.to(x.dtype)
        g = f - x
        slot, evicted = state.push(f, value)
        measured = measure(f, g, stop)
        decide(state, measured, slot, evicted, stop)
        if not advance:
            return Next(None, None)
        _enter(own, x, g, slot)
        valid = history(state, measured.norm, slot, self.safeguards)
        x_next = self._mix(own, x, f, g, valid, slot)
        own.x_before, own.g_before = x, g
        return Next(torch.where(state.active.unsqueeze(1), x_next, x), None)

    def _mix(self, state: TypeOneState, x: Tensor, f: Tensor, g: Tensor, valid: Tensor, slot: int) -> Tensor:
        plain = f if self.beta == 1.0 else x + self.beta * g
        entries: dict[int, Tensor] = {FLAGS + i: valid[:, i] for i in range(state.slots)}
        if state.step_norms is None or state.change_norms is None:
            state.replace_flags(put(state, state.flags, entries))
            return plain
        n = len(state.steps_taken)
        # A difference needs both of its pairs; the oldest pair of the ring has lost the one before.
        index = torch.arange(n, device=x.device)
        taking = (valid & valid.roll(1, 1))[:, :n] & (index != (slot + 1) % state.slots) & (state.change_norms[:, :n] > 0)
        direction, norm = unit(g)
        right = torch.stack([(s * direction).sum(1) for s in state.steps_taken], 1).to(norm.dtype)
        t = type_one_weights(state.gram[:, :n, :n], right, taking, slot, self.ridge)
        # ||g|| t over the norms of y is what the formula calls t.
        size = (norm.unsqueeze(1) / torch.where(taking, state.change_norms[:, :n], 1.0)) * t
        sane = _weights_are_sane(size, slot, torch.finfo(x.dtype).eps) if self.safeguards else size.isfinite().all(1)
        size = torch.where(sane.unsqueeze(1), size, 0.0)
        of_s, of_y = size * state.step_norms[:, :n], self.beta * size * state.change_norms[:, :n]
        x_next = plain
        for i, (s, y) in enumerate(zip(state.steps_taken, state.g_ring, strict=True)):
            x_next = x_next - of_s[:, i : i + 1].to(x.dtype) * s - of_y[:, i : i + 1].to(x.dtype) * y
        entries[MIXED] = sane & taking.any(1)
        state.replace_flags(put(state, state.flags, entries))
        return x_next


def type_one_weights(gram: Tensor, right: Tensor, taking: Tensor, newest: int, ridge: float = 0.0) -> Tensor:
    """t `(B, n)` of (S^T Y - lambda I) t = S^T g; 0 for differences that are left out.

    Solved in float64 by elimination that takes the newest difference first and then always the one of the largest pivot.

    Args:
        gram: `(B, n, n)`, the products s_i^T y_j of unit vectors. The map g falls along its steps if f contracts: they are
            negative on the diagonal, and so is the shift.
        right: `(B, n)`, the products s_i^T g.
        taking: `(B, n)` bool, the differences that take part.
        newest: the slot of the newest one.
        ridge: lambda, relative to the mean size of the diagonal from 0 upwards, absolute below 0.
    """
    n = gram.shape[-1]
    index = torch.arange(n, device=gram.device)
    a = torch.where(taking.unsqueeze(2) & taking.unsqueeze(1), gram, 0.0)
    b = torch.where(taking, right, 0.0)
    size = a.diagonal(dim1=1, dim2=2).abs().sum(1, keepdim=True) / taking.sum(1, keepdim=True).clamp_min(1)
    shift = ridge * size if ridge >= 0 else torch.full_like(size, -ridge)
    a = a - torch.diag_embed(torch.where(taking, shift, 0.0))
    free = taking
    pivots = []
    for step in range(n):
        diagonal = a.diagonal(dim1=1, dim2=2)
        score = torch.where(free & (diagonal.abs() > LEAST_PIVOT), diagonal.detach().abs(), -1.0)
        if step == 0:
            score = torch.where((score > 0) & (index == newest), torch.inf, score)
        highest = score.amax(1, keepdim=True)
        found = highest > 0
        chosen = found & (index == torch.where(score == highest, index, n).amin(1, keepdim=True))
        pivot = torch.where(found, torch.where(chosen, diagonal, 0.0).sum(1, keepdim=True), 1.0)
        row = torch.where(free, torch.where(chosen.unsqueeze(2), a, 0.0).sum(1), 0.0)
        column = torch.where(free, torch.where(chosen.unsqueeze(1), a, 0.0).sum(2), 0.0)
        c = torch.where(chosen, b, 0.0).sum(1, keepdim=True) / pivot
        a = a - (column / pivot).unsqueeze(2) * row.unsqueeze(1)
        b = b - column * c
        free = free & ~chosen
        pivots.append((chosen, row / pivot, c))
    t = torch.zeros_like(b)
    for chosen, row, c in reversed(pivots):
        t = torch.where(chosen, c - (row * t).sum(1, keepdim=True), t)
    return t


def _enter(state: TypeOneState, x: Tensor, g: Tensor, slot: int) -> None:
    """Puts the newest differences into their slot, and their products into the matrix."""
    if state.x_before is None or state.g_before is None:
        return
    (s, s_norm), (y, y_norm) = unit(x - state.x_before), unit(g - state.g_before)
    if state.step_norms is None or state.change_norms is None:
        # The first pair has no one before it: its slot holds a difference of zero until the ring comes round.
        zero = torch.zeros_like(s)
        state.steps_taken, state.g_ring = [zero], [zero]
        state.step_norms = state.change_norms = s_norm.new_zeros(len(s), state.slots)
    ring = cast("list[Tensor]", state.g_ring)
    if slot == len(ring):
        state.steps_taken, state.g_ring = [*state.steps_taken, s], [*ring, y]
    else:
        state.steps_taken, state.g_ring = _replaced(state.steps_taken, slot, s), _replaced(ring, slot, y)
    missing = [s_norm.new_zeros(len(s))] * (state.slots - len(state.g_ring))
    row = torch.stack([*((s * other).sum(1).to(s_norm.dtype) for other in state.g_ring), *missing], 1)
    column = torch.stack([*((other * y).sum(1).to(s_norm.dtype) for other in state.steps_taken), *missing], 1)
    newest = torch.arange(state.slots, device=x.device) == slot
    gram = torch.where(newest.unsqueeze(0), column.unsqueeze(2), state.gram)
    state.gram = torch.where(newest.unsqueeze(1), row.unsqueeze(1), gram)
    state.step_norms = torch.where(newest, s_norm.unsqueeze(1), state.step_norms)
    state.change_norms = torch.where(newest, y_norm.unsqueeze(1), state.change_norms)


def _replaced(ring: list[Tensor], slot: int, t: Tensor) -> list[Tensor]:
    return [*ring[:slot], t, *ring[slot + 1 :]]


def _weights_are_sane(t: Tensor, newest: int, precision: float) -> Tensor:
    """Whether the weights alpha of the pairs amplify the rounding of the history by little, `(B,)`; not for NaN."""
    ages = (newest - torch.arange(t.shape[1], device=t.device)) % t.shape[1]
    t = t[:, ages]
    alpha = torch.cat((t.new_ones(len(t), 1), t), 1) - torch.cat((t, t.new_zeros(len(t), 1)), 1)
    return precision * alpha.norm(dim=1) <= MAX_WEIGHT_ROUNDING


def _as_type_one(state: SolveState) -> TypeOneState:
    return cast(TypeOneState, state)
