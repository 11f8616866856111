"""Both steps in plain PyTorch: the specification of every backend, and what runs if something is differentiated.

A step measures, decides and moves: Anderson moves by mixing its history, the fixed-point step by a damped step. Nothing is
written in place, so that autograd and `torch.func` can follow. Selection is by `where`: `mask * value` would let the NaN of one
point into everything (0 x NaN).
"""

from __future__ import annotations

from typing import NamedTuple, cast

import torch
from torch import Tensor

from ..dispatch import register
from ..layout import BEST, FLAGS, IN_SAVED, IN_START, LOWEST, MARK, MIXED, STALLED, Status
from .mixing import mixing_weights
from .state import SolveState, StopRule, wide

# A residual 1e8 times the first one is taken for divergence: in float32 the next few evaluations would overflow. Growth by up
# to 4 an evaluation is let go on, since the first residual may just be small: from 0, that of tanh(3 z) + 1e-10 triples with
# each evaluation, from 1e-10 on, until z reaches 0.995.
DIVERGENCE_FACTOR = 1e8
GROWTH_PER_STEP = 4.0

# Weights amplify the rounding of the history by their norm. If that exceeds this share of the state, a plain step is better.
MAX_WEIGHT_ROUNDING = 1e-3

# A mixed step after which the residual exceeds this multiple of the history's best says that the linear model behind the
# history no longer holds. Growth after a plain step says that f expands there, and another plain step would repeat it.
RESTART_FACTOR = 10.0

# A history is dropped, too, if ||g|| has not fallen to 0.3 of what it was within two lengths of the history. On linear maps
# with slopes up to .99, which take a short history hundreds of evaluations, solves with restarts need 0.4 of them.
STALL_FACTOR = 0.3
STALL_HISTORIES = 2


class Measured(NamedTuple):
    """Of one evaluation, each `(B,)`: ||g|| in float64; and the residual that the stop compares with its tolerance, in the
    precision of the states."""

    norm: Tensor
    residual: Tensor


def measure(f: Tensor, g: Tensor, stop: StopRule) -> Measured:
    """The norms of f and g = f - x, `(B, D)` each, in float64: squares of float32 overflow beyond 1e19 and vanish below
    1e-23."""
    norm = torch.linalg.vector_norm(g.detach(), dim=1, dtype=wide(g))
    residual = norm
    if stop.relative:
        # An f of exactly zero is a finite answer: its quotient may neither be 0 / 0 nor overflow to infinity.
        size = torch.linalg.vector_norm(f.detach(), dim=1, dtype=wide(f)).clamp_min(torch.finfo(norm.dtype).tiny)
        residual = norm / size
    return Measured(norm, residual.clamp_max(torch.finfo(g.dtype).max).to(g.dtype))


def decide(state: SolveState, measured: Measured, slot: int, evicted: Tensor | None, stop: StopRule) -> None:
    """Takes in one evaluation: which samples go on, how the others ended, and where the best value of each one is."""
    norm, residual = (t.to(state.measurements.dtype) for t in measured)
    lowest_residual, norm_there, first, lowest_norm, last, mark, limit = state.measurements.unbind(1)
    status, iterations, active, best, *rest = state.flags.unbind(1)
    goes_on = active.bool()
    finite = torch.isfinite(norm) & torch.isfinite(residual)
    first = torch.where(goes_on & (iterations == 0), norm, first)
    better = goes_on & finite & (residual < lowest_residual)
    # The best value is copied if its slot is taken by something worse, and not before.
    loses_slot = ~better & (best == slot)
    if evicted is not None:
        state.saved_best = torch.where(loses_slot.unsqueeze(1), evicted, state.saved_best)
    best = torch.where(better, slot, torch.where(loses_slot, IN_SAVED, best))
    if stop.batch:
        # One decision for the whole batch, in the precision of the residuals.
        mean = residual.mean().to(measured.residual.dtype).to(residual.dtype)
        converged = (mean <= stop.tol).expand_as(finite)
    else:
        converged = finite & (residual <= stop.tol)
    diverged = finite & (norm > limit)
    raised = torch.maximum(DIVERGENCE_FACTOR * first, torch.minimum(GROWTH_PER_STEP * limit, DIVERGENCE_FACTOR * norm))
    for ends, how in ((converged, Status.CONVERGED), (diverged, Status.DIVERGED), (~finite, Status.NONFINITE)):
        status = torch.where(goes_on & ends, int(how), status)
    still = goes_on & ~(converged | diverged | ~finite)
    state.measurements = torch.stack(
        (
            torch.where(better, residual, lowest_residual),
            torch.where(better, norm, norm_there),
            first,
            lowest_norm,
            torch.where(goes_on, residual, last),
            mark,
            torch.where(goes_on & finite, raised, limit),
        ),
        1,
    )
    iterations = iterations + active
    state.replace_flags(torch.stack((status, iterations, still.to(status.dtype), best, *rest), 1))


@register("fixed_point_step", "torch")
def fixed_point_step_reference(
    state: SolveState, x: Tensor, slot: int, evicted: Tensor | None, stop: StopRule, advance: bool, beta: float
) -> Tensor | None:
    f = state.f_ring[slot].to(x.dtype)
    g = f - x
    decide(state, measure(f, g, stop), slot, evicted, stop)
    if not advance:
        return None
    return torch.where(state.active.unsqueeze(1), f if beta == 1.0 else x + beta * g, x)


