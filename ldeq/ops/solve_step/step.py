r"""One step of a fixed-point solve: it takes in an evaluation f = f(x) of the whole batch and gives the next x.

Each sample on its own, a step

- **measures** g = f - x, ||g||, ||f|| and, for Anderson mixing, one row of the Gram matrix G G^T (products in float32, added up
  in float64);
- **decides** whether the sample goes on, its status, whether this is its best point so far and, for Anderson mixing, the
  weights alpha, with the safeguards;
- moves: Anderson **mixes**, x_next = sum alpha_i (f_i - (1 - beta) g_i); the fixed-point step is x_next = x + beta g. A sample
  that has stopped stays at x. The fixed-point step moves while it measures, and **undoes** the move of a sample that stops.

The formulas are those of `ldeq.solvers.anderson` and `ldeq.solvers.fixed_point`; the reference in plain PyTorch is
`ldeq.ops.solve_step.reference`. Bytes of the compiled steps, in units of D, the numbers of one sample: Anderson reads f, x and
the n - 1 older g and writes g, then reads n f and writes x_next: 15 D at n = 6. A fixed-point step takes 3 D, and 2 D if x_next
is not wanted. The rings of f keep references to what f returned and copy nothing; the best value is copied only if its slot is
needed for a worse one.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from ..dispatch import implementation
from .reference import anderson_step_reference, fixed_point_step_reference
from .state import SolveState, StopRule


class Next(NamedTuple):
    """Where f is evaluated next, `(B, D)`: `x` in the precision of the arithmetic, None after the last evaluation; `cast`, the
    same in the dtype of f, if that was asked for and the step writes it along."""

    x: Tensor | None
    cast: Tensor | None


class Step(Protocol):
    """A step of one method on one backend, with the options of the method."""

    compiled: bool
    """Whether a kernel runs, which writes into the state's own memory."""

    def __call__(
        self, state: SolveState, x: Tensor, f: Tensor, value: Tensor, stop: StopRule, advance: bool, cast: bool
    ) -> Next:
        """Takes in f = f(x).

        Args:
            state: of the solve; changed. It keeps references to f and to value.
            x: `(B, D)`, float64 for float64 states, else float32.
            f: `(B, D)`, float32, float64, bfloat16 or float16.
            value: what the solve would return here, f or x.
            stop: when a sample stops.
            advance: whether the next x is wanted.
            cast: whether it is wanted in the dtype of f, too.

        Raises:
            RuntimeError: for shapes, dtypes or devices that do not fit together, naming the argument.
        """
        ...


class AndersonStep:
    """The step of Anderson mixing on the backend that serves a tensor.

    Args:
        like: the start of the solve, whose device and dtype choose the backend.
        beta, ridge, safeguards, history_dtype: as in `ldeq.solvers.Anderson`.
        backend: overrides `use_backend`.

    Raises:
        BackendError: if a backend was asked for by name and does not serve `like`.
    """

    def __init__(
        self,
        like: Tensor,
        *,
        beta: float = 1.0,
        ridge: float = 0.0,
        safeguards: bool = True,
        history_dtype: torch.dtype | None = None,
        backend: str | None = None,
    ) -> None:
        self.beta, self.ridge, self.safeguards, self.history_dtype = float(beta), float(ridge), safeguards, history_dtype
        self._run = implementation("anderson_step", like, backend)
        self.compiled = self._run is not anderson_step_reference

    def __call__(
        self, state: SolveState, x: Tensor, f: Tensor, value: Tensor, stop: StopRule, advance: bool, cast: bool
    ) -> Next:
        slot, evicted = state.push(f, value)
        options = self.beta, self.ridge
        if not self.compiled:
            return Next(self._run(state, x, slot, evicted, stop, advance, *options, self.safeguards, self.history_dtype), None)
        x_next, x_cast = _memory(x, f, advance, cast)
        self._run(
            x, state.f_ring, evicted, state.g_ring, state.gram, state.measurements, state.flags, state.saved_best,
            x_next, x_cast, slot, *options, stop.tol, stop.relative, stop.batch, self.safeguards,
        )  # fmt: skip
        return Next(x_next, x_cast)


class FixedPointStep:
    """The (damped) fixed-point step on the backend that serves a tensor; arguments as in `AndersonStep`."""

    def __init__(self, like: Tensor, *, beta: float = 1.0, backend: str | None = None) -> None:
        self.beta = float(beta)
        self._run = implementation("fixed_point_step", like, backend)
        self.compiled = self._run is not fixed_point_step_reference
        # On a CPU, asking whether every sample is still active is free. The next x is then f itself, and a third of the bytes
        # need not be moved. On a GPU the question would synchronise, so there x_next is always written.
        self._takes_over_f = beta == 1.0 and like.device.type == "cpu"

    def __call__(
        self, state: SolveState, x: Tensor, f: Tensor, value: Tensor, stop: StopRule, advance: bool, cast: bool
    ) -> Next:
        slot, evicted = state.push(f, value)
        if not self.compiled:
            return Next(self._run(state, x, slot, evicted, stop, advance, self.beta), None)
        take_over = advance and self._takes_over_f and f.dtype == x.dtype
        x_next, x_cast = _memory(x, f, advance and not take_over, cast)
        self._run(
            x, f, evicted, state.measurements, state.flags, state.saved_best, x_next, x_cast,
            slot, self.beta, stop.tol, stop.relative, stop.batch,
        )  # fmt: skip
        if take_over:
            # Once a sample has stopped it stays so, and the step writes x_next from then on.
            self._takes_over_f = all(state.active_flags.tolist())
            x_next = f if self._takes_over_f else torch.where(state.active.unsqueeze(1), f, x)
        return Next(x_next, x_cast)


def best_so_far(state: SolveState, backend: str | None = None) -> Tensor:
    """`(B, D)`: the value at each sample's lowest residual, or the start if no evaluation was finite."""
    return implementation("best_so_far", state.start, backend)(state.values, state.saved_best, state.start, state.flags)


def _memory(x: Tensor, f: Tensor, advance: bool, cast: bool) -> tuple[Tensor | None, Tensor | None]:
    if not advance:
        return None, None
    return torch.empty_like(x), torch.empty_like(f) if cast else None
