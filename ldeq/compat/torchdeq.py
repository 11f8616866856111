"""ldeq's solvers inside torchdeq: after `register()`, ``get_deq(f_solver="ldeq_anderson", b_solver="ldeq_anderson")``.

A torchdeq solver is ``solver(func, x0, max_iter, tol, stop_mode, indexing, ...) -> (z, states, SolverStat)``. Its cores hand
over the first six, and `solver_kwargs` in the forward solve alone: the backward solve knows no m. Therefore `register` takes
the options of both. As in torchdeq, z is f at the lowest residual, per sample, and max_iter counts all evaluations.

What differs, on purpose:

- every sample stops on its own, at its own tolerance: its answer does not depend on who shares the batch;
- the ridge is relative to the residuals unless `lam` is given: an absolute one breaks the backward solve of a mean-reduced
    loss, whose residuals are small;
- the traces tell all evaluations, the two at the start included, and residuals are those of func whatever tau damps;
- a state that was asked for beyond the end of the solve is the final one, where torchdeq returns a shorter list (and then
    drops its last gradient, the implicit one);
- an option that the solver does not have is an error.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from .. import solvers
from ..errors import ArgumentError
from ..ops.solve_step import MAX_HISTORY
from ..solvers import Solution
from ..solvers.solver import check_choice
from ..spelling import did_you_mean

Result = tuple[Tensor, list[Tensor], Any]

STOPS = {"abs": "absolute", "rel": "relative"}

# torchdeq's residual before the first evaluation, and that of a sample that never had a finite one.
NO_RESIDUAL = 1e8

# Floor that torchdeq adds to ||f|| in its relative residual.
TINY = 1e-9


def register(*, m: int = 6, lam: float | None = None, tau: float = 1.0) -> None:
    """Makes ``"ldeq_anderson"`` and ``"ldeq_fixed_point"`` known to torchdeq, forward and backward.

    ```python
    ldeq.compat.torchdeq.register(m=8)
    deq = torchdeq.get_deq(f_solver="ldeq_anderson", b_solver="ldeq_anderson", ift=True)
    ```

    Calling it again replaces both. Other options for the backward solve: register a second name,
    ``torchdeq.solver.register_solver("backward", functools.partial(ldeq.compat.torchdeq.anderson, m=12))``.

    Args:
        m, lam, tau: as in `anderson`, for every solve that does not name its own.

    Raises:
        ImportError: where torchdeq is not installed.
        ValueError: for options out of range.
    """
    _check(m, lam, tau)
    try:
        from torchdeq.solver import register_solver
    except ImportError as error:
        raise ImportError("ldeq.compat.torchdeq needs torchdeq: pip install 'ldeq[torchdeq]'") from error
    register_solver("ldeq_anderson", partial(anderson, m=m, lam=lam, tau=tau))
    register_solver("ldeq_fixed_point", partial(fixed_point, tau=tau))


def anderson(
    func: Callable[[Tensor], Tensor],
    x0: Tensor,
    max_iter: int = 50,
    tol: float = 1e-3,
    stop_mode: str = "abs",
    indexing: Iterable[int] | None = None,
    *,
    m: int = 6,
    lam: float | None = None,
    tau: float = 1.0,
    return_final: bool = False,
    **unknown: object,
) -> Result:
    """`ldeq.solvers.anderson` as a solver of torchdeq.

    Args:
        func: maps a state to a state of the same shape, and returns a new tensor at each call: the history keeps references.
        x0: `(B, ...)`, or `(B,)` for B samples of one number, or a single number.
        max_iter: evaluations of func, all of them; 0 returns x0.
        tol: a sample stops at this residual.
        stop_mode: ``"abs"``, ||f(x) - x||, or ``"rel"``, that over ||f(x)||.
        indexing: numbers of evaluations, from 1, after which the best state so far is wanted. States before the last one cost
            memory: what func returned is kept up to the last of them.
        m: pairs kept, 1 to 16.
        lam: ridge. None is ldeq's relative one; a number is absolute, torchdeq's meaning (its default is 1e-4).
        tau: damping in (0, 1], `beta` of `ldeq.solvers.anderson`.
        return_final: run the whole budget and return the last f instead of the best.
        unknown: refused.

    Returns:
        the state like x0, without a graph; the states of `indexing`, in the order of their evaluations; and torchdeq's
        `SolverStat`: ``abs_lowest``, ``rel_lowest``, ``nstep`` `(B,)`, ``abs_trace``, ``rel_trace`` `(B, 1 + max_iter)`.
        Entry k of a trace is the residual of evaluation k, entry 0 is 1e8, and after a sample's stop stands its lowest.

    Raises:
        TypeError: for an unknown option, naming the nearest known one.
        ValueError: for arguments out of range, and for a func that changes the shape or fills one tensor again and again.
    """
    _refuse("ldeq_anderson", anderson, unknown)
    _check(m, lam, tau)
    solve = partial(solvers.anderson, m=m, beta=tau)
    if lam is not None:
        solve = partial(solve, ridge=-lam)
    return _solve(solve, func, x0, max_iter, tol, stop_mode, indexing, return_final)


def fixed_point(
    func: Callable[[Tensor], Tensor],
    x0: Tensor,
    max_iter: int = 50,
    tol: float = 1e-3,
    stop_mode: str = "abs",
    indexing: Iterable[int] | None = None,
    *,
    tau: float = 1.0,
    return_final: bool = False,
    **unknown: object,
) -> Result:
    """`ldeq.solvers.fixed_point` as a solver of torchdeq; arguments and returns as in `anderson`."""
    _refuse("ldeq_fixed_point", fixed_point, unknown)
    _check(1, None, tau)
    return _solve(partial(solvers.fixed_point, beta=tau), func, x0, max_iter, tol, stop_mode, indexing, return_final)


@torch.no_grad()  # torchdeq's solvers return no graph either: its cores attach the gradient behind them
def _solve(
    solve: Callable[..., Solution],
    func: Callable[[Tensor], Tensor],
    x0: Tensor,
    max_iter: int,
    tol: float,
    stop_mode: str,
    indexing: Iterable[int] | None,
    return_final: bool,
) -> Result:
    if not isinstance(x0, Tensor):
        raise TypeError(
            f"x0 must be a tensor, got {type(x0).__name__}; for a state of several tensors leave no_stat=False, so that "
            "torchdeq joins them"
        )
    check_choice("stop_mode", stop_mode, tuple(STOPS))
    wanted = sorted(indexing or ())
    start = x0 if x0.ndim >= 2 else x0.reshape(-1, 1)
    if max_iter == 0:
        nothing = start.new_empty(0, start.shape[0], dtype=torch.float32)
        stat = _statistics(nothing, nothing, nothing.new_zeros(start.shape[0]), stop_mode, 0, return_final)
        return x0.detach().clone(), [x0.detach().clone() for _ in wanted], stat
    if wanted and wanted[0] < 1:
        raise ArgumentError(f"indexing counts evaluations from 1, got {wanted[0]}")

    recorder = _Recorder(func, x0.shape, keep=max((k for k in wanted if k < max_iter), default=0))
    sol = solve(
        recorder, start.detach(), max_iter=max_iter, tol=0.0 if return_final else tol, stop=STOPS[stop_mode], trace=True
    )
    assert sol.trace is not None
    steps = len(sol.trace)
    value = (recorder.last.to(x0.dtype) if return_final else sol.value).reshape(x0.shape)

    inner = [k for k in wanted if k < steps]
    if return_final:
        states = [recorder.states[k - 1].to(x0.dtype).reshape(x0.shape) for k in inner]
    else:
        states = [state.reshape(x0.shape) for state in _best_after(inner, sol.trace, recorder.states, start)]
    states += [value] * (len(wanted) - len(inner))
    stat = _statistics(sol.trace, torch.stack(recorder.sizes[:steps]), sol.iterations, stop_mode, max_iter, return_final)
    return value, states, stat


class _Recorder:
    """func for a solver: keeps ||f|| of every evaluation, which gives the residual that the solver does not measure from
    the one that it does, the last f, and the first `keep` ones."""

    last: Tensor

    def __init__(self, func: Callable[[Tensor], Tensor], shape: torch.Size, keep: int) -> None:
        self.func, self.shape, self.keep = func, shape, keep
        self.sizes: list[Tensor] = []
        self.states: list[Tensor] = []

    def __call__(self, z: Tensor) -> Tensor:
        f = self.func(z.reshape(self.shape))
        if f.shape != self.shape:
            raise ArgumentError(f"func must keep the shape of its argument {tuple(self.shape)}, it returned {tuple(f.shape)}")
        self.last = f = f.reshape(z.shape)
        work = torch.promote_types(f.dtype, torch.float32)
        self.sizes.append(torch.linalg.vector_norm(f.flatten(1), dim=1, dtype=work))
        if len(self.states) < self.keep:
            self.states.append(f)
        return f


def _best_after(steps: list[int], trace: Tensor, states: list[Tensor], start: Tensor) -> list[Tensor]:
    """For each number of evaluations the state of lowest residual so far, per sample; the start where none was finite."""
    if not steps:
        return []
    measured = torch.where(trace.isfinite(), trace, math.inf)
    chosen = []
    for k in steps:
        low, at = measured[:k].min(dim=0)
        chosen.append(torch.where(low.isinf(), -1, at))
    return [
        torch.stack([start[b] if i < 0 else states[i][b].to(start.dtype) for b, i in enumerate(row)])
        for row in torch.stack(chosen).tolist()
    ]


def _statistics(
    trace: Tensor, sizes: Tensor, iterations: Tensor, stop_mode: str, max_iter: int, return_final: bool
) -> dict[str, Tensor]:
    """torchdeq's `SolverStat` from the residuals `(steps, B)` in the measure of the stop and ||f|| `(steps, B)`."""
    from torchdeq.solver.stat import SolverStat

    if stop_mode == "abs":
        measures = {"abs": trace, "rel": trace / (sizes + TINY)}
    else:
        # Where f is exactly zero its quotient says nothing about the numerator.
        measures = {"abs": torch.where(sizes > 0, trace * sizes, NO_RESIDUAL), "rel": trace}
    steps, batch = trace.shape
    number = torch.arange(1, steps + 1, device=trace.device).unsqueeze(1)
    stopped = torch.zeros_like(trace, dtype=torch.bool) if return_final else number > iterations
    entries: dict[str, Tensor] = {}
    for mode, residual in measures.items():
        first = residual.new_full((1, batch), NO_RESIDUAL)
        counted = residual.isfinite() & ~stopped
        low, at = torch.cat((first + math.inf, torch.where(counted, residual, math.inf))).min(dim=0)
        lowest = torch.where(low.isinf(), NO_RESIDUAL, low)
        if return_final and steps:
            lowest, at = residual[-1], torch.full_like(at, max_iter)
        padding = lowest.expand(max_iter - steps, batch)
        entries[f"{mode}_lowest"] = lowest
        entries[f"{mode}_trace"] = torch.cat((first, torch.where(stopped, lowest, residual), padding)).T
        if mode == stop_mode:
            entries["nstep"] = torch.where(low.isinf(), 0, at).to(torch.float32)
    return SolverStat(**entries)


def _check(m: int, lam: float | None, tau: float) -> None:
    if not 1 <= m <= MAX_HISTORY:
        raise ArgumentError(f"m must lie in 1..{MAX_HISTORY}, got {m}")
    if lam is not None and not 0 <= lam < math.inf:
        raise ArgumentError(f"lam must be None or a finite number >= 0, got {lam}")
    if not 0 < tau <= 1:
        raise ArgumentError(f"tau must lie in (0, 1], got {tau}")


def _refuse(solver: str, function: Callable[..., Result], unknown: dict[str, object]) -> None:
    if not unknown:
        return
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    known = [name for name, p in inspect.signature(function).parameters.items() if p.kind in kinds]
    name = next(iter(unknown))
    raise TypeError(f"{solver} has no option {name!r}{did_you_mean(name, known)}; it takes {', '.join(known)}")
