"""What a solve carries from one step to the next, for every backend.

`ldeq.ops.layout` names the columns of its tensors.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ...brief import brief_repr
from ..layout import ACTIVE, BEST, FLAGS, IN_START, MEASUREMENTS

if TYPE_CHECKING:
    from typing_extensions import Self


@dataclass(frozen=True)
class StopRule:
    """When a sample stops.

    - `tol`: the residual at which it stops; a negative one is never met.
    - `relative`: the residual is ||g|| / ||f|| rather than ||g||.
    - `batch`: all samples stop together, when the mean of their residuals meets `tol`.
    """

    tol: float
    relative: bool
    batch: bool


@dataclass
class SolveState:
    """The state of a solve of B samples with D numbers each, on their device.

    - `start`: `(B, D)`, in the dtype of the values that the solve returns.
    - `measurements`: `(B, MEASUREMENTS)` float64. - `flags`: `(B, FLAGS + m)` int64; see `ldeq.ops.layout`.
    - `gram`: `(B, m, m)` float64, the products of the residuals g of the history. m is 0 for a solve without one.
    - `g_ring`: the residuals g by slot. Compiled steps write into one tensor `(m, B, D)`; the reference replaces the entries of
        a list, so that autograd can follow.
    - `f_ring`, `values`: by slot, the newest f and what the solve would return for it (f or x). Both are references to what f
        returned: nothing is copied into them.
    - `saved_best`: `(B, D)`, the best value of a sample if its slot was needed for a worse one.
    - `slots`: of both rings, m or, without a history, 1.
    - `steps`: evaluations taken in so far.
    - `active_flags`: `(B,)` int64, the column ACTIVE of `flags`, 1 for a sample that goes on.
    """

    start: Tensor
    measurements: Tensor
    flags: Tensor
    gram: Tensor
    g_ring: Tensor | list[Tensor]
    saved_best: Tensor
    slots: int
    f_ring: list[Tensor] = field(default_factory=list)
    values: list[Tensor] = field(default_factory=list)
    steps: int = 0
    active_flags: Tensor = field(init=False, repr=False)

    __repr__ = brief_repr

    def __post_init__(self) -> None:
        self.replace_flags(self.flags)

    @classmethod
    def new(cls, start: Tensor, m: int, g_ring: Tensor | None = None) -> Self:
        """The state before the first evaluation.

        Args:
            start: `(B, D)`, in the dtype of the values that the solve will return.
            m: pairs kept, 1 to 16; 0 for a solve without a history.
            g_ring: `(m, B, D)`, memory for compiled steps, not initialised; None for the reference.
        """
        batch = start.shape[0]
        measurements = start.new_full((batch, MEASUREMENTS), math.inf, dtype=wide(start))
        flags = start.new_zeros((batch, FLAGS + m), dtype=torch.int64)
        flags[:, ACTIVE] = 1
        flags[:, BEST] = IN_START
        gram = start.new_zeros((batch, m, m), dtype=wide(start))
        return cls(start, measurements, flags, gram, [] if g_ring is None else g_ring, torch.empty_like(start), max(m, 1))

    @property
    def active(self) -> Tensor:
        """`(B,)` bool: which samples go on."""
        return self.active_flags.bool()

    def replace_flags(self, flags: Tensor) -> None:
        """Puts another tensor in the place of `flags`, for a step that must not write into a tensor."""
        self.flags = flags
        # Once for all steps of a kernel, which writes into `flags`: to index a tensor takes a tenth of a small step.
        self.active_flags = flags[:, ACTIVE]

    def push(self, f: Tensor, value: Tensor) -> tuple[int, Tensor | None]:
        """Puts f and its value into the oldest slot; returns the slot and the value that it held, if any."""
        slot, evicted = self.steps % self.slots, None
        if self.steps < self.slots:
            self.f_ring.append(f)
            self.values.append(value)
        else:
            evicted = self.values[slot]
            self.f_ring[slot], self.values[slot] = f, value
        self.steps += 1
        return slot, evicted

    def narrow(self, keep: Tensor) -> Self:
        """The state of the samples `keep` `(b,)` int64 alone. All tensors, and those in lists, have the samples first; the one
        tensor of a `g_ring` has them second."""
        gathered: dict[int, Tensor] = {}

        def rows(t: Tensor) -> Tensor:
            # What a solve returns is most often f itself, which need not be gathered twice.
            if id(t) not in gathered:
                gathered[id(t)] = t[keep]
            return gathered[id(t)]

        kept: dict[str, Any] = {}
        for name in (f.name for f in fields(self) if f.init):
            value = getattr(self, name)
            if isinstance(value, Tensor):
                kept[name] = value[:, keep] if name == "g_ring" else rows(value)
            elif isinstance(value, list):
                kept[name] = [rows(t) for t in value]
        return replace(self, **kept)


def wide(like: Tensor) -> torch.dtype:
    """The dtype of measurements and of the small systems: float64 wherever the device has it."""
    return torch.float32 if like.device.type == "mps" else torch.float64
