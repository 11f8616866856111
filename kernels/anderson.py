"""One step of Anderson mixing in Triton: the formulas of ldeq/solvers/anderson.py.

Three launches: `anderson_measure` streams f, x and the history once, writes g and adds up the new row of the Gram matrix by
tiles; `anderson_decide` adds the tiles in fixed order, decides who goes on and solves for alpha; `anderson_mix` mixes. Nothing
is read on the host and no float is added atomically: results repeat bit for bit. csrc/cuda launches three kernels as well,
`anderson_measure`, `decide` and `anderson_mix`.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .layout import ACTIVE, FLAGS, LOWEST, MARK, MEASUREMENTS, MIXED, STALLED
from .sample_state import SAVE_BEST, SUM, decide, measure, measure_batch, padded, scale_of, sum_of_squares, sum_tiles

# Arguments that change from step to step are not specialised: each value would be a compilation.

# Elements of a tile by history length: 16 history rows of 512 are as many registers as 8 of 1024.
TILE = {1: 1024, 2: 1024, 4: 1024, 8: 1024, 16: 512}
WARPS = 4
# Four spill a few registers where rows are not aligned.
MEASURE_WARPS = 8

# The constants of ldeq/ops/solve_step, which says where they come from.
_LEAST_PIVOT = tl.constexpr(1e-7)
_GRAM_ROUNDING = tl.constexpr(10.0)
_MAX_WEIGHT_ROUNDING = tl.constexpr(1e-3)
_RESTART_FACTOR = tl.constexpr(10.0)
_STALL_FACTOR = tl.constexpr(0.3)
_STALL_HISTORIES = tl.constexpr(2)
_PRECISION = tl.constexpr(2.0**-23)


@triton.jit(do_not_specialize=["n", "slot"])
def anderson_measure(
    f, x, g, partials, flags, size, stride, width, tiles, columns, n, slot,
    MOVES: tl.constexpr, BATCH_STOP: tl.constexpr, N: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    index = tl.program_id(0).to(tl.int64)
    sample = index // tiles
    flag = flags + sample * width
    if BATCH_STOP | (tl.load(flag + ACTIVE) != 0):
        at = index % tiles * BLOCK + tl.arange(0, BLOCK)
        inside = at < size
        here = sample * size + at
        new_f = tl.load(f + here, mask=inside, other=0.0).to(tl.float32)
        residual = new_f - tl.load(x + here, mask=inside, other=0.0)
        out = partials + index * columns
        tl.store(out + n, sum_of_squares(residual))
        tl.store(out + n + 1, sum_of_squares(new_f))
        if MOVES:
            # The Gram matrix is of what the ring holds, or it would not be one; the residual is not rounded.
            stored = residual.to(g.dtype.element_ty)
            kept_g = stored.to(tl.float32)
            i = tl.arange(0, N)
            # Pairs that a restart dropped are not read.
            reads = (i < n) & (i != slot) & (tl.load(flag + FLAGS + i, mask=i < n, other=0) != 0)
            rows = g + i.to(tl.int64)[:, None] * stride + here[None, :]
            others = tl.load(rows, mask=reads[:, None] & inside[None, :], other=0.0).to(tl.float32)
            # With one factor near 1, the products are of the size of the other one.
            scale, unit = scale_of(residual)
            products = tl.sum(others * (kept_g * scale)[None, :], axis=1)
            tl.store(out + i, products.to(tl.float64) * unit, mask=(i < n) & (i != slot))
            tl.store(out + slot, sum_of_squares(kept_g))
            tl.store(g + slot.to(tl.int64) * stride + here, stored, mask=inside)


@triton.jit
def _at(vector, index, i):
    """vector[index], for an index known at run time."""
    return tl.sum(tl.where(i == index, vector, 0.0))


@triton.jit
def _sum_row(rows, tiles, columns, at, used, SUM: tl.constexpr):
    """The columns `at` of all tiles' partial sums, added up."""
    row = tl.zeros(at.shape, tl.float64)
    for start in range(0, tiles, SUM):
        t = start + tl.arange(0, SUM)
        part = tl.load(rows + (t * columns)[:, None] + at[None, :], mask=(t < tiles)[:, None] & used[None, :], other=0.0)
        row += tl.sum(part, axis=0)
    return row


