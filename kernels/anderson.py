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

from .layout import ACTIVE, FLAGS, LOWEST, MEASUREMENTS, MIXED
from .sample_state import SAVE_BEST, SUM, decide, measure, measure_batch, padded, sum_tiles

# Arguments that change from step to step are not specialised: each value would be a compilation.

# Elements of a tile by history length: 16 history rows of 512 are as many registers as 8 of 1024.
TILE = {1: 1024, 2: 1024, 4: 1024, 8: 1024, 16: 512}
WARPS = 4
# Four spill a few registers where rows are not aligned.
MEASURE_WARPS = 8

# The constants of ldeq/ops/solve_step, which says where they come from.
_PIVOT_FLOOR = tl.constexpr(1e-7)
_VANISHED = tl.constexpr(1e-20)
_MAX_WEIGHT_NORM = tl.constexpr(1e4)
_RESTART_FACTOR = tl.constexpr(10.0)


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
        tl.store(out + n, tl.sum(residual * residual))
        tl.store(out + n + 1, tl.sum(new_f * new_f))
        if MOVES:
            # The Gram matrix is of what the ring holds, or it would not be one; the residual is not rounded.
            stored = residual.to(g.dtype.element_ty)
            kept_g = stored.to(tl.float32)
            i = tl.arange(0, N)
            # Pairs that a restart dropped are not read.
            reads = (i < n) & (i != slot) & (tl.load(flag + FLAGS + i, mask=i < n, other=0) != 0)
            rows = g + i.to(tl.int64)[:, None] * stride + here[None, :]
            others = tl.load(rows, mask=reads[:, None] & inside[None, :], other=0.0).to(tl.float32)
            others = tl.where((i == slot)[:, None], kept_g[None, :], others)
            tl.store(out + i, tl.sum(others * kept_g[None, :], axis=1), mask=i < n)
            tl.store(g + slot.to(tl.int64) * stride + here, stored, mask=inside)


@triton.jit
def _at(vector, index, i):
    """vector[index], for an index known at run time."""
    return tl.sum(tl.where(i == index, vector, 0.0))


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
            i = tl.arange(0, N)
            row = tl.zeros([N], tl.float64)
            for start in range(0, tiles, SUM):
                t = start + tl.arange(0, SUM)
                part = tl.load(
                    rows + (t * columns)[:, None] + i[None, :], mask=(t < tiles)[:, None] & (i < n)[None, :], other=0.0
                )
                row += tl.sum(part.to(tl.float64), axis=0)
            counts = tl.load(flag + FLAGS + i, mask=i < n, other=0) != 0
            if SAFEGUARDS:
                low = tl.load(measurement + LOWEST)
                grown = (tl.load(flag + MIXED) != 0) & (norm > _RESTART_FACTOR * low)
                counts = counts & (grown == 0)
                tl.store(measurement + LOWEST, tl.where(grown | (norm < low), norm, low))
            counts = (counts | (i == slot)) & (i < n)
            tl.store(flag + FLAGS + i, counts.to(tl.int64), mask=i < n)
            matrix = gram + sample * m * m
            both = (i < n)[:, None] & (i < n)[None, :]
            a = tl.load(matrix + i[:, None] * m + i[None, :], mask=both, other=0.0)
            a = tl.where((i == slot)[:, None], row[None, :], tl.where((i == slot)[None, :], row[:, None], a))
            tl.store(matrix + i[:, None] * m + i[None, :], a, mask=both)
            eye = i[:, None] == i[None, :]
            a = tl.where(counts[:, None] & counts[None, :], a, 0.0)
            own = tl.sum(tl.where(eye, a, 0.0), axis=1)
            pairs = tl.sum(counts.to(tl.int32))
            mean = tl.sum(own) / pairs
            diagonal = own + tl.where(ridge >= 0, ridge * mean, -ridge)
            diagonal = tl.where(diagonal < _VANISHED * mean, _VANISHED * mean, diagonal)
            diagonal = tl.where(counts & (diagonal > 0), diagonal, 1.0)
            scale = 1.0 / tl.sqrt(diagonal)
            a = tl.where(eye, 1.0, a * scale[:, None] * scale[None, :])
            b = tl.where(counts, scale, 0.0)
            # Cholesky, column by column; a becomes the factor in its lower triangle.
            for k in range(n):
                column = tl.sum(tl.where((i == k)[None, :], a, 0.0), axis=1)
                pivot = _at(column, k, i)
                root = tl.sqrt(tl.where(pivot < _PIVOT_FLOOR, _PIVOT_FLOOR, pivot))
                below = tl.where(i > k, column / root, 0.0)
                y = _at(b, k, i) / root
                b = tl.where(i == k, y, b - below * y)
                a = tl.where((i == k)[None, :], tl.where(i == k, root, below)[:, None], a - below[:, None] * below[None, :])
            for back in range(n):
                k = n - 1 - back
                line = tl.sum(tl.where((i == k)[:, None], a, 0.0), axis=0)
                w = _at(b, k, i) / _at(line, k, i)
                b = tl.where(i == k, w, tl.where(i < k, b - line * w, b))
            weights = tl.where(counts, scale * b, 0.0)
            weights = weights / tl.sum(weights)
            if SAFEGUARDS:
                # Also false for a NaN.
                sane = tl.sqrt(tl.sum(weights * weights)) <= _MAX_WEIGHT_NORM
                weights = tl.where(sane, weights, tl.where(i == slot, 1.0, 0.0))
                tl.store(flag + MIXED, (sane & (pairs > 1)).to(tl.int64))
            tl.store(alpha + sample * m + i, weights.to(tl.float32), mask=i < n)


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
            # Pairs of no weight are not read. (Compared as a block: the interpreter cannot spread a scalar's truth.)
            reads = tl.where(inside, weight, 0.0) != 0.0
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
    partials = torch.empty(batch, tiles, m + 2, dtype=torch.float32, device=device)
    alpha = torch.empty(batch, m, dtype=torch.float32, device=device)
    todo = torch.empty(batch, dtype=torch.int32, device=device)
    residuals = torch.empty(batch, dtype=torch.float32, device=device)
    moves, cast = x_next is not None, x_next is not None and x_cast is not None
    anderson_measure[(batch * tiles,)](
        f_ring[slot], x, g_ring, partials, flags, size, stride, width, tiles, m + 2, n, slot,
        MOVES=moves, BATCH_STOP=batch_stop, N=rows, BLOCK=block, num_warps=MEASURE_WARPS,
    )  # fmt: skip
    if batch_stop:
        measure_batch[(batch,)](partials, residuals, tiles, m + 2, n, RELATIVE=relative, SUM=SUM, num_warps=1)
    anderson_decide[(batch,)](
        partials, gram, alpha, measurements, flags, todo, residuals, batch, width, tiles, m + 2, m, n, slot, tol, ridge,
        MOVES=moves, RELATIVE=relative, BATCH_STOP=batch_stop, SAFEGUARDS=safeguards, N=rows, SUM=SUM, num_warps=1,
    )  # fmt: skip
    if moves or evicted is not None:
        nowhere = x if x_next is None else x_next
        anderson_mix[(batch * tiles,)](
            padded(f_ring), g_ring, x, nowhere, nowhere if x_cast is None else x_cast,
            saved_best if evicted is None else evicted, saved_best, alpha, flags, todo, size, stride, width, tiles, m, n, beta,
            MOVES=moves, EVICTS=evicted is not None, CAST=cast, DAMPED=beta != 1.0, N=rows, BLOCK=block, num_warps=WARPS,
        )  # fmt: skip
