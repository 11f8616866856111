"""Arguments of ``ldeq bench``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass
class BenchArguments:
    """Time the solvers and operators on this machine, in less than a minute."""

    batch: int = 4
    """Samples, each with 98 heatmaps of 64 x 64."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Of the heatmaps and of the state."""
    device: str = "auto"
    """``auto``, ``cpu`` or ``cuda``."""
    rounds: int = 7
    """Measured rounds; every backend runs once in each."""
    json: bool = False
    """Print JSON."""

    def run(self) -> int:
        from ..bench import Bench

        return Bench(**vars(self)).run()