@triton.jit
def _drops_history(measurement, flag, norm, m):
    """Whether the history is dropped. Enters what its progress is measured against."""
    lowest = tl.load(measurement + LOWEST)
    mark = tl.load(measurement + MARK)
    advanced = norm <= _STALL_FACTOR * mark
    stalled = tl.where(advanced, 0, tl.load(flag + STALLED) + 1)
    drops = ((tl.load(flag + MIXED) != 0) & (norm > _RESTART_FACTOR * lowest)) | (stalled >= _STALL_HISTORIES * m)
    # Every thread has read what one of them writes now.
    tl.debug_barrier()
    tl.store(measurement + LOWEST, tl.where(drops | (norm < lowest), norm, lowest))
    tl.store(measurement + MARK, tl.where(advanced | drops, norm, mark))
    tl.store(flag + STALLED, tl.where(drops, 0, stalled))
    return drops


@triton.jit
def _entries(matrix, row_i, row_j, at_i, at_j, m, IS_NEWEST_I: tl.constexpr, IS_NEWEST_J: tl.constexpr):
    """Entries of the Gram matrix for slots at_i and at_j; the newest pair's, if it is the first of them, from its row."""
    k = tl.arange(0, at_i.shape[0])
    a = tl.load(matrix + at_i[:, None] * m + at_j[None, :])
    if IS_NEWEST_I:
        a = tl.where((k == 0)[:, None], row_j[None, :], a)
    if IS_NEWEST_J:
        a = tl.where((k == 0)[None, :], row_i[:, None], a)
    return a


@triton.jit
def _mixing_weights(
    matrix, row, counts, pairs, rows, tiles, columns, m, n, slot, ridge, N: tl.constexpr, SUM: tl.constexpr
):  # fmt: skip
    """alpha by age. `row` holds the newest pair's products by age; pairs that take part are the newest ones."""
    i = tl.arange(0, N)
    at = (slot - i + 2 * n) % n
    next_at = (slot - i - 1 + 2 * n) % n
    next_row = _sum_row(rows, tiles, columns, next_at, i + 1 < n, SUM)
    eye = i[:, None] == i[None, :]
    inside = i + 1 < pairs
    both = inside[:, None] & inside[None, :]
    a = _entries(matrix, row, row, at, at, m, True, True)
    below = _entries(matrix, next_row, row, next_at, at, m, False, True)
    beyond = _entries(matrix, row, next_row, at, next_at, m, True, False)
    last = _entries(matrix, next_row, next_row, next_at, next_at, m, False, False)
    here = tl.sum(tl.where(eye & counts[:, None], a, 0.0), axis=1)
    after = tl.sum(tl.where(eye & inside[:, None], last, 0.0), axis=1)
    shift = tl.where(ridge >= 0, ridge * (tl.sum(here) / pairs), -ridge)
    # A ridge adds to each pair's own square, that is 2 to a difference's, and takes 1 from its product with the next one's.
    close = (i[:, None] - i[None, :] == 1) | (i[None, :] - i[:, None] == 1)
    a = a - below - beyond + last + tl.where(eye, 2.0, tl.where(close, -1.0, 0.0)) * shift
    a = tl.where(both, a, 0.0)
    square = tl.sum(tl.where(eye, a, 0.0), axis=1)
    noise = _GRAM_ROUNDING * _PRECISION * (here + after + 2.0 * shift)
    free = inside & (square > noise)
    scale = tl.where(free, 1.0 / tl.sqrt(tl.where(free, square, 1.0)), 0.0)
    least = tl.maximum(noise * scale * scale, _LEAST_PIVOT)
    b = tl.where(free, (row - next_row + tl.where(i == 0, shift, 0.0)) * scale, 0.0)
    a = a * scale[:, None] * scale[None, :]
    t = scale * _pivoted_solve(a, b, free, least, pairs - 1, N)
    weights = tl.where(i == 0, 1.0, 0.0) - tl.where(inside, t, 0.0)
    return weights + tl.sum(tl.where(i[:, None] == i[None, :] + 1, tl.where(inside, t, 0.0)[None, :], 0.0), axis=1)


