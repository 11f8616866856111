"""Per-sample stopping, status and best-so-far, shared by the solvers' kernels: `Progress.record` of ldeq/solvers/solution.py.

As in csrc/cuda/progress.cuh, a best point is saved when its place in the ring is about to be taken, and at the end.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

_LARGEST = tl.constexpr(3.4028234663852886e38)
_SMALLEST = tl.constexpr(1.1754943508222875e-38)
_DIVERGENCE_FACTOR = tl.constexpr(1e8)


class ProgressState(NamedTuple):
    """One entry a sample; what `Solution` is made of."""

    active: Tensor
    status: Tensor
    iterations: Tensor
    residual: Tensor
    norm: Tensor
    first_norm: Tensor
    best_slot: Tensor
    trace: Tensor

    @classmethod
    def fresh(cls, batch: int, steps: int, device: torch.device) -> ProgressState:
        def full(value: float, dtype: torch.dtype, *shape: int) -> Tensor:
            return torch.full(shape or (batch,), value, dtype=dtype, device=device)

        inf = float("inf")
        return cls(
            full(1, torch.uint8), full(0, torch.int64), full(0, torch.int64),
            full(inf, torch.float32), full(inf, torch.float32), full(0, torch.float32),
            full(-1, torch.int32), full(inf, torch.float32, steps, batch),
        )  # fmt: skip


@triton.jit
def repeat_trace(trace, batch, step, sample):
    """A stopped sample repeats its last residual."""
    tl.store(trace + step.to(tl.int64) * batch + sample, tl.load(trace + (step - 1).to(tl.int64) * batch + sample))


@triton.jit
def record(
    active, status, iterations, residual, norm, first_norm, best_slot, trace,
    batch, step, sample, squared_g, squared_f, slot, saved, tol, RELATIVE: tl.constexpr,
):  # fmt: skip
    """Takes in one evaluation of an active sample. Returns ||g|| and whether the sample goes on."""
    size_g = tl.sqrt(squared_g).to(tl.float32)
    now = size_g
    if RELATIVE:
        # An f of exactly zero is a finite answer: its quotient may neither be 0 / 0 nor overflow to infinity.
        size_f = tl.sqrt(squared_f).to(tl.float32)
        now = size_g / tl.where(size_f < _SMALLEST, _SMALLEST, size_f)
        now = tl.where(now > _LARGEST, _LARGEST, now)
    finite = (now <= _LARGEST) & (size_g <= _LARGEST)
    first = tl.where(step == 0, size_g, tl.load(first_norm + sample))
    tl.store(first_norm + sample, first)
    best = tl.load(residual + sample)
    better = finite & (now < best)
    tl.store(best_slot + sample, tl.where(better, slot, tl.where(saved, -1, tl.load(best_slot + sample))))
    tl.store(norm + sample, tl.where(better, size_g, tl.load(norm + sample)))
    tl.store(residual + sample, tl.where(better, now, best))
    tl.store(iterations + sample, tl.load(iterations + sample) + 1)
    converged = finite & (now <= tol)
    diverged = finite & (size_g > _DIVERGENCE_FACTOR * first)
    code = tl.where(converged, 1, tl.load(status + sample))
    code = tl.where(diverged, 2, code)
    code = tl.where(finite, code, 3)
    tl.store(status + sample, code)
    goes_on = finite & (converged == 0) & (diverged == 0)
    tl.store(active + sample, goes_on.to(tl.uint8))
    tl.store(trace + step.to(tl.int64) * batch + sample, now)
    return size_g, goes_on


@triton.jit
def finish(ring, best_slot, value, size, stride, BLOCK: tl.constexpr):
    """value takes the best point of each sample that was not saved before, from a ring `(slots, B, D)`."""
    sample = tl.program_id(1).to(tl.int64)
    best = tl.load(best_slot + sample)
    if best >= 0:
        at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
        point = tl.load(ring + best.to(tl.int64) * stride + sample * size + at, mask=at < size, other=0.0)
        tl.store(value + sample * size + at, point.to(tl.float32).to(value.dtype.element_ty), mask=at < size)


def launch_finish(ring: Tensor, state: ProgressState, value: Tensor) -> None:
    """Writes into ``value`` `(B, D)` from ``ring`` `(slots, B, D)`."""
    _, batch, size = ring.shape
    finish[(triton.cdiv(size, 2048), batch)](ring, state.best_slot, value, size, ring.stride(0), BLOCK=2048, num_warps=8)
