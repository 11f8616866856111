"""What every solver returns."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from torch import Tensor
from torch.utils import _pytree as pytree

from ..brief import brief, brief_repr
from ..ops.solve_step import Status

__all__ = ["Solution", "Status"]


@dataclass
class Solution:
    """Result of a fixed-point solve. Every entry is per sample: no sample depends on who shares its batch.

    - `value`: `(B, ...)`, dtype of the start; the best point seen, as f(x) or x (see `Solver.returns`). With
        ``stop="motion"``, a converged sample's is the one at which it came to rest.
    - `residual`: `(B,)` float; at that point, in the measure of the stop: ||f(x) - x|| / ||f(x)|| (also with
        ``stop="motion"``) or ||f(x) - x||. Infinity where no evaluation was finite.
    - `iterations`: `(B,)` int64; evaluations of f until this sample stopped.
    - `status`: `(B,)` int64, members of `Status`.
    - `trace`: `(steps, B)` residuals of every evaluation if asked for, else None. A stopped sample repeats its last one.
    - `trajectory`: `(steps, B, ...)`, f(x) or x of every evaluation (see `Solver.returns`) if asked for, else None; repeated
        likewise.
    - `motion`: `(B,)` float with ``stop="motion"``, how far the points moved in a sample's last evaluation; else None.
    - `states`: states on the way, `(B, ...)` each and oldest first, with gradients of their own, from an implicit layer with
        ``n_states`` above 1; else None.
    - `adjoint`: the `Solution` of the backward solve, once backward has run through an implicit layer, with an empty
        `value`; None before.
    """

    value: Tensor
    residual: Tensor
    iterations: Tensor
    status: Tensor
    trace: Tensor | None = None
    trajectory: Tensor | None = None
    motion: Tensor | None = None
    states: tuple[Tensor, ...] | None = None
    adjoint: Solution | None = field(default=None, repr=False)

    def __repr__(self) -> str:
        told = {"residual": _span(self.residual), "iterations": _span(self.iterations), "status": _counts(self.status)}
        return brief_repr(self, told)

    @property
    def converged(self) -> Tensor:
        """`(B,)` bool."""
        return self.status == Status.CONVERGED


def _span(values: Tensor) -> str:
    """The smallest and the largest; the shape of a tensor whose numbers cannot be read, as those of `torch.func.vmap`."""
    try:
        low, high = values.min().item(), values.max().item()
    except (AttributeError, RuntimeError):
        return brief(values)
    return f"{low:.5g}" if low == high else f"{low:.5g} to {high:.5g}"


def _counts(status: Tensor) -> str:
    try:
        found = Counter(status.flatten().tolist())
    except (AttributeError, RuntimeError):
        return brief(status)
    return ", ".join(f"{count} {Status(value).name}" for value, count in sorted(found.items())) or brief(status)


# Exported programs and transforms take it apart and put it together.
pytree.register_dataclass(Solution, serialized_type_name="ldeq.Solution")
