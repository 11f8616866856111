r"""One step of a fixed-point solve, fused: Anderson mixing or a damped step, with its stopping and its best-so-far.

The formulas are those of `ldeq.solvers.anderson` and `ldeq.solvers.fixed_point`, whose loops in plain PyTorch are the reference
and the differentiable path; these operators serve a solve that nothing differentiates. One call of `anderson_step` takes an
evaluation f = f(x) of the whole batch and does, for each sample on its own,

- g = f - x, ||g||, ||f||, and one row of the Gram matrix G G^T (products in float32, added up in float64);
- the decision whether the sample goes on, its status, and whether this is the best point so far;
- alpha from the regularised n x n system, with the safeguards;
- x_next = sum alpha_i (f_i - (1 - beta) g_i), or x again where the sample has stopped.

It reads f, x and the n - 1 older g and writes g; then reads n f and writes x_next: 15 D at n = 6. The ring of f keeps
references to what f returned and copies nothing. The best value is a slot of that ring until something worse takes the slot:
only then is it copied.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from . import library, scratch
from .backends import implementation, register, serves

# Columns of `SolveState.numbers` and of `SolveState.flags` (csrc/layout.h).
RESIDUAL, NORM, FIRST_NORM, LOWEST, LAST = range(5)
STATUS, ITERATIONS, ACTIVE, BEST, MIXED = range(5)
IN_START = -2


@dataclass
class SolveState:
    """Everything a fused solve carries from step to step, on the device.

    - `numbers`: `(B, 5)` float64: best residual, ||g|| there, the first ||g||, the history's lowest, the last residual.
    - `flags`: `(B, 5 + m)` int64: status, iterations, active, where the best value is, whether the last step mixed; then,
        for each slot, whether its pair takes part.
    - `gram`: `(B, m, m)` float64. - `g_ring`: `(m, B, D)`. - `kept`: `(B, D)`, best values that left the ring.
    - `f_ring`, `values`: the newest f by slot, and what the solve would return for each (f or x).
    """

    start: Tensor
    numbers: Tensor
    flags: Tensor
    gram: Tensor
    g_ring: Tensor
    kept: Tensor
    f_ring: list[Tensor] = field(default_factory=list)
    values: list[Tensor] = field(default_factory=list)
    steps: int = 0

    @classmethod
    def new(cls, start: Tensor, m: int, state: torch.dtype, history: torch.dtype | None) -> SolveState:
        """For a solve from `start` `(B, D)`, which has the dtype of the values it will return.

        Args:
            m: slots, 1 to 16; 0 for a fixed-point solve.
            state: dtype of f.
            history: dtype of the ring of g: None for that of the arithmetic, or bfloat16.
        """
        b, d = start.shape
        work = torch.promote_types(state, torch.float32)
        numbers = start.new_full((b, 5), math.inf, dtype=torch.float64)
        flags = start.new_zeros((b, 5 + m), dtype=torch.int64)
        flags[:, ACTIVE] = 1
        flags[:, BEST] = IN_START
        gram = start.new_zeros((b, m, m), dtype=torch.float64)
        return cls(start, numbers, flags, gram, scratch.take((m, b, d), history or work, start), torch.empty_like(start))

    def take(self, f: Tensor, value: Tensor, slots: int) -> tuple[int, Tensor | None]:
        """Puts f and its value into their slot; returns the slot and the value that left it."""
        slot, leaving = self.steps % slots, None
        if self.steps < slots:
            self.f_ring.append(f)
            self.values.append(value)
        else:
            leaving = self.values[slot]
            self.f_ring[slot], self.values[slot] = f, value
        self.steps += 1
        return slot, leaving

    def best(self) -> Tensor:
        """`(B, D)`, the value at each sample's lowest residual; the start where no evaluation was finite."""
        return implementation("best_so_far", self.start)(self.values, self.kept, self.start, self.flags)


@dataclass(frozen=True)
class StopRule:
    """When a sample stops: `tol`, a residual relative to ||f|| or not, and whether the batch's mean decides for all."""

    tol: float
    relative: bool
    batch: bool


def fused_solves(tensor: Tensor) -> bool:
    """Whether compiled steps serve a solve on `tensor` under the backend chosen now.

    Raises:
        BackendError: if a backend was asked for by name that does not serve it.
    """
    return serves("anderson_step", tensor)


def anderson_step(
    state: SolveState,
    x: Tensor,
    f: Tensor,
    value: Tensor,
    x_next: Tensor | None,
    x_cast: Tensor | None,
    *,
    stop: StopRule,
    beta: float = 1.0,
    ridge: float = 1e-8,
    safeguards: bool = True,
) -> None:
    """Takes in f = f(x) and writes the next iterate; see the module.

    Args:
        state: from `SolveState.new`, changed in place. It keeps a reference to f and to value.
        x: `(B, D)`, float64 for float64 states, else float32.
        f: `(B, D)`, float32, float64, bfloat16 or float16.
        value: what the solve would return here, f or x.
        x_next: `(B, D)` like x, written; None takes the norms only, after the last evaluation.
        x_cast: `(B, D)` like f, also written, or None.
        stop, beta, ridge, safeguards: as in the solver.

    Raises:
        RuntimeError: for shapes, dtypes or devices that do not fit together, naming the argument.
    """
    slot, leaving = state.take(f, value, state.g_ring.shape[0])
    implementation("anderson_step", x)(
        x,
        state.f_ring,
        leaving,
        state.g_ring,
        state.gram,
        state.numbers,
        state.flags,
        state.kept,
        x_next,
        x_cast,
        slot,
        beta,
        ridge,
        stop.tol,
        stop.relative,
        stop.batch,
        safeguards,
    )


def _register(suffix: str, *backends: str) -> None:
    """Enters the operators `<name><suffix>` as the steps of `backends`."""
    for name in ("anderson_step", "fixed_point_step", "best_so_far"):
        operator = getattr(torch.ops.ldeq, name + suffix)
        fake = (lambda *_: None) if "step" in name else (lambda ring, kept, start, flags: torch.empty_like(start))
        torch.library.register_fake(f"ldeq::{name}{suffix}")(fake)
        for backend in backends:
            register(name, backend)(operator)


if library.MISSING is None:
    _register("", "cpu", "cuda")
_register("_triton", "triton")
