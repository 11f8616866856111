"""The backward solve of the implicit layer, u = J^T u + dL/dz, and the node of the graph that runs it."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import copy_context
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge

from ..solvers import Solution, Status

Solver = Callable[..., Solution]
PullBack = Callable[[Tensor], Tensor | None]
"""u to J^T u, each `(B, ...)`; None for zero."""


class AdjointSolve:
    """Solves u = J^T u + dL/dz with the vector-Jacobian product of one recorded evaluation."""

    def __init__(self, z_star: Tensor, pull_back: PullBack, solver: Solver) -> None:
        self.z_star, self.pull_back, self.solver = z_star, pull_back, solver
        # Autograd runs a GPU's backward in a thread of its own, where the choice of `use_backend` would be lost.
        self.context = copy_context()

    def __call__(self, grad: Tensor) -> tuple[Tensor, Solution]:
        """u `(B, ...)`, and the solution that it came from."""
        return self.context.copy().run(self._solve, grad)

    def _solve(self, grad: Tensor) -> tuple[Tensor, Solution]:
        sol = self.solver(_Product(self.z_star, self.pull_back, grad), torch.zeros_like(grad))
        # A NaN or infinite dL/dz goes on as it is: zeros in its place would hide an overflow from a gradient scaler.
        lost = (sol.status == Status.NONFINITE) & (sol.iterations == 1)
        return torch.where(lost.reshape(-1, *[1] * (grad.ndim - 1)), grad, sol.value), sol


class _Product:
    """u -> J^T u + dL/dz, of all samples or of some."""

    def __init__(self, z_star: Tensor, pull_back: PullBack, grad: Tensor, rows: Tensor | None = None) -> None:
        self.z_star, self.pull_back, self.grad, self.rows = z_star, pull_back, grad, rows
        self.at_start = rows is None

    def __call__(self, u: Tensor) -> Tensor:
        if self.at_start:  # J^T 0 = 0: no product needed
            self.at_start = False
            return self.grad
        if self.rows is not None:
            # What was recorded is one evaluation of the whole batch; other samples than these are given nothing to pull back.
            u = u.new_zeros(self.z_star.shape).index_copy(0, self.rows, u)
        product = self.pull_back(u)
        if product is None:
            return self.grad
        return self.grad + (product if self.rows is None else product[self.rows])

    def select(self, rows: Tensor) -> _Product:
        whole = rows if self.rows is None else self.rows[rows]
        return _Product(self.z_star, self.pull_back, self.grad[rows], whole)


def pull_back_through(output: GradientEdge, z_star: Tensor, u: Tensor) -> Tensor | None:
    """J^T u of the evaluation recorded behind `output`, None where it does not depend on z_star."""
    return torch.autograd.grad(output, z_star, u, retain_graph=True, allow_unused=True)[0]


class ReplaceGradient(torch.autograd.Function):
    """Identity forward; backward hands the gradient to an `AdjointSolve` and passes on its answer."""

    @staticmethod
    def forward(z: Tensor, adjoint: AdjointSolve, forward: Solution) -> Tensor:
        return z.view_as(z)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, AdjointSolve, Solution], output: Tensor) -> None:
        z, ctx.adjoint, ctx.forward_solution = inputs
        ctx.save_for_backward(z)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        with torch.no_grad():
            u, solution = ctx.adjoint(grad)
        ctx.forward_solution.adjoint = replace(solution, value=solution.value.new_empty(0))
        if torch.is_grad_enabled():  # create_graph=True
            u = _FirstDerivative.apply(u, *ctx.saved_tensors)
        return u, None, None


class _FirstDerivative(torch.autograd.Function):
    """Identity on u; an error when differentiated.

    It takes the z that u belongs to as well: whatever a second derivative is asked for lies upstream of that z, so that every
    way there comes through here. (`once_differentiable` alone is passed by: u has no graph, and autograd then goes on as if u
    were a constant.)
    """

    @staticmethod
    def forward(u: Tensor, z: Tensor) -> Tensor:
        return u.view_as(u)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        raise RuntimeError(
            "a second derivative was asked for through DEQ(gradient='implicit'), which has a first one only; use "
            "gradient='unrolled'"
        )
