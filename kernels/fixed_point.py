"""One step of x <- x + beta (f - x) in Triton, with residual and stopping: see ldeq/solvers/fixed_point.py.

One pass over f and x, and a launch with one program a sample that adds the tiles' sums. The last two f, or the last three x,
are kept in a ring, so that the best point is copied only when its place is about to be taken.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .progress import ProgressState, record, repeat_trace

TILE = 1024
WARPS = 4


@triton.jit(do_not_specialize=["full", "leaving"])
def fixed_point_move(
    fx, x, x_out, x_cast, ring, value, partials, active, best_slot, size, stride, tiles, full, leaving, beta,
    CAST: tl.constexpr, RETURNS_X: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    tile = tl.program_id(0)
    sample = tl.program_id(1).to(tl.int64)
    if tl.load(active + sample) != 0:
        at = tile.to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
        inside = at < size
        here = sample * size + at
        new = tl.load(fx + here, mask=inside, other=0.0)
        f = new.to(tl.float32)
        before = tl.load(x + here, mask=inside, other=0.0)
        g = f - before
        out = partials + (sample * tiles + tile) * 2
        tl.store(out, tl.sum(g * g))
        tl.store(out + 1, tl.sum(f * f))
        place = ring + leaving.to(tl.int64) * stride + here
        if (full != 0) & (tl.load(best_slot + sample) == leaving):
            tl.store(value + here, tl.load(place, mask=inside, other=0.0).to(value.dtype.element_ty), mask=inside)
        moved = tl.where(beta == 1.0, f, before + beta * g)
        if not RETURNS_X:
            tl.store(place, new, mask=inside)
        tl.store(x_out + here, moved, mask=inside)
        if CAST:
            tl.store(x_cast + here, moved.to(x_cast.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["step", "full", "slot", "leaving"])
def fixed_point_record(
    partials, active, status, iterations, residual, norm, first_norm, best_slot, trace,
    batch, tiles, step, full, slot, leaving, tol, RELATIVE: tl.constexpr, SUM: tl.constexpr,
):  # fmt: skip
    sample = tl.program_id(0).to(tl.int64)
    if tl.load(active + sample) == 0:
        repeat_trace(trace, batch, step, sample)
    else:
        squared_g = tl.zeros([SUM], tl.float64)
        squared_f = tl.zeros([SUM], tl.float64)
        for start in range(0, tiles, SUM):
            t = start + tl.arange(0, SUM)
            source = partials + (sample * tiles + t) * 2
            squared_g += tl.load(source, mask=t < tiles, other=0.0).to(tl.float64)
            squared_f += tl.load(source + 1, mask=t < tiles, other=0.0).to(tl.float64)
        saved = (full != 0) & (tl.load(best_slot + sample) == leaving)
        record(
            active, status, iterations, residual, norm, first_norm, best_slot, trace,
            batch, step, sample, tl.sum(squared_g), tl.sum(squared_f), slot, saved, tol, RELATIVE,
        )  # fmt: skip


def partials_for(batch: int, size: int, device: torch.device) -> Tensor:
    """Room for the sums of a step."""
    return torch.empty(batch, triton.cdiv(size, TILE), 2, dtype=torch.float32, device=device)


def launch_step(
    fx: Tensor,
    x: Tensor,
    x_out: Tensor,
    x_cast: Tensor | None,
    ring: Tensor,
    value: Tensor,
    partials: Tensor,
    progress: ProgressState,
    *,
    step: int,
    tol: float,
    relative: bool,
    beta: float,
    returns_x: bool,
) -> None:
    """Takes in fx = f(x) `(B, D)`.

    ``ring`` is `(2, B, D)` in the dtype of the cell, for f, or with ``returns_x`` `(3, B, D)` float32, and x and x_out are its
    entries step % 3 and (step + 1) % 3. Otherwise x_out may be x.
    """
    batch, size = x.shape
    slots = ring.shape[0]
    slot = step % slots
    leaving = (slot + 1) % slots if returns_x else slot
    full = int(step >= 2)
    tiles = triton.cdiv(size, TILE)
    fixed_point_move[(tiles, batch)](
        fx, x, x_out, x if x_cast is None else x_cast, ring, value, partials, progress.active, progress.best_slot,
        size, ring.stride(0), tiles, full, leaving, beta,
        CAST=x_cast is not None, RETURNS_X=returns_x, BLOCK=TILE, num_warps=WARPS,
    )  # fmt: skip
    fixed_point_record[(batch,)](
        partials, *progress, batch, tiles, step, full, slot, leaving, tol, RELATIVE=relative, SUM=64, num_warps=1,
    )  # fmt: skip