@triton.jit
def _pivoted_solve(a, b, free, least, count, N: tl.constexpr):
    """x of a x = b for a matrix of unit diagonal, in the columns that are `free`; 0 for those whose pivot does not exceed
    `least`. A Cholesky factorisation: column 0 first, then always the largest pivot."""
    i = tl.arange(0, N)
    eye = i[:, None] == i[None, :]
    factor = tl.zeros([N, N], tl.float64)
    roots = tl.full([N], 1.0, tl.float64)
    entries = tl.zeros([N], tl.float64)
    places = tl.full([N], -1, tl.int32)
    for step in range(count):
        diagonal = tl.sum(tl.where(eye, a, 0.0), axis=1)
        score = tl.where(free & (diagonal > least), diagonal, -1.0)
        score = tl.where(free & (i + step == 0), 2.0, score)
        highest = tl.max(score)
        pivot = tl.min(tl.where((score == highest) & (score > 0), i, N))
        chosen = i == pivot
        root = tl.sqrt(tl.where(highest > 0, _at(diagonal, pivot, i), 1.0))
        column = tl.where(free, tl.sum(tl.where(chosen[None, :], a, 0.0), axis=1) / root, 0.0)
        entry = _at(b, pivot, i) / root
        b = b - column * entry
        a = a - column[:, None] * column[None, :]
        factor = tl.where((i == step)[None, :], column[:, None], factor)
        free = free & (chosen == 0)
        roots = tl.where(chosen, root, roots)
        entries = tl.where(chosen, entry, entries)
        places = tl.where(chosen, step, places)
    x = tl.zeros([N], tl.float64)
    for back in range(count):
        step = count - 1 - back
        column = tl.sum(tl.where((i == step)[None, :], factor, 0.0), axis=1)
        x = tl.where(places == step, (entries - tl.sum(column * x)) / roots, x)
    return x


@triton.jit(do_not_specialize=["batch", "n", "slot"])
def anderson_decide(
    partials, gram, alpha, measurements, flags, todo, residuals, batch, width, tiles, columns, m, n, slot, tol, ridge,
    MOVES: tl.constexpr, RELATIVE: tl.constexpr, BATCH_STOP: tl.constexpr, SAFEGUARDS: tl.constexpr,
    N: tl.constexpr, SUM: tl.constexpr,
):  # fmt: skip
    sample = tl.program_id(0).to(tl.int64)
    rows = partials + sample * tiles * columns
    flag = flags + sample * width
    measurement = measurements + sample * MEASUREMENTS
    written = tl.where(tl.load(flag + ACTIVE) != 0, tiles, 0)
    squared_g = sum_tiles(rows, written, columns, n, SUM)
    squared_f = sum_tiles(rows, written, columns, n + 1, SUM)
    norm, now = measure(squared_g, squared_f, RELATIVE)
    goes_on = decide(measurements, flags, todo, residuals, batch, width, sample, norm, now, slot, tol, BATCH_STOP, SUM)
    if MOVES:
        if goes_on:
            # By age: i = 0 is the newest pair, and n more is as much as none.
            i = tl.arange(0, N)
            at = (slot - i + 2 * n) % n
            used = i < n
            row = _sum_row(rows, tiles, columns, at, used, SUM)
            counts = tl.load(flag + FLAGS + at, mask=used, other=0) != 0
            if SAFEGUARDS:
                counts = counts & (_drops_history(measurement, flag, norm, m) == 0)
            counts = (counts | (i == 0)) & used
            tl.debug_barrier()
            tl.store(flag + FLAGS + at, counts.to(tl.int64), mask=used)
            pairs = tl.sum(counts.to(tl.int32))
            matrix = gram + sample * m * m
            weights = _mixing_weights(matrix, row, counts, pairs, rows, tiles, columns, m, n, slot, ridge, N, SUM)
            tl.debug_barrier()
            tl.store(matrix + slot * m + at, row, mask=used)
            tl.store(matrix + at * m + slot, row, mask=used)
            if SAFEGUARDS:
                # Also false for a NaN.
                sane = _PRECISION * tl.sqrt(tl.sum(weights * weights)) <= _MAX_WEIGHT_ROUNDING
                weights = tl.where(sane, weights, tl.where(i == 0, 1.0, 0.0))
                tl.store(flag + MIXED, (sane & (pairs > 1)).to(tl.int64))
            tl.store(alpha + sample * m + at, weights.to(tl.float32), mask=used)


