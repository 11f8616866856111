"""The loop that drives every solver: evaluate, step, record, poll, narrow to what goes on.

One loop serves compiled steps and the reference in plain PyTorch, which runs if something is differentiated. It works on
flattened states `(B, D)`, x in float32 at least: half-precision iterates stall far above the tolerance.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..errors import ArgumentError
from ..ops.dispatch import transformed
from ..ops.layout import BEST, ITERATIONS, LAST, RESIDUAL, STATUS, Status
from ..ops.solve_step import StopRule, best_so_far
from . import buffer_reuse
from .compaction import Batch, Selectable
from .evaluation import Evaluation
from .history import History
from .motion import Motion
from .polling import Poll
from .solution import Solution

if TYPE_CHECKING:
    from .solver import Map, Solver


def solve(solver: Solver, f: Map, z0: Tensor) -> Solution:
    """Solves z = f(z) from z0 `(B, ...)`; see `Solver.__call__`."""
    _check(solver, f, z0)
    return _Solve(solver, f, z0).run()


class _Solve:
    """One solve: the samples still held, their state, and what is recorded of all."""

    def __init__(self, solver: Solver, f: Map, z0: Tensor) -> None:
        self.solver, self.shape, self.dtype = solver, z0.shape, z0.dtype
        self.tol = float(solver.tol)  # PyTorch refuses an integer of more than 64 bits
        self.x = z0.flatten(1).to(torch.promote_types(z0.dtype, torch.float32))
        solver.prepare(self.x)
        self.work = self.x.dtype
        self.given: Tensor | None = None  # x in the dtype of f, where the step wrote it along
        self.evaluation = Evaluation(f, self.shape)
        self.poll = Poll(solver.check_every, z0.device)
        self.batch = Batch(z0.shape[0])
        self.motion = Motion(solver.observe, z0) if solver.observe else None
        self.moved = torch.full(z0.shape[:1], torch.inf, device=z0.device)
        self.history = History(solver.trace, solver.trajectory, self.batch)

    def run(self) -> Solution:
        solver, last = self.solver, self.solver.max_iter - 1
        step = solver.step(self.x, None)
        fx = self.evaluation(self._argument())
        if step.compiled and not _compiled_step_can_serve(self.x, fx):
            step = solver.step(self.x, "torch")
        if step.compiled:
            self.x = self.x.contiguous()
            self.evaluation.plain = True
        # An f that answers in another type than it was asked in is taken at the precision of the arithmetic.
        f_dtype = self.dtype if fx.dtype == self.dtype else self.work
        cast = self.dtype != self.work and f_dtype == self.dtype
        value_dtype = f_dtype if solver.returns == "f" else self.work
        state = self.state = solver.state(self.x, value_dtype, f_dtype, step.compiled)
        ring = state.g_ring
        # Motion is judged after the step, which must then not see convergence in any residual.
        tol = -1.0 if self.motion is not None else self.tol
        stop = StopRule(tol, solver.stop != "absolute", solver.stop_scope == "batch")
        for i in range(solver.max_iter):
            if i > 0:
                fx = self.evaluation(self._argument())
            f = _flat(fx, f_dtype, step.compiled)
            self.evaluation.hold(fx, f, state.slots)
            value = f if solver.returns == "f" else self.x
            went_on = self.state.active if self.motion is not None else None
            x_next, given = step(self.state, self.x, f, value, stop, i < last, cast)
            if went_on is not None:
                self._stop_at_rest(fx, went_on)
            if self.history.wanted:
                self.history.append(self.state.measurements[:, LAST].to(self.work, copy=True), value)
            if solver.on_step is not None:
                solver.on_step(i + 1, self.state.measurements[:, LAST].to(self.work, copy=True), self.state.active)
            count = None if i == last else self.poll.count(self.state.active_flags, i)
            if i == last or count == 0:
                break
            assert x_next is not None
            self.x, self.given = x_next, given
            self._narrow(count)
        solution = self._solution("torch" if not step.compiled else None)
        if step.compiled and isinstance(ring, Tensor):
            del state, self.state
            buffer_reuse.release(ring)
        return solution

    def _argument(self) -> Tensor:
        """x in the dtype of f."""
        if self.given is not None:
            return self.given
        return self.x if self.dtype == self.work else self.x.to(self.dtype)

    def _stop_at_rest(self, fx: Tensor, went_on: Tensor) -> None:
        """Stops the samples whose points have come to rest. Their next x is written already: they are frozen there."""
        assert self.motion is not None
        state, solver = self.state, self.solver
        moved = self.motion.update(fx.detach().to(self.dtype).reshape(len(fx), *self.shape[1:]))
        self.moved = torch.where(went_on, moved, self.moved)
        rest = state.active & ((moved if solver.stop_scope == "sample" else moved.mean()) <= self.tol)
        # What has come to rest is the answer, even if an earlier point had the lower residual.
        slot = (state.steps - 1) % len(state.values)
        state.flags[:, STATUS].masked_fill_(rest, int(Status.CONVERGED))
        state.active_flags.masked_fill_(rest, 0)
        state.flags[:, BEST].masked_fill_(rest, slot)
        residual = state.measurements[:, RESIDUAL]
        residual.copy_(torch.where(rest, state.measurements[:, LAST], residual))

    def _narrow(self, count: int | None) -> None:
        """Lets stopped samples go if few are left. `count`: how many go on, None if that is not known."""
        if not self.solver.compact or count is None or count > self.solver.compact * len(self.x):
            return
        keep, stopped = self.batch.split(self.state.active_flags, count)
        self.batch.set_aside(keep, stopped, self._results())
        self.state = self.state.narrow(keep)
        self.x, self.moved = self.x[keep], self.moved[keep]
        self.given = None if self.given is None else self.given[keep]
        self.evaluation.narrow(keep)
        if self.motion is not None:
            self.motion.narrow(keep)

    def _results(self, backend: str | None = None) -> dict[str, Tensor]:
        """What is known of the samples still held, each `(b, ...)`."""
        state = self.state
        return {
            "value": best_so_far(state, backend),
            "residual": state.measurements[:, RESIDUAL].to(self.work, copy=True),
            "iterations": state.flags[:, ITERATIONS].clone(),
            "status": state.flags[:, STATUS].clone(),
            "motion": self.moved,
        }

    def _solution(self, backend: str | None) -> Solution:
        r = self.batch.join(self._results(backend))
        trace, trajectory = self.history.stacked(r["iterations"])
        return Solution(
            r["value"].to(self.dtype).reshape(self.shape),
            r["residual"],
            r["iterations"],
            r["status"],
            trace,
            None if trajectory is None else trajectory.to(self.dtype).reshape(-1, *self.shape),
            r["motion"] if self.motion is not None else None,
        )


def _flat(fx: Tensor, dtype: torch.dtype, compiled: bool) -> Tensor:
    """f `(b, D)`: for a kernel dense, of one dtype and without a graph."""
    if not compiled:
        return fx.flatten(1)
    return (fx.detach() if fx.dtype == dtype else fx.detach().to(dtype)).flatten(1).contiguous()


def _compiled_step_can_serve(start: Tensor, fx: Tensor) -> bool:
    """Not if something is differentiated or mapped by `torch.func`, compiled around the solve, or empty.

    What f holds on to may be differentiated or mapped even if the start is not: only its answer tells.
    """
    if torch.compiler.is_compiling() or 0 in start.shape or transformed(start) or transformed(fx):
        return False
    return not (start.requires_grad or (torch.is_grad_enabled() and fx.requires_grad))


def _check(solver: Solver, f: Map, z0: Tensor) -> None:
    if not isinstance(z0, Tensor):
        raise ArgumentError(f"z0 must be a tensor of shape (B, ...), got {type(z0).__name__}")
    if z0.ndim < 2 or not z0.is_floating_point():
        raise ArgumentError(
            f"z0 must be floating point of shape (B, ...) with at least two dimensions, got {z0.dtype} {tuple(z0.shape)}; "
            "add a batch dimension with z0[None]"
        )
    if solver.compact and not isinstance(f, Selectable):
        raise ArgumentError(
            f"compact={solver.compact} needs an f with a method select(rows), which a plain function has not; "
            "ldeq.solvers.Injected(cell, x) has one"
        )
