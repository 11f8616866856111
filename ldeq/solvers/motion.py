"""Stopping in units that count: how far what is read from the state still moves.

A residual says how well the equation holds; who wants landmarks to a tenth of a pixel would rather say so.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..errors import ArgumentError

Observe = Callable[[Tensor], Tensor]
"""Reads a value (B, ...) as points: (B, P), or (B, P, d) for points of d coordinates. Each sample on its own."""


class Motion:
    """How far the points that `observe` reads have moved from one evaluation to the next; no host reads."""

    def __init__(self, observe: Observe, z0: Tensor) -> None:
        self.observe = observe
        self.before = self._read(z0)

    def update(self, value: Tensor) -> Tensor:
        """`(B,)`: the L2 distances (over d) between the points of `value` `(B, ...)` and the last ones, averaged over P."""
        now = self._read(value)
        apart = now - self.before
        self.before = now
        return (torch.linalg.vector_norm(apart, dim=2) if apart.ndim == 3 else apart.abs()).mean(1)

    def narrow(self, keep: Tensor) -> None:
        self.before = self.before.index_select(0, keep)

    @torch.no_grad()
    def _read(self, value: Tensor) -> Tensor:
        points = self.observe(value.detach())
        if points.ndim not in (2, 3) or points.shape[0] != value.shape[0] or not points.is_floating_point():
            raise ArgumentError(
                f"observe must map a value {tuple(value.shape)} to floating point (B, P) or (B, P, d) with the same B, "
                f"it returned {points.dtype} {tuple(points.shape)}"
            )
        return points.to(torch.promote_types(points.dtype, torch.float32), copy=True)