@register("anderson_step", "torch")
def anderson_step_reference(
    state: SolveState,
    x: Tensor,
    slot: int,
    evicted: Tensor | None,
    stop: StopRule,
    advance: bool,
    beta: float,
    ridge: float,
    safeguards: bool,
    history_dtype: torch.dtype | None = None,
) -> Tensor | None:
    f = state.f_ring[slot].to(x.dtype)
    g = f - x
    measured = measure(f, g, stop)
    decide(state, measured, slot, evicted, stop)
    if not advance:
        return None
    if history_dtype is not None:
        g = g.to(history_dtype).to(x.dtype)
    ring = cast("list[Tensor]", state.g_ring)
    if slot == len(ring):
        ring.append(g)
    else:
        ring[slot] = g
    _enter_gram_row(state, ring, slot)
    valid = history(state, measured.norm, slot, safeguards)
    alpha = _weights(state, valid, slot, ridge, torch.finfo(x.dtype).eps, safeguards).to(x.dtype)
    x_next = torch.zeros_like(x)
    for i, (f_i, g_i) in enumerate(zip(state.f_ring, ring, strict=True)):
        damped = f_i.to(x.dtype) if beta == 1.0 else f_i.to(x.dtype) - (1.0 - beta) * g_i
        x_next = torch.addcmul(x_next, alpha[:, i : i + 1], damped)
    return torch.where(state.active.unsqueeze(1), x_next, x)


def unit(t: Tensor) -> tuple[Tensor, Tensor]:
    """t `(B, D)` divided by its norm, and the norm `(B,)` in float64, a constant to autograd. The norm is 1 where that is 0,
    infinite, or so small that t cannot be divided by it."""
    norm = torch.linalg.vector_norm(t.detach(), dim=1, dtype=wide(t))
    norm = torch.where((norm >= torch.finfo(t.dtype).tiny) & norm.isfinite(), norm, 1.0)
    return t * norm.reciprocal().to(t.dtype).unsqueeze(1), norm


def _enter_gram_row(state: SolveState, ring: list[Tensor], slot: int) -> None:
    """Products of the newest g with all g of the history: the one row and column of the Gram matrix that change.

    The newest g is divided by its norm first, and the products multiplied by that again in float64, so that they neither vanish
    nor overflow.
    """
    m = state.slots
    direction, norm = unit(ring[slot])
    products = [(other * direction).sum(1).to(norm.dtype) * norm for other in ring]
    row = torch.stack([*products, *[torch.zeros_like(norm)] * (m - len(ring))], 1)
    newest = torch.arange(m, device=row.device) == slot
    gram = torch.where(newest.unsqueeze(0), row.unsqueeze(2), state.gram)
    state.gram = torch.where(newest.unsqueeze(1), row.unsqueeze(1), gram)


def history(state: SolveState, norm: Tensor, slot: int, safeguards: bool) -> Tensor:
    """Which pairs take part, `(B, m)` bool. With safeguards, the newest alone after a mixed step that led astray, or if the
    history makes no progress."""
    valid = state.flags[:, FLAGS:].bool()
    newest = torch.arange(state.slots, device=valid.device) == slot
    if not safeguards:
        return valid | newest
    lowest, mark = state.measurements[:, LOWEST], state.measurements[:, MARK]
    advanced = norm <= STALL_FACTOR * mark
    stalled = torch.where(advanced, 0, state.flags[:, STALLED] + 1)
    drops = (state.flags[:, MIXED].bool() & (norm > RESTART_FACTOR * lowest)) | (stalled >= STALL_HISTORIES * state.slots)
    lowest = torch.where(drops, norm, torch.minimum(norm, lowest))
    mark = torch.where(advanced | drops, norm, mark)
    stalled = torch.where(drops, 0, stalled)
    state.measurements = put(state, state.measurements, {LOWEST: lowest, MARK: mark})
    state.replace_flags(put(state, state.flags, {STALLED: stalled}))
    return (valid & ~drops.unsqueeze(1)) | newest


def _weights(state: SolveState, valid: Tensor, slot: int, ridge: float, precision: float, safeguards: bool) -> Tensor:
    """alpha `(B, n)`; with safeguards, a plain step if the weights are absurd."""
    n = len(state.f_ring)
    alpha = mixing_weights(state.gram[:, :n, :n], valid[:, :n], ridge, slot, precision)
    entries: dict[int, Tensor] = {FLAGS + i: valid[:, i] for i in range(state.slots)}
    if safeguards:
        newest = torch.arange(n, device=valid.device) == slot
        sane = precision * alpha.norm(dim=1) <= MAX_WEIGHT_ROUNDING
        alpha = torch.where(sane.unsqueeze(1), alpha, newest.to(alpha.dtype))
        entries[MIXED] = sane & (valid.sum(1) > 1)
    state.replace_flags(put(state, state.flags, entries))
    return alpha


def put(state: SolveState, columns: Tensor, entries: dict[int, Tensor]) -> Tensor:
    """`columns` with other entries `(B,)` for the samples that go on."""
    active = state.active
    parts = list(columns.unbind(1))
    for i, entry in entries.items():
        parts[i] = torch.where(active, entry.to(columns.dtype), parts[i])
    return torch.stack(parts, 1)


@register("best_so_far", "torch")
def best_so_far_reference(ring: list[Tensor], saved_best: Tensor, start: Tensor, flags: Tensor) -> Tensor:
    best = flags[:, BEST : BEST + 1]
    out = torch.where(best == IN_START, start, saved_best)
    for slot, value in enumerate(ring):
        out = torch.where(best == slot, value, out)
    return out
