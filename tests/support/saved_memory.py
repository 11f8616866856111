"""How much autograd keeps for backward."""

from __future__ import annotations

import weakref

from torch import Tensor


class Meter:
    """Bytes that autograd holds for backward: now, and at most."""

    def __init__(self) -> None:
        self.now = self.peak = 0

    def pack(self, tensor: Tensor) -> _Held:
        return _Held(tensor, self)

    def unpack(self, held: _Held) -> Tensor:
        return held.tensor

    def add(self, size: int) -> None:
        self.now += size
        self.peak = max(self.peak, self.now)


class _Held:
    def __init__(self, tensor: Tensor, meter: Meter) -> None:
        # Detached: a saved output with its grad_fn would hold the node that saved it, and itself.
        self.tensor, size = tensor.detach(), tensor.nbytes
        meter.add(size)
        weakref.finalize(self, meter.add, -size)
