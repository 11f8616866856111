"""One step of x <- x + beta (f - x) in Triton: see ldeq/solvers/fixed_point.py.

Three launches: `fixed_point_measure` streams f and x once, and writes the next x and the norms of a tile; `fixed_point_decide`,
one program a sample, adds the tiles and decides who goes on; `fixed_point_undo` puts samples back that have just stopped, and
saves a best value before it is lost. Most of its programs end at once.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .layout import ACTIVE
from .sample_state import SAVE_BEST, SUM, UNDO, decide, measure, measure_batch, sum_of_squares, sum_tiles

TILE = 1024
WARPS = 4


@triton.jit
def fixed_point_measure(
    f, x, x_next, x_cast, partials, flags, size, width, tiles, beta,
    MOVES: tl.constexpr, CAST: tl.constexpr, BATCH_STOP: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    index = tl.program_id(0).to(tl.int64)
    sample = index // tiles
    at = index % tiles * BLOCK + tl.arange(0, BLOCK)
    inside = at < size
    here = sample * size + at
    before = tl.load(x + here, mask=inside, other=0.0)
    after = before
    active = tl.load(flags + sample * width + ACTIVE) != 0
    if BATCH_STOP | active:
        new = tl.load(f + here, mask=inside, other=0.0).to(tl.float32)
        g = new - before
        tl.store(partials + index * 2, sum_of_squares(g))
        tl.store(partials + index * 2 + 1, sum_of_squares(new))
        # For the mean of the batch, a sample that has stopped is measured all the same; it stays where it is.
        after = tl.where(active, tl.where(beta == 1.0, new, before + beta * g), before)
    if MOVES:
        tl.store(x_next + here, after, mask=inside)
        if CAST:
            tl.store(x_cast + here, after.to(x_cast.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["batch"])
def fixed_point_decide(
    partials, measurements, flags, todo, residuals, batch, width, tiles, slot, tol,
    RELATIVE: tl.constexpr, BATCH_STOP: tl.constexpr, SUM: tl.constexpr,
):  # fmt: skip
    sample = tl.program_id(0).to(tl.int64)
    rows = partials + sample * tiles * 2
    written = tl.where(tl.load(flags + sample * width + ACTIVE) != 0, tiles, 0)
    squared_g = sum_tiles(rows, written, 2, 0, SUM)
    squared_f = sum_tiles(rows, written, 2, 1, SUM)
    norm, residual = measure(squared_g, squared_f, RELATIVE)
    decide(measurements, flags, todo, residuals, batch, width, sample, norm, residual, slot, tol, BATCH_STOP, SUM)


@triton.jit
def fixed_point_undo(
    x, x_next, x_cast, evicted, saved_best, todo, size, tiles,
    EVICTS: tl.constexpr, MOVES: tl.constexpr, CAST: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    index = tl.program_id(0).to(tl.int64)
    sample = index // tiles
    at = index % tiles * BLOCK + tl.arange(0, BLOCK)
    inside = at < size
    here = sample * size + at
    mine = tl.load(todo + sample)
    if EVICTS:
        if (mine & SAVE_BEST) != 0:
            tl.store(saved_best + here, tl.load(evicted + here, mask=inside, other=0.0), mask=inside)
    if MOVES:
        # A sample that has just stopped stays where it was; its f may even be NaN.
        if (mine & UNDO) != 0:
            before = tl.load(x + here, mask=inside, other=0.0)
            tl.store(x_next + here, before, mask=inside)
            if CAST:
                tl.store(x_cast + here, before.to(x_cast.dtype.element_ty), mask=inside)


def launch_step(
    x: Tensor,
    f: Tensor,
    evicted: Tensor | None,
    measurements: Tensor,
    flags: Tensor,
    saved_best: Tensor,
    x_next: Tensor | None,
    x_cast: Tensor | None,
    beta: float,
    tol: float,
    relative: bool,
    batch_stop: bool,
) -> None:
    """Arguments as `FixedPointStep` of ldeq/ops/solve_step/step.py hands them on, checked and contiguous."""
    batch, size = x.shape
    tiles, width, device = triton.cdiv(size, TILE), flags.shape[1], x.device
    if batch * tiles == 0:
        return
    partials = torch.empty(batch, tiles, 2, dtype=torch.float64, device=device)
    todo = torch.empty(batch, dtype=torch.int32, device=device)
    residuals = torch.empty(batch, dtype=torch.float32, device=device)
    moves, cast = x_next is not None, x_next is not None and x_cast is not None
    nowhere = x if x_next is None else x_next
    cast_to = x_cast if x_cast is not None else nowhere
    fixed_point_measure[(batch * tiles,)](
        f, x, nowhere, cast_to, partials, flags, size, width, tiles, beta,
        MOVES=moves, CAST=cast, BATCH_STOP=batch_stop, BLOCK=TILE, num_warps=WARPS, enable_fp_fusion=True,
    )  # fmt: skip
    if batch_stop:
        measure_batch[(batch,)](
            partials, residuals, tiles, 2, 0, RELATIVE=relative, SUM=SUM, num_warps=1, enable_fp_fusion=True
        )
    fixed_point_decide[(batch,)](
        partials, measurements, flags, todo, residuals, batch, width, tiles, 0, tol,
        RELATIVE=relative, BATCH_STOP=batch_stop, SUM=SUM, num_warps=1, enable_fp_fusion=True,
    )  # fmt: skip
    if moves or evicted is not None:
        fixed_point_undo[(batch * tiles,)](
            x, nowhere, cast_to, saved_best if evicted is None else evicted, saved_best, todo, size, tiles,
            EVICTS=evicted is not None, MOVES=moves, CAST=cast, BLOCK=TILE, num_warps=WARPS, enable_fp_fusion=True,
        )  # fmt: skip
