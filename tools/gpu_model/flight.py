"""How much of device memory a warp has asked for when it first has to wait."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .walk import Step


@dataclass(frozen=True)
class Flight:
    """Bytes that a warp has asked for: at the wait with the most in flight, and at the one with the least."""

    most: int
    least: int
    narrowest: int
    """Bytes a thread reads at once, in the narrowest of these reads."""


def flight(steps: Sequence[Step]) -> Flight:
    """Of reads that fetch other bytes for each lane; what all lanes share comes from a cache."""
    pending: dict[int, int] = {}
    waits: list[int] = []
    widths: list[int] = []
    asked = False
    for step in steps:
        instruction = step.instruction
        if any(pending.get(board) for board in instruction.waits):
            if asked:  # or it waits for what is left of the same reads
                waits.append(sum(pending.values()))
            asked = False
            for board in instruction.waits:
                pending.pop(board, None)
        if instruction.reads_memory and step.runs and not step.is_shared and instruction.raises is not None:
            pending[instruction.raises] = pending.get(instruction.raises, 0) + step.bytes
            widths.append(instruction.width)
            asked = True
    return Flight(max(waits, default=0), min(waits, default=0), min(widths, default=0))
