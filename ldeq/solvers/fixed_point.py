"""Fixed-point (Picard) iteration: x <- x + beta g with g = f(x) - x.

A damped step for beta < 1. Converges where f contracts; the released video model of LDEQ uses it, since a stopped
iteration stays near its start, which is what *recurrence without recurrence* wants.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..ops.solve_step import FixedPointStep, SolveState, Step
from .solution import Solution
from .solver import Map, Solver, check_beta


@dataclass(frozen=True, kw_only=True)
class FixedPoint(Solver):
    """(Damped) fixed-point iteration.

    ```python
    sol = FixedPoint(tol=1e-12, max_iter=100)(torch.cos, torch.zeros(1, 1, dtype=torch.float64))
    sol.value           # 0.7391, (1, 1)
    ```
    """

    beta: float = 1.0
    """Step length in (0, 1]."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_beta(self.beta)

    def step(self, start: Tensor, backend: str | None) -> Step:
        return FixedPointStep(start, beta=self.beta, backend=backend)

    def state(self, start: Tensor, value: torch.dtype, f: torch.dtype, compiled: bool) -> SolveState:
        return SolveState.new(start.to(value), 0)


def fixed_point(f: Map, z0: Tensor, **options: Any) -> Solution:
    """Solves z = f(z) by `FixedPoint` with these options."""
    return FixedPoint(**options)(f, z0)


fixed_point.solver = FixedPoint  # type: ignore[attr-defined]
