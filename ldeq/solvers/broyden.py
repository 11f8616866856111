r"""Broyden's (good) method with limited memory, each sample of the batch on its own.

Finds the root of g(x) = f(x) - x with an estimate H of the inverse Jacobian of g, started at -I (so that the first step is
x + g = f(x)) and corrected by rank one after each step (Broyden 1965; Kelley, *Iterative Methods*, section 7.3):

$$ dx = -H g, \quad H \leftarrow H + \frac{(dx - H\,dg)\, (dx^T H)}{dx^T H\,dg}. $$

H = -I + sum u_i v_i^T is kept as pairs `(B, D)`. When the memory is full or the residual grows, a sample's pairs are dropped.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor

from ..errors import ArgumentError
from ..ops.solve_step import Next, SolveState, Step, StopRule
from ..ops.solve_step.reference import RESTART_FACTOR, decide, measure, unit
from .solution import Solution
from .solver import Map, Solver, check_count

# An update is skipped when |dx^T H dg| falls below this share of ||dx|| ||H dg||: the quotient would be noise.
MIN_CURVATURE = 1e-6


@dataclass(frozen=True, kw_only=True)
class Broyden(Solver):
    """Broyden's method.

    ```python
    sol = Broyden(tol=1e-12)(torch.cos, torch.zeros(1, 1, dtype=torch.float64))
    ```
    """

    m: int = 16
    """Rank-one corrections kept, >= 1; memory is 2 m states."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count("m", self.m)
        if self.m < 1:
            raise ArgumentError(f"m must be >= 1, got {self.m}")

    def step(self, start: Tensor, backend: str | None) -> Step:
        return _BroydenStep(self.m)

    def state(self, start: Tensor, value: torch.dtype, f: torch.dtype, compiled: bool) -> SolveState:
        return _BroydenState.new(start.to(value), 0)


def broyden(f: Map, z0: Tensor, **options: Any) -> Solution:
    """Solves z = f(z) by `Broyden` with these options."""
    return Broyden(**options)(f, z0)


broyden.solver = Broyden  # type: ignore[attr-defined]


@dataclass
class _BroydenState(SolveState):
    """The estimate of the inverse Jacobian, as pairs u, v `(B, D)`, and what the next correction needs.

    - `dx`, `g_before`: the last step and the residual before it.
    - `corrected`: `(B,)`, whether a sample's step used a pair.
    - `lowest`: `(B,)`, the lowest ||g|| since its pairs were dropped.
    """

    us: list[Tensor] = field(default_factory=list)
    vs: list[Tensor] = field(default_factory=list)
    dx: Tensor | None = None
    g_before: Tensor | None = None
    corrected: Tensor | None = None
    lowest: Tensor | None = None


class _BroydenStep:
    """The step of Broyden's method, in plain PyTorch on every device."""

    compiled = False

    def __init__(self, m: int) -> None:
        self.m = m

    def __call__(
        self, state: SolveState, x: Tensor, f: Tensor, value: Tensor, stop: StopRule, advance: bool, cast: bool
    ) -> Next:
        own = _as_broyden(state)
        f = f.to(x.dtype)
        g = f - x
        slot, evicted = state.push(f, value)
        measured = measure(f, g, stop)
        decide(state, measured, slot, evicted, stop)
        if not advance:
            return Next(None, None)
        self._correct(own, g, measured.norm)
        x_next = torch.where(state.active.unsqueeze(1), x - _apply(own.us, own.vs, g), x)
        own.dx, own.g_before = x_next - x, g
        return Next(x_next, None)

    def _correct(self, state: _BroydenState, g: Tensor, norm: Tensor) -> None:
        """Takes in what the last step has shown of the Jacobian."""
        if state.corrected is None or state.lowest is None:
            state.corrected, state.lowest = torch.zeros_like(norm, dtype=torch.bool), torch.full_like(norm, torch.inf)
        # A corrected step that led astray; growth after a plain one says that f expands there (see `RESTART_FACTOR`).
        grown = state.corrected & (norm > RESTART_FACTOR * state.lowest)
        state.lowest = torch.where(grown, norm, torch.minimum(norm, state.lowest))
        if state.dx is None or state.g_before is None:
            return
        if len(state.us) == self.m:
            state.us, state.vs = [], []
            state.corrected = torch.zeros_like(state.corrected)
        # The formula stays the same if dx and dg are scaled alike, and their products then neither vanish nor overflow. A power
        # of two rounds nothing.
        _, norm = unit(state.dx)
        scale = torch.exp2(-torch.floor(torch.log2(norm))).to(g.dtype).unsqueeze(1)
        dx, dg = state.dx * scale, (g - state.g_before) * scale
        h_dg = _apply(state.us, state.vs, dg)
        curvature = (dx * h_dg).sum(1, keepdim=True)
        usable = curvature.abs() > MIN_CURVATURE * dx.norm(dim=1, keepdim=True) * h_dg.norm(dim=1, keepdim=True)
        usable = usable & state.active.unsqueeze(1)
        # (dx^T H) as a vector is H^T dx, with the pairs' roles exchanged.
        v = _apply(state.vs, state.us, dx)
        u = (dx - h_dg) / torch.where(usable, curvature, 1.0)
        us, vs = [*state.us, torch.where(usable, u, 0.0)], [*state.vs, torch.where(usable, v, 0.0)]
        state.corrected = (state.corrected | usable.squeeze(1)) & ~grown
        # A sample whose residual grew starts anew: its own pairs become zero, the others keep theirs.
        state.us = [torch.where(grown.unsqueeze(1), 0.0, p) for p in us]
        state.vs = [torch.where(grown.unsqueeze(1), 0.0, p) for p in vs]


def _as_broyden(state: SolveState) -> _BroydenState:
    return cast(_BroydenState, state)


def _apply(us: list[Tensor], vs: list[Tensor], p: Tensor) -> Tensor:
    """H p for H = -I + sum u_i v_i^T."""
    out = -p
    for u, v in zip(us, vs, strict=True):
        out = torch.addcmul(out, u, (v * p).sum(1, keepdim=True))
    return out
