"""The residuals and values of every evaluation, for those who ask for them."""

from __future__ import annotations

import torch
from torch import Tensor

from .compaction import Batch

_Entries = list[tuple[Tensor | None, Tensor]]


class History:
    """Keeps residuals `(b,)` and values `(b, D)` of each evaluation, with the samples that they belong to."""

    def __init__(self, trace: bool, trajectory: bool, batch: Batch) -> None:
        self._batch = batch
        self._residuals: _Entries | None = [] if trace else None
        self._values: _Entries | None = [] if trajectory else None

    @property
    def wanted(self) -> bool:
        return self._residuals is not None or self._values is not None

    def append(self, residual: Tensor, value: Tensor) -> None:
        if self._residuals is not None:
            self._residuals.append((self._batch.rows, residual))
        if self._values is not None:
            self._values.append((self._batch.rows, value))

    def stacked(self, iterations: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """Residuals `(steps, B)` and values `(steps, B, D)`; after a sample has stopped, its last entry again."""
        return self._stack(self._residuals, iterations), self._stack(self._values, iterations)

    def _stack(self, entries: _Entries | None, iterations: Tensor) -> Tensor | None:
        if entries is None:
            return None
        kept = torch.stack([self._batch.spread(rows, t) for rows, t in entries])
        step = torch.arange(len(entries), device=kept.device).unsqueeze(1)
        return kept[torch.minimum(step, iterations - 1), torch.arange(kept.shape[1], device=kept.device)]
