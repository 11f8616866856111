"""What every solver returns, and the per-sample bookkeeping behind it."""

from __future__ import annotations

import enum
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from weakref import ReferenceType, ref

import torch
from torch import Tensor

from .compaction import Batch, Selectable
from .looks import Looks
from .motion import Motion, Observe

Map = Callable[[Tensor], Tensor]
"""A fixed-point map: (B, ...) to (B, ...), each sample on its own."""

STOPS = ("relative", "absolute", "motion")
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

    - `value`: `(B, ...)`, dtype of the start; the best point seen, as f(x) or x (see `returns` of the solvers). With
        ``stop="motion"``, a converged sample's is the one at which it came to rest.
    - `residual`: `(B,)` float; at that point, in the measure of the stop: ||f(x) - x|| / ||f(x)|| (also with
        ``stop="motion"``) or ||f(x) - x||. Infinity where no evaluation was finite.
    - `iterations`: `(B,)` int64; evaluations of f until this sample stopped.
    - `status`: `(B,)` int64, members of `Status`.
    - `trace`: `(steps, B)` residuals of every evaluation if asked for, else None. A stopped sample repeats its last one.
    - `trajectory`: `(steps, B, ...)`, f(x) or x of every evaluation (see `returns`) if asked for, else None; repeated likewise.
    - `motion`: `(B,)` float with ``stop="motion"``, how far the points moved in a sample's last evaluation; else None.
    - `adjoint`: the `Solution` of the backward solve, once backward has run through an implicit layer, with an empty
        `value`; None before.
    """

    value: Tensor
    residual: Tensor
    iterations: Tensor
    status: Tensor
    trace: Tensor | None = None
    trajectory: Tensor | None = None
    motion: Tensor | None = None
    adjoint: Solution | None = field(default=None, repr=False)

    @property
    def converged(self) -> Tensor:
        """`(B,)` bool."""
        return self.status == Status.CONVERGED


class Progress:
    """The map, and the per-sample stopping, status and best-so-far that all solvers share.

    Works on flattened states `(B, D)` in the solver's own precision. Selection is by `where` throughout: `mask * value`
    would let a NaN of one point into the kept best (0 x NaN). The batch may shrink on the way (`shrink`).
    """

    def __init__(
        self,
        f: Map,
        z0: Tensor,
        *,
        max_iter: int,
        tol: float,
        stop: str,
        stop_scope: str,
        observe: Observe | None,
        returns: str,
        check_every: int,
        compact: float,
        trace: bool,
        trajectory: bool,
    ) -> None:
        check_choice("stop", stop, STOPS)
        check_choice("stop_scope", stop_scope, STOP_SCOPES)
        check_choice("returns", returns, RETURNS)
        if not isinstance(z0, Tensor):
            raise ValueError(f"z0 must be a tensor of shape (B, ...), got {type(z0).__name__}")
        if z0.ndim < 2 or not z0.is_floating_point():
            raise ValueError(
                f"z0 must be floating point of shape (B, ...) with at least two dimensions, got {z0.dtype} {tuple(z0.shape)}; "
                "add a batch dimension with z0[None]"
            )
        check_count("max_iter", max_iter)
        if max_iter < 1:
            raise ValueError(f"max_iter must be >= 1, got {max_iter}")
        if not tol >= 0 or math.isinf(tol):
            raise ValueError(f"tol must be a finite number >= 0, got {tol}")
        check_loop(check_every, compact, stop_scope)
        if compact and not isinstance(f, Selectable):
            raise ValueError(
                f"compact={compact} needs an f with a method select(rows), which a plain function has not; "
                "ldeq.solvers.Injected(cell, x) has one"
            )
        if (stop == "motion") != (observe is not None):
            raise ValueError(f"observe is for stop='motion', which needs it; got stop={stop!r}, observe={observe}")
        self.shape, self.dtype = z0.shape, z0.dtype
        # Half-precision iterates stall far above the tolerance (solvers keep their state in float32 at least).
        work = torch.promote_types(z0.dtype, torch.float32)
        self.start = z0.flatten(1).to(work)
        self.max_iter, self.tol, self.stop, self.stop_scope, self.returns = max_iter, tol, stop, stop_scope, returns
        self.compact = compact
        self.looks = Looks(check_every, z0.device)
        self.batch = Batch(z0.shape[0])
        self.motion = Motion(observe, z0) if observe else None
        batch, device = z0.shape[0], z0.device
        self.active = torch.ones(batch, dtype=torch.bool, device=device)
        self.status = torch.full((batch,), int(Status.MAX_ITER), device=device)
        self.iterations = torch.zeros(batch, dtype=torch.int64, device=device)
        self.value = self.start
        self.residual = torch.full((batch,), torch.inf, dtype=work, device=device)
        self.norm = torch.full((batch,), torch.inf, dtype=work, device=device)
        """||f(x) - x|| at the best point, whatever the stop measures."""
        self.moved = torch.full((batch,), torch.inf, device=device)
        """Of a sample's last evaluation, where motion is measured."""
        self.first_norm: Tensor | None = None
        self.going: int | None = None
        """How many samples go on, as of the last look; None where it said nothing."""
        self._f = f
        self._filled = Refilled()
        self._first: Tensor | None = None
        self._trace: list[tuple[Tensor | None, Tensor]] | None = [] if trace else None
        self._trajectory: list[tuple[Tensor | None, Tensor]] | None = [] if trajectory else None

    def call(self, x: Tensor) -> Tensor:
        """f at x `(b, D)`, given in the dtype of the start; as f returned it."""
        if self._first is not None:
            fx, self._first = self._first, None
            return fx
        shape = torch.Size((x.shape[0], *self.shape[1:]))
        fx = self._f(x.reshape(shape))
        if not isinstance(fx, Tensor):
            raise ValueError(f"f must return a tensor, it returned {type(fx).__name__}")
        if not fx.is_floating_point() or fx.device != x.device:
            raise ValueError(
                f"f must return floating point on {x.device} like its argument, it returned {fx.dtype} on {fx.device}"
            )
        if fx.shape != shape:
            raise ValueError(f"f must keep the shape of its argument {tuple(shape)}, it returned {tuple(fx.shape)}")
        self._filled.check(fx)
        return fx

    def call_ahead(self) -> Tensor:
        """f at the start, which the next `call` will hand out again."""
        fx = self.call(self.start.to(self.dtype))
        self._first = fx
        return fx

    def evaluate(self, x: Tensor) -> Tensor:
        """f at the flattened iterate x `(b, D)`, in the dtype of the start, back in working precision."""
        return self.call(x.to(self.dtype)).flatten(1).to(self.start.dtype)

    def record(self, x: Tensor, fx: Tensor, g: Tensor) -> Tensor:
        """Takes in one evaluation; returns ||g|| `(b,)`. Afterwards `active` says who goes on."""
        norm = torch.linalg.vector_norm(g.detach(), dim=1)
        residual = norm
        if self.stop != "absolute":
            info = torch.finfo(norm.dtype)
            # An f of exactly zero is a finite answer: its quotient may neither be 0 / 0 nor overflow to infinity.
            size = torch.linalg.vector_norm(fx.detach(), dim=1).clamp_min(info.tiny)
            residual = (norm / size).clamp_max(info.max)
        finite = torch.isfinite(residual) & torch.isfinite(norm)
        if self.first_norm is None:
            self.first_norm = norm
        diverged = finite & (norm > DIVERGENCE_FACTOR * self.first_norm)
        better = self.active & finite & (residual < self.residual)
        if self.motion is not None:
            moved = self.measure_motion(fx, self.active)
            converged = self.at_rest(moved, self.active & finite & ~diverged)
            # What has come to rest is the answer, also where an earlier point had the lower residual.
            better = better | converged
        elif self.stop_scope == "sample":
            converged = finite & (residual <= self.tol)
        else:
            # The published loop: one decision for the whole batch.
            converged = (residual.mean() <= self.tol).expand_as(finite)
        value = fx if self.returns == "f" else x
        self.value = torch.where(better.unsqueeze(1), value, self.value)
        self.residual = torch.where(better, residual, self.residual)
        self.norm = torch.where(better, norm, self.norm)
        self.iterations = self.iterations + self.active
        ends = ((converged, Status.CONVERGED), (diverged, Status.DIVERGED), (~finite, Status.NONFINITE))
        for condition, status in ends:
            self.status = torch.where(self.active & condition, int(status), self.status)
        self.active = self.active & ~(converged | diverged | ~finite)
        self.remember(residual, value)
        return norm

    def measure_motion(self, fx: Tensor, going: Tensor) -> Tensor:
        """How far the points of fx `(b, D)` are from those of the evaluation before, `(b,)`; kept for the samples `going`."""
        assert self.motion is not None
        moved = self.motion.update(fx.to(self.dtype).reshape(fx.shape[0], *self.shape[1:]))
        self.moved = torch.where(going, moved, self.moved)
        return moved

    def at_rest(self, moved: Tensor, going: Tensor) -> Tensor:
        """Which of the samples still `going` have moved by no more than the tolerance, `(b,)`."""
        return going & ((moved if self.stop_scope == "sample" else moved.mean()) <= self.tol)

    @property
    def remembers(self) -> bool:
        return self._trace is not None or self._trajectory is not None

    def remember(self, residual: Tensor, value: Tensor) -> None:
        """Keeps residuals `(b,)` and values `(b, D)` of one evaluation where they were asked for."""
        if self._trace is not None:
            self._trace.append((self.batch.rows, residual))
        if self._trajectory is not None:
            self._trajectory.append((self.batch.rows, value))

    def done(self, step: int) -> bool:
        """Whether the solve may end after evaluation `step`: the budget is spent, or a look shows that all have stopped."""
        if step + 1 == self.max_iter:
            return True
        self.going = self.looks.count(self.active, step)
        return self.going == 0

    def shrink(self, going: int | None, active: Tensor, results: Callable[[], dict[str, Tensor]]) -> Tensor | None:
        """Lets stopped samples go if few are left; returns the positions `(b',)` of those that stay, None for all.

        Args:
            going: how many go on, None if unknown.
            active: `(b,)`, who does.
            results: gives what is known of all samples held, each `(b, ...)`.
        """
        if not self.compact or going is None or going > self.compact * len(active):
            return None
        stay, leaving = self.batch.split(active, going)
        self.batch.leave(stay, leaving, results())
        assert isinstance(self._f, Selectable)
        self._f = self._f.select(stay)
        if self.motion is not None:
            self.motion.select(stay)
        return stay

    def shrink_all(self) -> Tensor | None:
        """`shrink` for a solver whose state is this object's."""
        stay = self.shrink(self.going, self.active, self._results)
        if stay is not None:
            assert self.first_norm is not None
            names = ("active", "status", "iterations", "value", "residual", "norm", "moved", "first_norm")
            for name in names:
                setattr(self, name, getattr(self, name).index_select(0, stay))
        return stay

    def advance(self, x: Tensor, x_next: Tensor) -> Tensor:
        """The next iterate: x_next where the sample goes on, x where it has stopped."""
        return torch.where(self.active.unsqueeze(1), x_next, x)

    def solution(self) -> Solution:
        return self.assemble(self._results())

    def _results(self) -> dict[str, Tensor]:
        own = {"value": self.value, "residual": self.residual, "iterations": self.iterations, "status": self.status}
        return own | {"motion": self.moved}

    def assemble(self, results: dict[str, Tensor]) -> Solution:
        """The `Solution` of the whole batch from the results `(b, ...)` of the samples still held."""
        r = self.batch.join(results)
        return Solution(
            r["value"].to(self.dtype).reshape(self.shape),
            r["residual"],
            r["iterations"],
            r["status"],
            self._history(self._trace, r["iterations"]),
            self._history(self._trajectory, r["iterations"]),
            r["motion"] if self.motion is not None else None,
        )

    def _history(self, entries: list[tuple[Tensor | None, Tensor]] | None, iterations: Tensor) -> Tensor | None:
        """`(steps, B, ...)`; from where a sample stopped on, its last entry again."""
        if entries is None:
            return None
        kept = torch.stack([self.batch.spread(rows, t) for rows, t in entries])
        step = torch.arange(len(entries), device=kept.device).unsqueeze(1)
        kept = kept[torch.minimum(step, iterations - 1), torch.arange(kept.shape[1], device=kept.device)]
        return kept if kept.ndim == 2 else kept.to(self.dtype).reshape(len(entries), *self.shape)


