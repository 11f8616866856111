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
from ..layout import BEST, FLAGS, IN_SAVED, IN_START, MIXED, Status
from .mixing import mixing_weights
from .state import SolveState, StopRule

# A residual this many times the first one is taken for divergence: no solve recovers 8 decades within its budget, and in
# float32 the next few evaluations would overflow.
DIVERGENCE_FACTOR = 1e8

# Weights of this norm amplify the rounding of float32 history entries to ~1e-3 of the state: worse than a plain step.
MAX_WEIGHT_NORM = 1e4

# A mixed step after which the residual exceeds this multiple of the history's best says that the linear model behind the
# history no longer holds. Growth after a plain step says that f expands there, and another plain step would repeat it.
RESTART_FACTOR = 10.0


class Measured(NamedTuple):
    """Of one evaluation, each `(B,)`: ||g||, and the residual that the stop compares with its tolerance."""

    norm: Tensor
    residual: Tensor


def measure(f: Tensor, g: Tensor, stop: StopRule) -> Measured:
    """The norms of f and g = f - x, `(B, D)` each, in their own precision."""
    norm = torch.linalg.vector_norm(g.detach(), dim=1)
    if not stop.relative:
        return Measured(norm, norm)
    info = torch.finfo(norm.dtype)
    # An f of exactly zero is a finite answer: its quotient may neither be 0 / 0 nor overflow to infinity.
    size = torch.linalg.vector_norm(f.detach(), dim=1).clamp_min(info.tiny)
    return Measured(norm, (norm / size).clamp_max(info.max))


def decide(state: SolveState, measured: Measured, slot: int, evicted: Tensor | None, stop: StopRule) -> None:
    """Takes in one evaluation: which samples go on, how the others ended, and where the best value of each one is."""
    norm, residual = (t.to(state.measurements.dtype) for t in measured)
    lowest_residual, norm_there, first, lowest_norm, last = state.measurements.unbind(1)
    status, iterations, active, best, mixed, *valid = state.flags.unbind(1)
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
    diverged = finite & (norm > DIVERGENCE_FACTOR * first)
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
        ),
        1,
    )
    iterations = iterations + active
    state.flags = torch.stack((status, iterations, still.to(status.dtype), best, mixed, *valid), 1)


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
    alpha = _weights(state, measured.norm, slot, ridge, safeguards).to(x.dtype)
    x_next = torch.zeros_like(x)
    for i, (f_i, g_i) in enumerate(zip(state.f_ring, ring, strict=True)):
        damped = f_i.to(x.dtype) if beta == 1.0 else f_i.to(x.dtype) - (1.0 - beta) * g_i
        x_next = torch.addcmul(x_next, alpha[:, i : i + 1], damped)
    return torch.where(state.active.unsqueeze(1), x_next, x)


def _enter_gram_row(state: SolveState, ring: list[Tensor], slot: int) -> None:
    """Products of the newest g with all g of the history: the one row and column of the Gram matrix that change."""
    m = state.slots
    products = [(g * ring[slot]).sum(1) for g in ring]
    row = torch.stack([*products, *[torch.zeros_like(products[0])] * (m - len(ring))], 1).to(state.gram.dtype)
    newest = torch.arange(m, device=row.device) == slot
    gram = torch.where(newest.unsqueeze(0), row.unsqueeze(2), state.gram)
    state.gram = torch.where(newest.unsqueeze(1), row.unsqueeze(1), gram)


def _weights(state: SolveState, norm: Tensor, slot: int, ridge: float, safeguards: bool) -> Tensor:
    """alpha `(B, n)`; with safeguards, a restart if a mixed step led astray and a plain step if the weights are absurd."""
    n = len(state.f_ring)
    active, mixed = state.active, state.flags[:, MIXED].bool()
    valid = state.flags[:, FLAGS:].bool()
    newest = torch.arange(state.slots, device=valid.device) == slot
    residual, norm_there, first, lowest, last = state.measurements.unbind(1)
    if safeguards:
        norm = norm.to(lowest.dtype)
        grown = mixed & (norm > RESTART_FACTOR * lowest)
        valid = valid & ~grown.unsqueeze(1)
        lowest = torch.where(active, torch.where(grown, norm, torch.minimum(norm, lowest)), lowest)
        state.measurements = torch.stack((residual, norm_there, first, lowest, last), 1)
    valid = valid | newest
    alpha = mixing_weights(state.gram[:, :n, :n], valid[:, :n], ridge)
    if safeguards:
        sane = alpha.norm(dim=1, keepdim=True) <= MAX_WEIGHT_NORM
        alpha = torch.where(sane, alpha, newest[:n].to(alpha.dtype))
        mixed = sane.squeeze(1) & (valid.sum(1) > 1)
    old = state.flags
    new = torch.cat((old[:, :MIXED], mixed.unsqueeze(1).to(old.dtype), valid.to(old.dtype)), 1)
    state.flags = torch.where(active.unsqueeze(1), new, old)
    return alpha


@register("best_so_far", "torch")
def best_so_far_reference(ring: list[Tensor], saved_best: Tensor, start: Tensor, flags: Tensor) -> Tensor:
    best = flags[:, BEST : BEST + 1]
    out = torch.where(best == IN_START, start, saved_best)
    for slot, value in enumerate(ring):
        out = torch.where(best == slot, value, out)
    return out
