"""What every solver returns, and the per-sample bookkeeping behind it."""

from __future__ import annotations

import enum
import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

Map = Callable[[Tensor], Tensor]
"""A fixed-point map: (B, ...) to (B, ...), each sample on its own."""

STOPS = ("relative", "absolute")
STOP_SCOPES = ("sample", "batch")
RETURNS = ("f", "x")

# A residual this many times the first one is taken for divergence: no solve recovers 8 decades within its budget, and in
# float32 the next few evaluations would overflow.
DIVERGENCE_FACTOR = 1e8


class Status(enum.IntEnum):
    """How the solve of one sample ended."""

    MAX_ITER = 0
    """The budget was used up; `value` is the best point seen."""
    CONVERGED = 1
    """The residual fell to the tolerance."""
    DIVERGED = 2
    """The residual grew by `DIVERGENCE_FACTOR`; `value` is the best point seen."""
    NONFINITE = 3
    """f returned NaN or infinity for this sample; `value` is the best finite point seen, else the start."""


@dataclass
class Solution:
    """Result of a fixed-point solve. Every entry is per sample: no sample depends on who shares its batch.

    - `value`: `(B, ...)`, dtype of the start; the best point seen, as f(x) or x (see `returns` of the solvers).
    - `residual`: `(B,)` float; at that point, in the measure of the stop: ||f(x) - x|| / ||f(x)|| or ||f(x) - x||.
        Infinity where no evaluation was finite.
    - `iterations`: `(B,)` int64; evaluations of f until this sample stopped.
    - `status`: `(B,)` int64, members of `Status`.
    - `trace`: `(steps, B)` residuals of every evaluation if asked for, else None. A stopped sample repeats its last one.
    - `adjoint`: the `Solution` of the backward solve, once backward has run through an implicit layer, with an empty
        `value`; None before.
    """

    value: Tensor
    residual: Tensor
    iterations: Tensor
    status: Tensor
    trace: Tensor | None = None
    adjoint: Solution | None = field(default=None, repr=False)

    @property
    def converged(self) -> Tensor:
        """`(B,)` bool."""
        return self.status == Status.CONVERGED


class Progress:
    """Per-sample stopping, status and best-so-far, shared by all solvers.

    Works on flattened states `(B, D)` in the solver's own precision. Selection is by `where` throughout: `mask * value`
    would let a NaN of one point into the kept best (0 x NaN).
    """

    def __init__(self, z0: Tensor, *, max_iter: int, tol: float, stop: str, stop_scope: str, returns: str, trace: bool) -> None:
        check_choice("stop", stop, STOPS)
        check_choice("stop_scope", stop_scope, STOP_SCOPES)
        check_choice("returns", returns, RETURNS)
        if z0.ndim < 2 or not z0.is_floating_point():
            raise ValueError(
                f"z0 must be floating point of shape (B, ...) with at least two dimensions, got {z0.dtype} {tuple(z0.shape)}; "
                "add a batch dimension with z0[None]"
            )
        if max_iter < 1:
            raise ValueError(f"max_iter must be >= 1, got {max_iter}")
        if not tol >= 0 or math.isinf(tol):
            raise ValueError(f"tol must be a finite number >= 0, got {tol}")
        self.shape, self.dtype = z0.shape, z0.dtype
        # Half-precision iterates stall far above the tolerance (solvers keep their state in float32 at least).
        work = torch.promote_types(z0.dtype, torch.float32)
        self.start = z0.flatten(1).to(work)
        self.max_iter, self.tol, self.stop, self.stop_scope, self.returns = max_iter, tol, stop, stop_scope, returns
        batch, device = z0.shape[0], z0.device
        self.active = torch.ones(batch, dtype=torch.bool, device=device)
        self.status = torch.full((batch,), int(Status.MAX_ITER), device=device)
        self.iterations = torch.zeros(batch, dtype=torch.int64, device=device)
        self.value = self.start
        self.residual = torch.full((batch,), torch.inf, dtype=work, device=device)
        self.norm = torch.full((batch,), torch.inf, dtype=work, device=device)
        """||f(x) - x|| at the best point, whatever the stop measures."""
        self.first_norm: Tensor | None = None
        self._trace: list[Tensor] | None = [] if trace else None

    def evaluate(self, f: Map, x: Tensor) -> Tensor:
        """f at the flattened iterate x `(B, D)`, in the dtype of the start, back in working precision."""
        fx = f(x.to(self.dtype).reshape(self.shape))
        if fx.shape != self.shape:
            raise ValueError(f"f must keep the shape of its argument {tuple(self.shape)}, it returned {tuple(fx.shape)}")
        return fx.flatten(1).to(self.start.dtype)

    def record(self, x: Tensor, fx: Tensor, g: Tensor) -> Tensor:
        """Takes in one evaluation; returns ||g|| `(B,)`. Afterwards `active` says who goes on."""
        norm = torch.linalg.vector_norm(g.detach(), dim=1)
        residual = norm
        if self.stop == "relative":
            info = torch.finfo(norm.dtype)
            # An f of exactly zero is a finite answer: its quotient may neither be 0 / 0 nor overflow to infinity.
            size = torch.linalg.vector_norm(fx.detach(), dim=1).clamp_min(info.tiny)
            residual = (norm / size).clamp_max(info.max)
        finite = torch.isfinite(residual) & torch.isfinite(norm)
        if self.first_norm is None:
            self.first_norm = norm
        better = self.active & finite & (residual < self.residual)
        self.value = torch.where(better.unsqueeze(1), fx if self.returns == "f" else x, self.value)
        self.residual = torch.where(better, residual, self.residual)
        self.norm = torch.where(better, norm, self.norm)
        self.iterations = self.iterations + self.active

        if self.stop_scope == "sample":
            converged = finite & (residual <= self.tol)
        else:
            # The published loop: one decision for the whole batch.
            converged = (residual.mean() <= self.tol).expand_as(finite)
        diverged = finite & (norm > DIVERGENCE_FACTOR * self.first_norm)
        ends = ((converged, Status.CONVERGED), (diverged, Status.DIVERGED), (~finite, Status.NONFINITE))
        for condition, status in ends:
            self.status = torch.where(self.active & condition, int(status), self.status)
        self.active = self.active & ~(converged | diverged | ~finite)
        if self._trace is not None:
            stopped = self.iterations < len(self._trace) + 1
            self._trace.append(torch.where(stopped, self._trace[-1] if self._trace else residual, residual))
        return norm

    @property
    def done(self) -> bool:
        """Whether every sample has stopped (reads one flag on the host)."""
        return not bool(self.active.any())

    def advance(self, x: Tensor, x_next: Tensor) -> Tensor:
        """The next iterate: x_next where the sample goes on, x where it has stopped."""
        return torch.where(self.active.unsqueeze(1), x_next, x)

    def solution(self) -> Solution:
        trace = torch.stack(self._trace) if self._trace else None
        value = self.value.to(self.dtype).reshape(self.shape)
        return Solution(value, self.residual, self.iterations, self.status, trace)


def check_choice(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ValueError(f"unknown {name} {value!r}; choose one of {', '.join(known)}")
