r"""Anderson mixing with a batch of independent samples: type II, and type I by `ldeq.solvers.anderson_type1`.

x is the iterate `(B, D)`, f = f(x), g = f - x. Of the last n <= m pairs, each sample takes the weights

$$ \min_\alpha \|\sum_i \alpha_i g_i\|^2 + \lambda \|\alpha\|^2, \quad \sum_i \alpha_i = 1, \qquad
   x_{next} = \sum_i \alpha_i (f_i - (1 - \beta) g_i) $$

(Walker and Ni 2011, eq. 2.2; the bordered system of Bai, Kolter and Koltun's DEQ code gives the same alpha). Only one row of
the Gram matrix of the g changes per step, so only that row is computed; `ldeq.ops.solve_step.mixing` solves for alpha.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from ..errors import ArgumentError
from ..inputs import is_finite
from ..ops.solve_step import MAX_HISTORY, AndersonStep, SolveState, Step
from . import buffer_reuse
from .anderson_type1 import TypeOneState, TypeOneStep
from .solution import Solution
from .solver import Map, Solver, check_beta, check_choice, check_count

# Published LDEQ loop, for parity with its figures: ridge in absolute units, one stop for the batch, the iterate itself
# returned (a final evaluation of f follows in the layer). It spends two start-up evaluations outside its max_iter:
# ``Anderson(max_iter=5 + 2, tol=1e-4, **PUBLISHED)``.
PUBLISHED: dict[str, Any] = {
    "m": 6,
    "ridge": -1e-4,
    "beta": 1.0,
    "stop": "relative",
    "stop_scope": "batch",
    "returns": "x",
    "safeguards": False,
}


Kind = Literal["I", "II"]


@dataclass(frozen=True, kw_only=True)
class Anderson(Solver):
    """Anderson mixing. `PUBLISHED` holds the settings that reproduce the published LDEQ loop.

    ```python
    a = torch.linspace(0, 0.95, 64, dtype=torch.float64)
    sol = Anderson(tol=1e-5)(lambda z: a * z + 1, torch.zeros(2, 64, dtype=torch.float64))
    (sol.value - 1 / (1 - a)).abs().max(), sol.iterations
    ```
    """

    m: int = 6
    """Pairs kept, 1 to 16; 1 is plain iteration."""
    kind: Kind = "II"
    """``"II"`` mixes the residuals to the smallest one. ``"I"`` makes the mixed one orthogonal to the steps, which takes fewer
    evaluations on some maps and more on others (`benchmarks/README.md`). It runs in plain PyTorch on every device, and keeps m
    states more."""
    ridge: float = 0.0
    """lambda. 0 is the best: residuals that are all but dependent are left out, whatever their scale. From 0 upwards it is
    relative to the mean diagonal of the Gram matrix, so that the answer does not depend on the scale of the problem (an
    absolute 1e-4 fails on the small residuals of a mean-reduced loss). A negative value is absolute: -1e-4 is the lambda = 1e-4
    of published code."""
    beta: float = 1.0
    """Mixing in (0, 1]; 1 takes f alone."""
    safeguards: bool = True
    """Per sample: drop the history and take a plain step if a mixed step left the residual at 10 times the history's best, or
    if it has not fallen to 0.3 of what it was within 2 m evaluations; and take a plain step if the weights have a norm beyond
    1e4 (1e12 for float64 states). Off for parity with published loops."""
    history_dtype: torch.dtype | None = None
    """Of the residuals g that are kept: None for the dtype of the arithmetic, or `torch.bfloat16`, which halves their traffic
    and, since f is kept as it is, costs no digits of the answer."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_beta(self.beta)
        check_choice("kind", self.kind, get_args(Kind))
        check_count("m", self.m)
        if not 1 <= self.m <= MAX_HISTORY:
            raise ArgumentError(f"m must lie in 1..{MAX_HISTORY}, got {self.m}")
        if not is_finite(self.ridge):
            raise ArgumentError(f"ridge must be a finite number, got {self.ridge!r:.99}")
        if self.history_dtype not in (None, torch.bfloat16):
            raise ArgumentError(f"history_dtype must be None or torch.bfloat16, got {self.history_dtype}")
        if self.history_dtype is not None and self.kind == "I":
            raise ArgumentError(f"history_dtype={self.history_dtype} is for kind='II'; leave it out with kind='I'")

    def prepare(self, start: Tensor) -> None:
        if self.history_dtype is not None and start.dtype == torch.float64:
            raise ArgumentError(f"history_dtype must be None for float64 states, got {self.history_dtype}")

    def step(self, start: Tensor, backend: str | None) -> Step:
        if self.kind == "I":
            return TypeOneStep(self.beta, self.ridge, self.safeguards)
        return AndersonStep(
            start,
            beta=self.beta,
            ridge=self.ridge,
            safeguards=self.safeguards,
            history_dtype=self.history_dtype,
            backend=backend,
        )

    def state(self, start: Tensor, value: torch.dtype, f: torch.dtype, compiled: bool) -> SolveState:
        if self.kind == "I":
            return TypeOneState.new(start.to(value), self.m)
        dtype = self.history_dtype or torch.promote_types(f, torch.float32)
        ring = buffer_reuse.acquire((self.m, *start.shape), dtype, start) if compiled else None
        return SolveState.new(start.to(value), self.m, ring)


def anderson(f: Map, z0: Tensor, **options: Any) -> Solution:
    """Solves z = f(z) by `Anderson` with these options."""
    return Anderson(**options)(f, z0)


anderson.solver = Anderson  # type: ignore[attr-defined]
