"""Iterating on the samples that have not stopped, and putting the batch together again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from ..errors import ArgumentError


@runtime_checkable
class Selectable(Protocol):
    """A map that knows what of itself belongs to which sample. A plain function of z alone cannot tell."""

    def __call__(self, z: Tensor) -> Tensor: ...

    def select(self, rows: Tensor) -> Selectable:
        """The map of the samples `rows` `(n,)` int64 alone: (n, ...) to (n, ...)."""
        ...


class Injected:
    """The map z -> cell(z, x), which can be narrowed to some samples.

    ```python
    sol = anderson(Injected(cell, x), z0, compact=0.5)
    ```
    """

    def __init__(self, cell: Callable[[Tensor, Any], Tensor], x: Any) -> None:
        """
        Args:
            cell: (z, x) to a new z.
            x: a tensor or any structure of tensors. To be narrowed, every tensor in it must have the batch as its first
                dimension or no dimension at all; what is not laid out so (weights prepared for the solve, say) goes into an
                object with a method ``select(rows)`` of its own.
        """
        self.cell = cell
        self.x = x

    def __call__(self, z: Tensor) -> Tensor:
        self._batch = z.shape[0]
        return self.cell(z, self.x)

    def select(self, rows: Tensor) -> Injected:
        def narrow(leaf: Any) -> Any:
            if not isinstance(leaf, Tensor):
                return leaf.select(rows) if hasattr(leaf, "select") else leaf
            if leaf.ndim == 0:
                return leaf
            if leaf.shape[0] != self._batch:
                raise ArgumentError(
                    f"compact needs every tensor of x to begin with the batch of {self._batch}, got one of shape "
                    f"{tuple(leaf.shape)}; give x a method select(rows), or set compact=0"
                )
            return leaf.index_select(0, rows)

        return Injected(self.cell, pytree.tree_map(narrow, self.x, is_leaf=lambda node: hasattr(node, "select")))


class Batch:
    """Which samples of the whole batch the solve still holds, and the results of the others."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.rows: Tensor | None = None
        """`(b,)`, the samples held, None for all."""
        self._parts: list[tuple[Tensor, dict[str, Tensor]]] = []

    def split(self, active: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """The positions `(count,)` to keep and `(b - count,)` of samples that have stopped.

        Args:
            active: `(b,)`, nonzero for those that go on.
            count: how many to keep, at least as many as are active: a late poll counts some that have stopped since. The host
                knows this number, so that no size need be read from the device.
        """
        order = torch.argsort(active.to(torch.int8), descending=True, stable=True)
        return order[:count].sort().values, order[count:].sort().values

    def set_aside(self, keep: Tensor, stopped: Tensor, results: dict[str, Tensor]) -> None:
        """Keeps what is known, each `(b, ...)`, of the samples `stopped`, and holds the samples `keep` from now on."""
        rows = torch.arange(self.size, device=keep.device) if self.rows is None else self.rows
        self._parts.append((rows[stopped], {name: t.index_select(0, stopped) for name, t in results.items()}))
        self.rows = rows[keep]

    def join(self, results: dict[str, Tensor]) -> dict[str, Tensor]:
        """The results `(B, ...)` of all samples, given those `(b, ...)` of the ones still held."""
        if self.rows is None:
            return results
        parts = [*self._parts, (self.rows, results)]
        order = torch.cat([rows for rows, _ in parts]).argsort()
        return {name: torch.cat([part[name] for _, part in parts]).index_select(0, order) for name in results}

    def spread(self, rows: Tensor | None, t: Tensor) -> Tensor:
        """`t` `(b, ...)` of samples `rows` at their places in `(B, ...)`; zeros elsewhere."""
        return t if rows is None else t.new_zeros((self.size, *t.shape[1:])).index_copy(0, rows, t)
