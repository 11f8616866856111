"""Ctrl-C and SIGTERM as a request to stop at the next safe point."""

from __future__ import annotations

import signal
from collections.abc import Callable
from types import FrameType
from typing import Any

import torch
from torch import distributed as dist


class StopRequest:
    """Inside the context the first signal is noted, a second one ends the program at once.

    Args:
        tell: called when the first signal arrives.
    """

    def __init__(self, tell: Callable[[], None]) -> None:
        self.tell = tell
        self.noted = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopRequest:
        try:
            self._before = {n: signal.signal(n, self._handle) for n in (signal.SIGINT, signal.SIGTERM)}
        except ValueError:  # not in the main thread: signals go elsewhere
            self._before = {}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.noted:
            raise KeyboardInterrupt
        self.noted = True
        self.tell()

    def asked(self, device: torch.device) -> bool:
        """Whether to stop; the same answer in every process, since a signal may reach one of them alone."""
        if not dist.is_initialized() or dist.get_world_size() == 1:
            return self.noted
        flag = torch.tensor(float(self.noted), device=device)
        dist.all_reduce(flag, op=dist.ReduceOp.MAX)
        return bool(flag)
