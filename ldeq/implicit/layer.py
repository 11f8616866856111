r"""The deep equilibrium layer: a forward solve, and three ways to its gradient.

With z* = f(z*, x) and a loss L, the implicit function theorem gives (Bai, Kolter and Koltun 2019, theorem 1)

$$ dL/d\theta = u^T \, \partial f / \partial \theta, \quad u = J^T u + dL/dz, \quad J = \partial f / \partial z, $$

so training memory holds one evaluation of f, however many the solve took.

How a gradient flows here: the solve runs without a graph; one tracked evaluation z = f(z*, x) follows; a node behind it
replaces the incoming dL/dz by u, and autograd then goes on through that one evaluation. The node refers to the graph
upstream of itself and nothing refers back to it, so a graph whose backward never runs is freed like any other (a hook on z
that closes over z would keep it for ever).

What comes out is a first derivative. To differentiate it again would take the dependence of u and of z* on everything else,
which the one recorded evaluation does not hold; that is an error and not a wrong number.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import get_gradient_edge

from ..ops import use_backend
from ..solvers import Injected, Solution, Status, as_solver, fixed_point
from ..solvers.solver import check_choice
from .adjoint import AdjointSolve, ReplaceGradient, Solver, pull_back_through
from .graphs import SolveGraphs, under_transform

Cell = Callable[[Tensor, Any], Tensor]

GRADIENTS = ("implicit", "jfb", "unrolled")


class DEQ(nn.Module):
    """Solves z = cell(z, x) and differentiates the solution.

    ```python
    deq = DEQ(cell, solver=partial(anderson, m=6, max_iter=5), gradient="implicit")
    z, sol = deq(torch.zeros(4, 98, 64, 64), x)
    ```

    The result does not depend on `training`: gradients flow whenever autograd records, in eval mode too.
    """

    def __init__(
        self,
        cell: Cell,
        solver: Solver = fixed_point,
        *,
        gradient: str = "implicit",
        backward_solver: Solver | None = None,
        phantom_steps: int = 1,
        final_evaluation: bool = True,
        cuda_graphs: bool = False,
    ) -> None:
        """
        Args:
            cell: maps the state `(B, ...)` and the injection x to a new state of the same shape; a module or a function.
                x is a tensor or any structure of tensors.
            solver: ``solver(f, z0) -> Solution``; set its options with `functools.partial`. Its f can be narrowed to some
                samples (`compact`) if x can, see `Injected`.
            gradient: ``"implicit"``, by the backward solve, for first derivatives alone; ``"jfb"``, Jacobian-free (Fung et al.
                2022): the last `phantom_steps` evaluations are differentiated and nothing else; ``"unrolled"``, through every
                step of the solver.
            backward_solver: solver of u = J^T u + dL/dz, from zeros; the forward one if None. The first evaluation at
                zeros is dL/dz itself and costs nothing. Its stop should be relative: gradients have no scale of their own.
                It returns f, whatever a partial says of `returns`: where J expands, the best x can be the start, a gradient
                of zero. With `compact`, the solver's own work shrinks, but not the vector-Jacobian
                product: it is that of one recorded evaluation of the whole batch.
            phantom_steps: tracked evaluations at the end for ``"jfb"``, >= 1 (phantom gradients, Geng et al. 2021).
            final_evaluation: evaluate the cell once more at the solution (`phantom_steps` times for ``"jfb"``) when autograd
                does not record, so that training and inference give the same numbers. Off saves that evaluation.
            cuda_graphs: on a CUDA device, capture the forward solve and the backward solve, each whole, and replay them for
                later calls with the same shapes, dtypes and modes (up to 8 of them). Needs solvers with ``check_every=0`` and
                a cell that reads nothing but its parameters and buffers, z and x. Where a capture is impossible the solve
                runs as it would without, one warning says why, and so does ``deq.graphs.reason``.

        Raises:
            ValueError: for an unknown `gradient`, `phantom_steps` below 1, or a backward solve with ``stop="motion"``.
        """
        super().__init__()
        check_choice("gradient", gradient, GRADIENTS)
        if phantom_steps < 1:
            raise ValueError(f"phantom_steps must be >= 1, got {phantom_steps}")
        self.cell = cell
        # Options out of range are told here and not at the first call.
        self.solver = as_solver(solver) or solver
        self.gradient = gradient
        self.backward_solver = as_solver(backward_solver or solver) or backward_solver or solver
        if gradient == "implicit":
            self.backward_solver = _backward_solver(self.backward_solver)
        self.phantom_steps = phantom_steps
        self.final_evaluation = final_evaluation
        self.graphs = SolveGraphs() if cuda_graphs else None

    def forward(self, z0: Tensor, x: Any, max_iter: int | None = None) -> tuple[Tensor, Solution]:
        """
        Args:
            z0: `(B, ...)`, the start. It receives a gradient from ``"unrolled"`` alone: the fixed point does not depend on it.
            x: the injection, handed to the cell as it is.
            max_iter: the forward solver's budget in this call, in place of its own. 0 takes z0 as the solution: what is left
                is the final evaluation.

        Returns:
            the state `(B, ...)` and the forward `Solution`, whose `adjoint` is filled once backward has run.
        """
        if z0.is_inference() and torch.is_grad_enabled():
            z0 = z0.clone()  # autograd may not keep a tensor made in inference mode
        if self.gradient == "unrolled":
            sol = self._iterate(z0, x, max_iter)
            return (self.cell(sol.value, x) if self.final_evaluation else sol.value), sol
        if self.graphs is not None and not _recorded_elsewhere(z0):
            solvers = [self.solver]
            if torch.is_grad_enabled() and self.gradient == "implicit":
                solvers.append(self.backward_solver)
            solve = partial(self._solve, max_iter=max_iter)
            variant = (max_iter, self.gradient, self.phantom_steps, self.final_evaluation)
            replayed = self.graphs(solve, self.cell, solvers, z0, x, variant)
            if replayed is not None:
                return replayed
        z, sol, adjoint = self._solve(z0, x, max_iter)
        return (z if adjoint is None else ReplaceGradient.apply(z, adjoint, sol)), sol

    def _solve(self, z0: Tensor, x: Any, max_iter: int | None) -> tuple[Tensor, Solution, AdjointSolve | None]:
        """The solve without a graph, and the evaluations after it. An adjoint solve must then replace the gradient of z."""
        with torch.no_grad():
            sol = self._iterate(z0, x, max_iter)
        recording = torch.is_grad_enabled()
        if self.gradient == "jfb" or not recording:
            z = sol.value
            steps = self.phantom_steps if self.gradient == "jfb" else 1
            for _ in range(steps if recording or self.final_evaluation else 0):
                z = self.cell(z, x)
            return z, sol, None

        if under_transform():  # torch.func does not let a tensor be marked for autograd
            z_star = sol.value.detach()
            z, pull_back = torch.func.vjp(lambda z: self.cell(z, x), z_star)  # type: ignore[misc]
            with _plain_under_transform():
                return z, sol, AdjointSolve(z_star, lambda u: pull_back(u)[0], self.backward_solver)
        z_star = sol.value.detach().requires_grad_()
        z = self.cell(z_star, x)
        if not z.requires_grad:  # a cell that ignores its state, and nothing else to differentiate
            return z, sol, None
        return z, sol, AdjointSolve(z_star, partial(pull_back_through, get_gradient_edge(z), z_star), self.backward_solver)

    def _iterate(self, z0: Tensor, x: Any, max_iter: int | None) -> Solution:
        if max_iter == 0:
            batch, device = z0.shape[0], z0.device
            unknown = torch.full((batch,), torch.inf, device=device)
            status = torch.full((batch,), int(Status.MAX_ITER), device=device)
            return Solution(z0, unknown, torch.zeros(batch, dtype=torch.int64, device=device), status)
        options = {} if max_iter is None else {"max_iter": max_iter}
        with _plain_under_transform():
            return self.solver(Injected(self.cell, x), z0, **options)


def _plain_under_transform() -> AbstractContextManager[object]:
    """Solves in plain PyTorch inside of torch.func, whose tensors have no memory that a compiled step could be given."""
    return use_backend("torch") if under_transform() else nullcontext()


def _backward_solver(chosen: Solver) -> Solver:
    solver = as_solver(chosen)
    if solver is None:
        return chosen
    if solver.stop == "motion":
        raise ValueError(
            "backward_solver cannot have stop='motion', whose tolerance is in units of the forward state; give it "
            "stop='relative' and a tol of its own"
        )
    # As documented of `backward_solver`; and nothing could reach the trajectory.
    return replace(solver, returns="f", trajectory=False)


def _recorded_elsewhere(tensor: Tensor) -> bool:
    """Whether a graph or a compiler is at work that this layer is part of."""
    return torch.compiler.is_compiling() or (tensor.is_cuda and torch.cuda.is_current_stream_capturing())
