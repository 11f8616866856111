"""What the steps of all solvers share: tile sums, stopping and status of each sample, the best value so far.

`numbers` `(B, 5)` float64 and `flags` `(B, 5 + m)` int64 are those of `SolveState` in ldeq/ops/anderson.py; the rules are those
of `Progress.record` in ldeq/solvers/solution.py.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

_LARGEST = tl.constexpr(3.4028234663852886e38)
_SMALLEST = tl.constexpr(1.1754943508222875e-38)
_DIVERGENCE_FACTOR = tl.constexpr(1e8)

# What a step notes for its last pass: the best value leaves the ring now, and the sample has stopped in this step.
SAVES = tl.constexpr(1)
STOPS = tl.constexpr(2)

# Tiles whose sums are added at a time.
SUM = 64


@triton.jit
def sum_tiles(partials, tiles, columns, column, SUM: tl.constexpr):
    """One column of `partials` `(tiles, columns)` in float64 and in fixed order."""
    total = tl.zeros([SUM], tl.float64)
    for start in range(0, tiles, SUM):
        t = start + tl.arange(0, SUM)
        total += tl.load(partials + t * columns + column, mask=t < tiles, other=0.0).to(tl.float64)
    return tl.sum(total)


@triton.jit
def measure(squared_g, squared_f, RELATIVE: tl.constexpr):
    """(||g||, residual), float32."""
    norm = tl.sqrt(squared_g).to(tl.float32)
    residual = norm
    if RELATIVE:
        # An f of exactly zero is a finite answer: its quotient may neither be 0 / 0 nor overflow to infinity.
        size_f = tl.sqrt(squared_f).to(tl.float32)
        residual = norm / tl.where(size_f < _SMALLEST, _SMALLEST, size_f)
        residual = tl.where(residual > _LARGEST, _LARGEST, residual)
    return norm, residual


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
def record(
    numbers, flags, notes, residuals, batch, width, sample, norm, residual, slot, tol, BATCH: tl.constexpr, SUM: tl.constexpr
):
    """Takes in one evaluation of a sample. Returns whether it goes on."""
    number = numbers + sample * 5
    flag = flags + sample * width
    active = tl.load(flag + 2) != 0
    iterations = tl.load(flag + 1)
    finite = (residual <= _LARGEST) & (norm <= _LARGEST)
    first = tl.where(iterations == 0, norm.to(tl.float64), tl.load(number + 2))
    best = tl.load(number)
    place = tl.load(flag + 3)
    better = active & finite & (residual < best)
    # The only copy of the best is made when its slot is taken by something worse, also where the sample has stopped.
    saves = (better == 0) & (place == slot)
    converged = finite & (residual <= tol)
    if BATCH:
        converged = mean_residual(residuals, batch, SUM) <= tol
    diverged = finite & (norm > _DIVERGENCE_FACTOR * first)
    status = tl.where(converged, 1, tl.load(flag))
    status = tl.where(diverged, 2, status)
    status = tl.where(finite, status, 3)
    stops = converged | diverged | (finite == 0)
    goes_on = active & (stops == 0)
    tl.store(number, tl.where(better, residual, best))
    tl.store(number + 1, tl.where(better, norm, tl.load(number + 1)))
    tl.store(number + 2, first)
    tl.store(number + 4, tl.where(active, residual, tl.load(number + 4)))
    tl.store(flag, tl.where(active, status, tl.load(flag)))
    tl.store(flag + 1, iterations + active.to(tl.int64))
    tl.store(flag + 2, goes_on.to(tl.int64))
    tl.store(flag + 3, tl.where(better, slot, tl.where(saves, -1, place)))
    tl.store(notes + sample, tl.where(saves, SAVES, 0) + tl.where(active & stops, STOPS, 0))
    return goes_on


@triton.jit
def best_so_far(ring, kept, start, flags, out, size, width, tiles, N: tl.constexpr, BLOCK: tl.constexpr):
    """The value of each sample's lowest residual; `ring` is a tuple of N tensors `(B, D)`."""
    index = tl.program_id(0).to(tl.int64)
    sample = index // tiles
    at = index % tiles * BLOCK + tl.arange(0, BLOCK)
    here = sample * size + at
    place = tl.load(flags + sample * width + 3)
    # Each sample is read from one place: elsewhere nothing lies inside.
    value = tl.load(start + here, mask=at < tl.where(place == -2, size, 0), other=0.0)
    if place == -1:
        value = tl.load(kept + here, mask=at < size, other=0.0)
    for i in tl.static_range(N):
        if place == i:
            value = tl.load(ring[i] + here, mask=at < size, other=0.0)
    tl.store(out + here, value, mask=at < size)


BEST_TILE = 1024


def launch_best_so_far(ring: list[Tensor], kept: Tensor, start: Tensor, flags: Tensor) -> Tensor:
    batch, size = start.shape
    out = torch.empty_like(start)
    tiles = triton.cdiv(size, BEST_TILE)
    if batch * tiles:
        entries = padded(ring or [start])
        best_so_far[(batch * tiles,)](
            entries, kept, start, flags, out, size, flags.shape[1], tiles, N=len(entries), BLOCK=BEST_TILE, num_warps=4
        )
    return out


def padded(ring: list[Tensor]) -> tuple[Tensor, ...]:
    """To a power of two, so that a growing history does not mean a compilation a step; what is added is not read."""
    return (*ring, *[ring[0]] * (triton.next_power_of_2(len(ring)) - len(ring)))
