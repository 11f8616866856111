"""Dropout with one mask for a whole solve.

Ordinary dropout draws a new mask at every evaluation of the cell. The cell is then another function each time, which has no
fixed point: the residual never falls below the noise. With one mask for the solve, the cell stays one function (Bai, Kolter
and Koltun 2019, section 3.3, after Gal and Ghahramani 2016).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.modules.dropout import _DropoutNd

from ..errors import ArgumentError


class VariationalDropout(_DropoutNd):
    """Zeroes elements with probability p and scales the others by 1 / (1 - p), with the same mask until the next solve.

    ```python
    cell = nn.Sequential(nn.Linear(8, 8), VariationalDropout(0.1))
    ```

    `DEQ` draws a new mask for each solve. Outside of a `DEQ`, call `new_mask` between two uses.
    """

    def __init__(self, p: float = 0.5, *, shared: int | tuple[int, ...] = ()) -> None:
        """
        Args:
            p: probability of zeroing, in [0, 1).
            shared: dimensions along which the mask is constant: -1 or (-2, -1) drops whole channels of `(B, C, L)` or
                `(B, C, H, W)`, as `torch.nn.Dropout1d` and `torch.nn.Dropout2d` do.

        Raises:
            ValueError: for p out of range.
        """
        if not 0 <= p < 1:
            raise ArgumentError(f"p must lie in [0, 1), got {p}")
        super().__init__(p)
        self.shared = (shared,) if isinstance(shared, int) else tuple(shared)
        self.mask: Tensor | None = None
        """The mask of this solve, None before its first evaluation."""

    def new_mask(self) -> None:
        """Draws a new mask at the next evaluation."""
        self.mask = None

    def forward(self, v: Tensor) -> Tensor:
        """
        Args:
            v: `(B, ...)`, of the same shape throughout a solve.

        Raises:
            ValueError: for another shape than the mask was drawn for.
        """
        if not self.training or self.p == 0:
            return v
        shape = list(v.shape)
        for d in self.shared:
            shape[d] = 1
        if self.mask is None:
            keep = torch.full(shape, 1 - self.p, dtype=torch.float32, device=v.device)
            self.mask = keep.bernoulli() / (1 - self.p)
        if list(self.mask.shape) != shape:
            raise ArgumentError(
                f"VariationalDropout has a mask for {tuple(self.mask.shape)} in this solve and got {tuple(v.shape)}; use one "
                "module for each place in the cell, set compact=0, and call new_mask() outside of a DEQ"
            )
        return v * self.mask.to(v.dtype)

    def __getstate__(self) -> dict[str, object]:
        return {**super().__getstate__(), "mask": None}  # a copy of a model draws masks of its own