@triton.jit(do_not_specialize=["n"])
def anderson_mix(
    ring, g, x, x_next, x_cast, evicted, saved_best, alpha, flags, todo, size, stride, width, tiles, m, n, beta,
    MOVES: tl.constexpr, EVICTS: tl.constexpr, CAST: tl.constexpr, DAMPED: tl.constexpr, N: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    index = tl.program_id(0).to(tl.int64)
    sample = index // tiles
    at = index % tiles * BLOCK + tl.arange(0, BLOCK)
    inside = at < size
    here = sample * size + at
    if EVICTS:
        if (tl.load(todo + sample) & SAVE_BEST) != 0:
            tl.store(saved_best + here, tl.load(evicted + here, mask=inside, other=0.0), mask=inside)
    if MOVES:
        goes_on = tl.load(flags + sample * width + ACTIVE) != 0
        # A sample that has stopped stays where it is.
        mixed = tl.load(x + here, mask=at < tl.where(goes_on, 0, size), other=0.0)
        rows = tl.arange(0, N)
        weights = tl.load(alpha + sample * m + rows, mask=rows < tl.where(goes_on, n, 0), other=0.0)
        for i in tl.static_range(N):
            weight = _at(weights, i, rows)
            # Pairs of no weight are not read. As a bound: by a mask of its own the compiler would not see that neighbours share
            # it, and would read one element at a time.
            reads = at < tl.where(weight != 0.0, size, 0)
            damped = tl.load(ring[i] + here, mask=reads, other=0.0).to(tl.float32)
            if DAMPED:
                damped -= (1.0 - beta) * tl.load(g + tl.full((), i, tl.int64) * stride + here, mask=reads, other=0.0).to(
                    tl.float32
                )
            mixed += weight * damped
        tl.store(x_next + here, mixed, mask=inside)
        if CAST:
            tl.store(x_cast + here, mixed.to(x_cast.dtype.element_ty), mask=inside)


def launch_step(
    x: Tensor,
    f_ring: list[Tensor],
    evicted: Tensor | None,
    g_ring: Tensor,
    gram: Tensor,
    measurements: Tensor,
    flags: Tensor,
    saved_best: Tensor,
    x_next: Tensor | None,
    x_cast: Tensor | None,
    slot: int,
    beta: float,
    ridge: float,
    tol: float,
    relative: bool,
    batch_stop: bool,
    safeguards: bool,
) -> None:
    """Arguments as `AndersonStep` of ldeq/ops/solve_step/step.py hands them on, checked and contiguous."""
    m, batch, size = g_ring.shape
    rows = triton.next_power_of_2(len(f_ring))
    n, block = len(f_ring), TILE[rows]
    tiles, width, stride, device = triton.cdiv(size, block), flags.shape[1], batch * size, x.device
    if batch * tiles == 0:
        return
    partials = torch.empty(batch, tiles, m + 2, dtype=torch.float64, device=device)
    alpha = torch.empty(batch, m, dtype=torch.float32, device=device)
    todo = torch.empty(batch, dtype=torch.int32, device=device)
    residuals = torch.empty(batch, dtype=torch.float32, device=device)
    moves, cast = x_next is not None, x_next is not None and x_cast is not None
    anderson_measure[(batch * tiles,)](
        f_ring[slot], x, g_ring, partials, flags, size, stride, width, tiles, m + 2, n, slot,
        MOVES=moves, BATCH_STOP=batch_stop, N=rows, BLOCK=block, num_warps=MEASURE_WARPS, enable_fp_fusion=True,
    )  # fmt: skip
    if batch_stop:
        measure_batch[(batch,)](
            partials, residuals, tiles, m + 2, n, RELATIVE=relative, SUM=SUM, num_warps=1, enable_fp_fusion=True
        )
    anderson_decide[(batch,)](
        partials, gram, alpha, measurements, flags, todo, residuals, batch, width, tiles, m + 2, m, n, slot, tol, ridge,
        MOVES=moves, RELATIVE=relative, BATCH_STOP=batch_stop, SAFEGUARDS=safeguards, N=rows, SUM=SUM,
        num_warps=1, enable_fp_fusion=True,
    )  # fmt: skip
    if moves or evicted is not None:
        nowhere = x if x_next is None else x_next
        anderson_mix[(batch * tiles,)](
            padded(f_ring), g_ring, x, nowhere, nowhere if x_cast is None else x_cast,
            saved_best if evicted is None else evicted, saved_best, alpha, flags, todo, size, stride, width, tiles, m, n, beta,
            MOVES=moves, EVICTS=evicted is not None, CAST=cast, DAMPED=beta != 1.0, N=rows, BLOCK=block,
            num_warps=WARPS, enable_fp_fusion=True,
        )  # fmt: skip
