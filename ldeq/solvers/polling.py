"""When the host polls whether a solve can end, and what the poll costs the device."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..errors import ArgumentError

is_batched = torch._C._functorch.is_batchedtensor

# A batch up to this size is counted as a list on a CPU: a kernel would take longer.
LISTED = 256


class Poll:
    """Counts the samples that go on, every so many evaluations.

    On a CPU a poll costs nothing. A CUDA device runs behind the host, and reading a result at once would let its queue run
    dry. So a poll there starts an asynchronous copy to pinned memory and waits for the copy of the poll *before*, while the
    device works on what was queued since. A solve then ends one poll late. Stopped samples are frozen, so the answer is the
    same.
    """

    def __init__(self, every: int, device: torch.device) -> None:
        """
        Args:
            every: evaluations between two polls, 0 for none.
            device: of the solve.

        Raises:
            ValueError: for polls inside the capture of a CUDA graph.
        """
        if every and device.type == "cuda" and torch.cuda.is_current_stream_capturing():
            raise ArgumentError(
                f"check_every must be 0 while a CUDA graph is captured, got {every}: a graph cannot wait for the host"
            )
        self.every = every
        self.lags = device.type == "cuda"
        self._before: Callable[[], int] | None = None

    def count(self, active: Tensor, step: int) -> int | None:
        """How many samples go on after evaluation `step` (from 0), or after the poll before; None if nothing is known.

        Args:
            active: `(B,)` int64, 1 for a sample that goes on, else 0.
        """
        if not self.every or (step + 1) % self.every:
            return None
        if is_batched(active):
            raise ArgumentError(
                f"check_every must be 0 under torch.vmap, got {self.every}: the host cannot look at one of the mapped solves"
            )
        if not self.lags:
            return sum(active.tolist()) if len(active) <= LISTED else int(active.sum())
        total = active.sum()
        before, self._before = self._before, self._read_later(total)
        return None if before is None else before()

    @staticmethod
    def _read_later(total: Tensor) -> Callable[[], int]:
        """Starts a copy to the host; the function returned waits for it and for nothing that is queued after it."""
        copy = torch.empty((), dtype=total.dtype, pin_memory=True).copy_(total, non_blocking=True)
        # On the stream of the tensor, which need not be on the current device: the copy is queued there.
        event = torch.cuda.Event()
        event.record(torch.cuda.current_stream(total.device))

        def read() -> int:
            event.synchronize()
            return int(copy)

        return read
