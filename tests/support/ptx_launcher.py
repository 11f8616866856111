"""Runs kernels for the operators that tests/host builds."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import nvcc
from ptx_text import Kernel


@dataclass
class Launcher:
    """Runs each kernel by its name with its types, and counts."""

    architecture: str
    kernels: dict[str, Kernel]
    libraries: dict[str, Any]
    launched: Counter[str] = field(default_factory=Counter)
    replaced: dict[str, tuple[Any, str]] = field(default_factory=dict)
    """What tests put in the place of a kernel: a library and a name in it."""

    blocks: int | None = None
    """The last so many blocks alone are run; None runs all."""

    def __call__(self, name: str, grid: int, threads: int, parameters: bytes) -> None:
        name = nvcc.readable(name)
        self.launched[name] += 1
        library, symbol = self.replaced.get(name) or (self.libraries[name], self.kernels[name].name)
        first = 0 if self.blocks is None else max(0, grid - self.blocks)
        library.launch(symbol, (grid, 1, 1), threads, parameters, first=first)
