"""A solver as a value: its options, documented and checked once, and what it gives the loop."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal, TypeVar, get_args

import torch
from torch import Tensor

from ..errors import ArgumentError
from ..inputs import is_finite
from ..ops.solve_step import SolveState, Step
from ..spelling import did_you_mean
from .loop import solve
from .motion import Observe
from .solution import Solution

Map = Callable[[Tensor], Tensor]
"""A fixed-point map: (B, ...) to (B, ...), each sample on its own."""

Stop = Literal["relative", "absolute", "motion"]
StopScope = Literal["sample", "batch"]
Returns = Literal["f", "x"]

STOPS: tuple[str, ...] = get_args(Stop)
STOP_SCOPES: tuple[str, ...] = get_args(StopScope)
RETURNS: tuple[str, ...] = get_args(Returns)

Self = TypeVar("Self", bound="Solver")


@dataclass(frozen=True, kw_only=True)
class Solver(ABC):
    """Solves z = f(z), each sample of a batch on its own. These are the options that all methods share.

    ```python
    solver = Anderson(m=6, max_iter=20, tol=1e-5)
    sol = solver(f, z0)                 # sol.value, sol.residual, sol.status
    sol = solver(f, z0, max_iter=5)     # another budget for this call
    ```

    Solvers are values: equal if their options are, hashable, and changed by `dataclasses.replace`.
    """

    max_iter: int = 50
    """Evaluations of f at most."""
    tol: float = 1e-4
    """A sample stops when its residual is at most this; 0 runs the whole budget unless the residual is exactly 0."""
    stop: Stop = "relative"
    """What `tol` is compared with. ``"relative"``: ||f(x) - x|| / ||f(x)||, which never meets a tolerance at a fixed point of
    exactly zero that is approached from elsewhere. ``"absolute"``: ||f(x) - x||. ``"motion"``: how far the points that
    `observe` reads have moved since the evaluation before: the L2 distance over d, averaged over P."""
    stop_scope: StopScope = "sample"
    """``"sample"``, or ``"batch"`` to stop all on the mean over the batch, as the published LDEQ loop does."""
    observe: Observe | None = None
    """For ``stop="motion"`` alone: maps f(x) `(B, ...)` to `(B, P)` or `(B, P, d)`, in whose units `tol` is then. The first
    evaluation is compared with the start. If it consists of plain tensor operations, it costs no host read."""
    returns: Returns = "f"
    """``"f"``, f at the point of lowest residual, or ``"x"``, that point itself."""
    check_every: int = 1
    """Evaluations between two polls of the host whether all samples have stopped. 0 for none: the whole budget is spent,
    masked, and the solve can be captured in a CUDA graph. The answer is the same. On a CUDA device a poll is asynchronous,
    never empties the queue, and ends the solve one poll late."""
    compact: float = 0.0
    """Share of the batch, in [0, 1), at or below which f is evaluated on the samples that go on alone; 0 keeps the batch whole.
    Needs an f with a method ``select(rows)``, such as `Injected`, and a poll. A sample's answer is the same if f computes it
    alike in any batch. Matrix products, whose order of summation may depend on the size of the batch, do so to rounding."""
    trace: bool = False
    """Keep the residual of every evaluation."""
    trajectory: bool = False
    """Keep f(x), or x, of every evaluation; memory grows with the budget."""
    on_step: Callable[[int, Tensor, Tensor], None] | None = None
    """Called after every evaluation with its number from 1, the residuals `(b,)` of the samples still held and, `(b,)` bool,
    which of them go on: to log or to draw a solve while it runs. The tensors are on the device of the solve, and reading them
    on the host waits for it."""

    def __post_init__(self) -> None:
        """
        Raises:
            ValueError: for an option out of range.
        """
        check_choice("stop", self.stop, STOPS)
        check_choice("stop_scope", self.stop_scope, STOP_SCOPES)
        check_choice("returns", self.returns, RETURNS)
        check_count("max_iter", self.max_iter)
        if self.max_iter < 1:
            raise ArgumentError(f"max_iter must be >= 1, got {self.max_iter}")
        if not is_finite(self.tol) or not self.tol >= 0:
            raise ArgumentError(f"tol must be a finite number >= 0, got {self.tol!r:.99}")
        check_loop(self.check_every, self.compact, self.stop_scope)
        if self.on_step is not None and not callable(self.on_step):
            raise ArgumentError(f"on_step must be a function or None, got {self.on_step!r}")
        if (self.stop == "motion") != (self.observe is not None):
            raise ArgumentError(f"observe is for stop='motion', which needs it; got stop={self.stop!r}, observe={self.observe}")

    def __call__(self, f: Map, z0: Tensor, **changes: Any) -> Solution:
        """Solves z = f(z) from z0.

        Args:
            f: maps `(B, ...)` to `(B, ...)`, to a new tensor each time, and leaves its argument as it is: that may be what it
                returned before.
            z0: `(B, ...)`, the start, floating point. Half types iterate in float32 and are cast for f alone.
            changes: options that differ in this call.

        Raises:
            MapError: a `ValueError`, for an f that changes the shape, its argument, or what it returned before.
        """
        return solve(replace(self, **changes) if changes else self, f, z0)

    @property
    def host_work(self) -> str | None:
        """Why a solve needs the host after it has begun, so that no CUDA graph can hold it; None if it does not."""
        if self.check_every:
            return f"the solver looks at the host (check_every={self.check_every}); set check_every=0"
        return None if self.on_step is None else "on_step is called on the host after every evaluation; leave it out"

    def prepare(self, start: Tensor) -> None:  # noqa: B027  (most solvers have nothing to check)
        """
        Raises:
            ValueError: for options that do not go with the start `(B, D)`.
        """

    @abstractmethod
    def step(self, start: Tensor, backend: str | None) -> Step:
        """The step of the method from `start` `(B, D)` on a backend, None for the one that serves it."""

    @abstractmethod
    def state(self, start: Tensor, value: torch.dtype, f: torch.dtype, compiled: bool) -> SolveState:
        """The state before the first evaluation.

        Args:
            start: `(B, D)` in the precision of the arithmetic.
            value, f: dtype of what the solve returns, and of what the step is given as f.
            compiled: whether a kernel runs the step, which needs memory to write into.
        """


def as_solver(chosen: Any) -> Solver | None:
    """The `Solver` behind a function of `ldeq.solvers`, a `functools.partial` of one, or a `Solver`; None for anything else.

    Raises:
        ValueError: for options out of range, `TypeError` for unknown ones.
    """
    if isinstance(chosen, Solver):
        return chosen
    if isinstance(chosen, partial):
        base = None if chosen.args else as_solver(chosen.func)
        return None if base is None else replace(base, **chosen.keywords)
    kind = getattr(chosen, "solver", None)
    return kind() if isinstance(kind, type) and issubclass(kind, Solver) else None


def check_choice(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ArgumentError(f"unknown {name} {value!r}{did_you_mean(value, known)}; choose one of {', '.join(known)}")


def check_count(name: str, value: int) -> None:
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise ArgumentError(f"{name} must be an integer, got {value!r}")


def check_beta(beta: float, name: str = "beta") -> None:
    if not is_finite(beta) or not 0 < beta <= 1:
        raise ArgumentError(f"{name} must lie in (0, 1], got {beta!r:.99}")


def check_loop(check_every: int, compact: float, stop_scope: str) -> None:
    """
    Raises:
        ValueError: if a solve cannot poll its samples, or let them go, as these options ask for.
    """
    check_count("check_every", check_every)
    if check_every < 0:
        raise ArgumentError(f"check_every must be >= 0, got {check_every}; 0 spends the whole budget without a poll")
    if not is_finite(compact) or not 0 <= compact < 1:
        raise ArgumentError(f"compact must lie in [0, 1), got {compact!r:.99}; 0 keeps the batch whole")
    if compact and not check_every:
        raise ArgumentError(f"compact={compact} needs check_every >= 1, got 0: the host must see how many samples go on")
    if compact and stop_scope == "batch":
        raise ArgumentError(f"compact={compact} needs stop_scope='sample', got 'batch', which stops all at once")
