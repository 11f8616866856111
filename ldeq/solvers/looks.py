"""When the host looks whether a solve can end, and what the look costs the device."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


class Looks:
    """Counts the samples that go on, every so many evaluations.

    On a CPU a look costs nothing. A CUDA device runs behind the host, and reading a result at once would let its queue run
    dry. So a look there starts an asynchronous copy to pinned memory and waits for that of the look *before*, while the device
    works on what was queued since. A solve then ends one look late; stopped samples are frozen, so that the answer is the same.
    """

    def __init__(self, every: int, device: torch.device) -> None:
        """
        Args:
            every: evaluations between two looks, 0 for never.
            device: of the solve.

        Raises:
            ValueError: for looks inside the capture of a CUDA graph.
        """
        if every and device.type == "cuda" and torch.cuda.is_current_stream_capturing():
            raise ValueError(
                f"check_every must be 0 while a CUDA graph is captured, got {every}: a graph cannot wait for the host"
            )
        self.every = every
        self.lags = device.type == "cuda"
        self._before: Callable[[], int] | None = None

    def count(self, active: Tensor, step: int) -> int | None:
        """How many samples go on after evaluation `step` (from 0), or after the look before; None where nothing is known.

        Args:
            active: `(B,)`, nonzero for a sample that goes on.
        """
        if not self.every or (step + 1) % self.every:
            return None
        total = active.sum()
        if not self.lags:
            return int(total)
        before, self._before = self._before, self._read_later(total)
        return None if before is None else before()

    @staticmethod
    def _read_later(total: Tensor) -> Callable[[], int]:
        """Starts a copy to the host; the function returned waits for it and for nothing that is queued after it."""
        copy = torch.empty((), dtype=total.dtype, pin_memory=True).copy_(total, non_blocking=True)
        event = torch.cuda.Event()
        event.record()

        def read() -> int:
            event.synchronize()
            return int(copy)

        return read
