"""One step of Anderson mixing in Triton: the formulas of ldeq/solvers/anderson.py.

Three launches: `anderson_gram` streams f, x and the history once, writes g and adds up the new row of the Gram matrix by
tiles; `anderson_solve` adds the tiles in fixed order, decides who goes on and solves for alpha; `anderson_mix` mixes. Nothing
is read on the host and no float is added atomically: results repeat bit for bit. (The CUDA kernels solve in the last block of
the first launch. Triton has no way to show that the hand-over between blocks is right, and a launch of its own needs none.)
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from .progress import ProgressState, record, repeat_trace

# Numbers that change from step to step are not specialised: each value would be a compilation.

# Elements of a tile by history length: 16 history rows of 512 are as many registers as 8 of 1024.
TILE = {1: 1024, 2: 1024, 4: 1024, 8: 1024, 16: 512}
WARPS = 4

# The constants of ldeq/solvers/anderson.py, which says where they come from.
_PIVOT_FLOOR = tl.constexpr(1e-7)
_VANISHED = tl.constexpr(1e-20)
_MAX_WEIGHT_NORM = tl.constexpr(1e4)
_RESTART_FACTOR = tl.constexpr(10.0)


class AndersonState(NamedTuple):
    """What a solve carries besides its `ProgressState`. D is the size of a flattened state."""

    f: Tensor
    """`(m, B, D)`, in the dtype of the cell, exactly as it gave it: rounding f stalls the solve at 1e-3."""
    g: Tensor
    """`(m, B, D)`, float32 or bfloat16."""
    x: Tensor
    """`(B, D)` float32."""
    value: Tensor
    """`(B, D)`, dtype of the cell; the best point seen, complete after `launch_finish`."""
    partials: Tensor
    gram: Tensor
    alpha: Tensor
    valid: Tensor
    mixed: Tensor
    lowest: Tensor

    @classmethod
    def fresh(cls, z0: Tensor, m: int, g_dtype: torch.dtype = torch.float32) -> AndersonState:
        """For a start `(B, D)`."""
        (batch, size), device = z0.shape, z0.device
        tiles = triton.cdiv(size, TILE[triton.next_power_of_2(m)])

        def empty(*shape: int, dtype: torch.dtype) -> Tensor:
            return torch.empty(shape, dtype=dtype, device=device)

        return cls(
            empty(m, batch, size, dtype=z0.dtype), empty(m, batch, size, dtype=g_dtype), z0.float().clone(), z0.clone(),
            empty(batch, tiles, m + 2, dtype=torch.float32), empty(batch, m, m, dtype=torch.float64),
            empty(batch, m, dtype=torch.float32), torch.zeros(batch, m, dtype=torch.uint8, device=device),
            torch.zeros(batch, dtype=torch.uint8, device=device), torch.full((batch,), float("inf"), device=device),
        )  # fmt: skip


@triton.jit(do_not_specialize=["n", "slot", "full"])
def anderson_gram(
    fx, x, f, g, value, partials, active, best_slot, size, stride, tiles, n, slot, full, columns,
    RETURNS_X: tl.constexpr, N: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    tile = tl.program_id(0)
    sample = tl.program_id(1).to(tl.int64)
    if tl.load(active + sample) != 0:
        at = tile.to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
        inside = at < size
        here = sample * size + at
        new = tl.load(fx + here, mask=inside, other=0.0)
        new_f = new.to(tl.float32)
        residual = new_f - tl.load(x + here, mask=inside, other=0.0)
        # The Gram matrix is of what the ring holds, or it would not be one; the residual is not rounded.
        kept = residual.to(g.dtype.element_ty)
        kept_g = kept.to(tl.float32)
        i = tl.arange(0, N)
        rows = g + i.to(tl.int64)[:, None] * stride + here[None, :]
        others = tl.load(rows, mask=(i < n)[:, None] & (i != slot)[:, None] & inside[None, :], other=0.0).to(tl.float32)
        others = tl.where((i == slot)[:, None], kept_g[None, :], others)
        out = partials + (sample * tiles + tile) * columns
        tl.store(out + i, tl.sum(others * kept_g[None, :], axis=1), mask=i < n)
        tl.store(out + n, tl.sum(residual * residual))
        tl.store(out + n + 1, tl.sum(new_f * new_f))
        if not RETURNS_X:
            if (full != 0) & (tl.load(best_slot + sample) == slot):
                leaving = tl.load(f + slot.to(tl.int64) * stride + here, mask=inside, other=0.0)
                tl.store(value + here, leaving, mask=inside)
        tl.store(g + slot.to(tl.int64) * stride + here, kept, mask=inside)
        tl.store(f + slot.to(tl.int64) * stride + here, new, mask=inside)


@triton.jit
def _at(vector, index, i):
    """vector[index], for an index known at run time."""
    return tl.sum(tl.where(i == index, vector, 0.0))


@triton.jit(do_not_specialize=["n", "slot", "step", "full", "last"])
def anderson_solve(
    partials, gram, alpha, valid, mixed, lowest,
    active, status, iterations, residual, norm, first_norm, best_slot, trace,
    batch, tiles, columns, m, n, slot, step, full, last, tol, ridge,
    RELATIVE: tl.constexpr, RETURNS_X: tl.constexpr, SAFEGUARDS: tl.constexpr, N: tl.constexpr, SUM: tl.constexpr,
):  # fmt: skip
    sample = tl.program_id(0).to(tl.int64)
    if tl.load(active + sample) == 0:
        repeat_trace(trace, batch, step, sample)
    else:
        i = tl.arange(0, N)
        row = tl.zeros([N], tl.float64)
        squared_g = tl.zeros([SUM], tl.float64)
        squared_f = tl.zeros([SUM], tl.float64)
        for start in range(0, tiles, SUM):
            t = start + tl.arange(0, SUM)
            source = partials + (sample * tiles + t) * columns
            part = tl.load(source[:, None] + i[None, :], mask=(t < tiles)[:, None] & (i < n)[None, :], other=0.0)
            row += tl.sum(part.to(tl.float64), axis=0)
            squared_g += tl.load(source + n, mask=t < tiles, other=0.0).to(tl.float64)
            squared_f += tl.load(source + n + 1, mask=t < tiles, other=0.0).to(tl.float64)
        best = tl.load(best_slot + sample)
        saved = (full != 0) & (best == slot)
        place = slot
        if RETURNS_X:
            saved = best == best
            place = slot * 0
        size_g, goes_on = record(
            active, status, iterations, residual, norm, first_norm, best_slot, trace,
            batch, step, sample, tl.sum(squared_g), tl.sum(squared_f), place, saved, tol, RELATIVE,
        )  # fmt: skip
        if goes_on & (last == 0):
            counts = tl.load(valid + sample * m + i, mask=i < n, other=0) != 0
            if SAFEGUARDS:
                low = tl.load(lowest + sample)
                grown = (tl.load(mixed + sample) != 0) & (size_g > _RESTART_FACTOR * low)
                counts = counts & (grown == 0)
                tl.store(lowest + sample, tl.where(grown | (size_g < low), size_g, low))
            counts = (counts | (i == slot)) & (i < n)
            tl.store(valid + sample * m + i, counts.to(tl.uint8), mask=i < n)

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
                tl.store(mixed + sample, (sane & (pairs > 1)).to(tl.uint8))
            tl.store(alpha + sample * m + i, weights.to(tl.float32), mask=i < n)


@triton.jit(do_not_specialize=["n"])
def anderson_mix(
    f, g, x, x_cast, value, alpha, active, best_slot, size, stride, m, n, beta,
    CAST: tl.constexpr, DAMPED: tl.constexpr, RETURNS_X: tl.constexpr, N: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    sample = tl.program_id(1).to(tl.int64)
    if tl.load(active + sample) != 0:
        at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
        inside = at < size
        here = sample * size + at
        if RETURNS_X:
            # Slot 0 says that the iterate about to be overwritten is the best so far.
            if tl.load(best_slot + sample) == 0:
                tl.store(value + here, tl.load(x + here, mask=inside, other=0.0).to(value.dtype.element_ty), mask=inside)
        mixed = tl.zeros([BLOCK], tl.float32)
        rows = tl.arange(0, N)
        weights = tl.load(alpha + sample * m + rows, mask=rows < n, other=0.0)
        for i in tl.static_range(N):
            weight = _at(weights, i, rows)
            # Pairs that a restart dropped are not read. (Compared as a block: the interpreter cannot spread a scalar's truth.)
            reads = tl.where(inside, weight, 0.0) != 0.0
            damped = tl.load(f + i * stride + here, mask=reads, other=0.0).to(tl.float32)
            if DAMPED:
                damped -= (1.0 - beta) * tl.load(g + i * stride + here, mask=reads, other=0.0).to(tl.float32)
            mixed += weight * damped
        tl.store(x + here, mixed, mask=inside)
        if CAST:
            tl.store(x_cast + here, mixed.to(x_cast.dtype.element_ty), mask=inside)


def launch_step(
    fx: Tensor,
    x_cast: Tensor | None,
    state: AndersonState,
    progress: ProgressState,
    *,
    step: int,
    tol: float,
    relative: bool,
    ridge: float,
    beta: float,
    returns_x: bool,
    safeguards: bool,
    last: bool,
) -> None:
    """Takes in fx = f(x) `(B, D)` and moves `state.x` on (and ``x_cast``, its copy in the dtype of the cell)."""
    m, batch, size = state.f.shape
    slot, n, full = step % m, min(step + 1, m), int(step >= m)
    rows = triton.next_power_of_2(m)
    block = TILE[rows]
    tiles = triton.cdiv(size, block)
    stride = state.f.stride(0)
    anderson_gram[(tiles, batch)](
        fx, state.x, state.f, state.g, state.value, state.partials, progress.active, progress.best_slot,
        size, stride, tiles, n, slot, full, m + 2, RETURNS_X=returns_x, N=rows, BLOCK=block, num_warps=WARPS,
    )  # fmt: skip
    anderson_solve[(batch,)](
        state.partials, state.gram, state.alpha, state.valid, state.mixed, state.lowest, *progress,
        batch, tiles, m + 2, m, n, slot, step, full, int(last), tol, ridge,
        RELATIVE=relative, RETURNS_X=returns_x, SAFEGUARDS=safeguards, N=rows, SUM=64, num_warps=1,
    )  # fmt: skip
    if not last:
        anderson_mix[(tiles, batch)](
            state.f, state.g, state.x, state.x if x_cast is None else x_cast, state.value, state.alpha,
            progress.active, progress.best_slot, size, stride, m, n, beta,
            CAST=x_cast is not None, DAMPED=beta != 1.0, RETURNS_X=returns_x, N=rows, BLOCK=block, num_warps=WARPS,
        )  # fmt: skip