class Refilled:
    """Tells an f that writes into what it returned before: the history of a solve refers to that, and would change with it."""

    def __init__(self) -> None:
        self._before: tuple[ReferenceType[Tensor], int, int] | None = None

    def check(self, fx: Tensor) -> None:
        """
        Raises:
            ValueError: where fx lies in the memory of the last one, which is still alive, and has been written to since. The
                same constant again and again is no harm.
        """
        # Tensors that are traced or transformed have no address.
        if torch.compiler.is_compiling() or type(fx) is not Tensor or torch._C._functorch.is_functorch_wrapped_tensor(fx):
            return
        owner = fx if fx._base is None else fx._base
        place, version = fx.data_ptr(), -1 if fx.is_inference() else fx._version
        if self._before is not None:
            last, before, was = self._before
            if last() is owner and place == before and version != was:
                raise ValueError(
                    "f must return a new tensor at each call, it filled the one that it returned before; end it with .clone()"
                )
        self._before = (ref(owner), place, version)


def check_choice(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ValueError(f"unknown {name} {value!r}; choose one of {', '.join(known)}")


def check_count(name: str, value: int) -> None:
    if not hasattr(value, "__index__"):
        raise ValueError(f"{name} must be an integer, got {value!r}")


def check_loop(check_every: int, compact: float, stop_scope: str) -> None:
    """
    Raises:
        ValueError: where a solve cannot look at its samples, or let them go, as these options ask for.
    """
    check_count("check_every", check_every)
    if check_every < 0:
        raise ValueError(f"check_every must be >= 0, got {check_every}; 0 spends the whole budget without a look")
    if not 0 <= compact < 1:
        raise ValueError(f"compact must lie in [0, 1), got {compact}; 0 keeps the batch whole")
    if compact and not check_every:
        raise ValueError(f"compact={compact} needs check_every >= 1, got 0: the host must see how many samples go on")
    if compact and stop_scope == "batch":
        raise ValueError(f"compact={compact} needs stop_scope='sample', got 'batch', which stops all at once")
