"""What both steps share: sums of tiles, the decision about each sample, and its best value so far.

`measurements` and `flags` are those of `SolveState` in ldeq/ops/solve_step/state.py; the rules are those of `decide` in
ldeq/ops/solve_step/reference.py.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .layout import (
    ACTIVE,
    BEST,
    CONVERGED,
    DIVERGED,
    FIRST_NORM,
    IN_SAVED,
    IN_START,
    ITERATIONS,
    LAST,
    LIMIT,
    MEASUREMENTS,
    NONFINITE,
    NORM,
    RESIDUAL,
    STATUS,
)

_LARGEST = tl.constexpr(3.4028234663852886e38)
_SMALLEST = tl.constexpr(2.2250738585072014e-308)
_DIVERGENCE_FACTOR = tl.constexpr(1e8)
_GROWTH_PER_STEP = tl.constexpr(4.0)
_LARGE = tl.constexpr(2.0**120)
_SMALL = tl.constexpr(2.0**-120)

# What `decide` leaves to do: save the best value, which is evicted now, and undo the move of a sample that has just stopped.
SAVE_BEST = tl.constexpr(1)
UNDO = tl.constexpr(2)

# Tiles whose sums are added at a time.
SUM = 64


@triton.jit
def scale_of(values):
    """A power of two that brings the largest of `values`, float32, near 1, so that their squares neither overflow nor vanish;
    and its inverse in float64. By their bits: nothing is rounded, and a division in float64 would take stack."""
    largest = tl.max(tl.abs(values))
    inside = tl.where(largest >= _LARGE, _LARGE, tl.where(largest > _SMALL, largest, _SMALL))
    exponent = inside.to(tl.int32, bitcast=True) & 0x7F800000
    scale = (0x7F000000 - exponent).to(tl.float32, bitcast=True)
    return scale, exponent.to(tl.float32, bitcast=True).to(tl.float64)


@triton.jit
def sum_of_squares(values):
    """In float64; the sum itself in float32, of the values near 1."""
    scale, unit = scale_of(values)
    scaled = values * scale
    return tl.sum(scaled * scaled).to(tl.float64) * (unit * unit)


@triton.jit
def sum_tiles(partials, tiles, columns, column, SUM: tl.constexpr):
    """One column of `partials` `(tiles, columns)` in float64 and in fixed order."""
    total = tl.zeros([SUM], tl.float64)
    for start in range(0, tiles, SUM):
        t = start + tl.arange(0, SUM)
        total += tl.load(partials + t * columns + column, mask=t < tiles, other=0.0)
    return tl.sum(total)


@triton.jit
def measure(squared_g, squared_f, RELATIVE: tl.constexpr):
    """||g|| in float64, and the residual in float32."""
    norm = tl.sqrt(squared_g)
    residual = norm
    if RELATIVE:
        # An f of exactly zero is a finite answer: its quotient may neither be 0 / 0 nor overflow to infinity.
        size_f = tl.sqrt(squared_f)
        residual = norm / tl.where(size_f < _SMALLEST, _SMALLEST, size_f)
    return norm, tl.where(residual > _LARGEST, _LARGEST, residual).to(tl.float32)


@triton.jit(do_not_specialize=["first"])
def measure_batch(partials, residuals, tiles, columns, first, RELATIVE: tl.constexpr, SUM: tl.constexpr):
    """Residual of every sample, for a stop that looks at their mean; ||g||^2 and ||f||^2 are the columns from `first`."""
    sample = tl.program_id(0).to(tl.int64)
    rows = partials + sample * tiles * columns
    squared_g = sum_tiles(rows, tiles, columns, first, SUM)
    squared_f = sum_tiles(rows, tiles, columns, first + 1, SUM)
    _, residual = measure(squared_g, squared_f, RELATIVE)
    tl.store(residuals + sample, residual)


@triton.jit
def mean_residual(residuals, batch, SUM: tl.constexpr):
    total = tl.zeros([SUM], tl.float64)
    for start in range(0, batch, SUM):
        b = start + tl.arange(0, SUM)
        total += tl.load(residuals + b, mask=b < batch, other=0.0).to(tl.float64)
    return (tl.sum(total) / batch).to(tl.float32)


@triton.jit
def decide(
    measurements,
    flags,
    todo,
    residuals,
    batch,
    width,
    sample,
    norm,
    residual,
    slot,
    tol,
    BATCH_STOP: tl.constexpr,
    SUM: tl.constexpr,
):
    """Takes in one evaluation of a sample. Returns whether it goes on."""
    measurement = measurements + sample * MEASUREMENTS
    flag = flags + sample * width
    active = tl.load(flag + ACTIVE) != 0
    iterations = tl.load(flag + ITERATIONS)
    finite = (residual <= _LARGEST) & (norm < float("inf"))
    first = tl.where(iterations == 0, norm, tl.load(measurement + FIRST_NORM))
    limit = tl.load(measurement + LIMIT)
    best = tl.load(measurement + RESIDUAL)
    place = tl.load(flag + BEST)
    better = active & finite & (residual < best)
    # The best value is copied if its slot is taken by something worse, also if the sample has stopped.
    saves = (better == 0) & (place == slot)
    converged = finite & (residual <= tol)
    if BATCH_STOP:
        converged = mean_residual(residuals, batch, SUM) <= tol
    diverged = finite & (norm > limit)
    raised = tl.maximum(_DIVERGENCE_FACTOR * first, tl.minimum(_GROWTH_PER_STEP * limit, _DIVERGENCE_FACTOR * norm))
    status = tl.where(converged, CONVERGED, tl.load(flag + STATUS))
    status = tl.where(diverged, DIVERGED, status)
    status = tl.where(finite, status, NONFINITE)
    stops = converged | diverged | (finite == 0)
    goes_on = active & (stops == 0)
    last = tl.load(measurement + LAST)
    had_norm = tl.load(measurement + NORM)
    had = tl.load(flag + STATUS)
    # Every thread has read what one of them writes now: Triton orders accesses of shared memory alone.
    tl.debug_barrier()
    tl.store(measurement + RESIDUAL, tl.where(better, residual, best))
    tl.store(measurement + NORM, tl.where(better, norm, had_norm))
    tl.store(measurement + FIRST_NORM, first)
    tl.store(measurement + LAST, tl.where(active, residual, last))
    tl.store(measurement + LIMIT, tl.where(active & finite, raised, limit))
    tl.store(flag + STATUS, tl.where(active, status, had))
    tl.store(flag + ITERATIONS, iterations + active.to(tl.int64))
    tl.store(flag + ACTIVE, goes_on.to(tl.int64))
    tl.store(flag + BEST, tl.where(better, slot, tl.where(saves, IN_SAVED, place)))
    tl.store(todo + sample, tl.where(saves, SAVE_BEST, 0) + tl.where(active & stops, UNDO, 0))
    return goes_on


@triton.jit
def best_so_far(ring, saved_best, start, flags, out, size, width, tiles, N: tl.constexpr, BLOCK: tl.constexpr):
    """The value of each sample's lowest residual; `ring` is a tuple of N tensors `(B, D)`."""
    index = tl.program_id(0).to(tl.int64)
    sample = index // tiles
    at = index % tiles * BLOCK + tl.arange(0, BLOCK)
    here = sample * size + at
    place = tl.load(flags + sample * width + BEST)
    # Each sample is read from one place: elsewhere nothing lies inside.
    value = tl.load(start + here, mask=at < tl.where(place == IN_START, size, 0), other=0.0)
    if place == IN_SAVED:
        value = tl.load(saved_best + here, mask=at < size, other=0.0)
    for i in tl.static_range(N):
        if place == i:
            value = tl.load(ring[i] + here, mask=at < size, other=0.0)
    tl.store(out + here, value, mask=at < size)


BEST_TILE = 1024


def launch_best_so_far(ring: list[Tensor], saved_best: Tensor, start: Tensor, flags: Tensor) -> Tensor:
    batch, size = start.shape
    out = torch.empty_like(start)
    tiles = triton.cdiv(size, BEST_TILE)
    if batch * tiles:
        entries = padded(ring or [start])
        best_so_far[(batch * tiles,)](
            entries,
            saved_best,
            start,
            flags,
            out,
            size,
            flags.shape[1],
            tiles,
            N=len(entries),
            BLOCK=BEST_TILE,
            num_warps=4,
            enable_fp_fusion=True,
        )
    return out


def padded(ring: list[Tensor]) -> tuple[Tensor, ...]:
    """To a power of two, so that a growing history does not mean a compilation a step; what is added is not read."""
    return (*ring, *[ring[0]] * (triton.next_power_of_2(len(ring)) - len(ring)))
