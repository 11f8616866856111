r"""The deep equilibrium layer: a forward solve, and three ways to its gradient.

With z* = f(z*, x) and a loss L, the implicit function theorem gives (Bai, Kolter and Koltun 2019, theorem 1)

$$ dL/d\theta = u^T \, \partial f / \partial \theta, \quad u = J^T u + dL/dz, \quad J = \partial f / \partial z, $$

so training memory holds one evaluation of f, however many the solve took.

How a gradient flows here: the solve runs without a graph; one tracked evaluation z = f(z*, x) follows; a node behind it
replaces the incoming dL/dz by u, and autograd then goes on through that one evaluation. The node refers to the graph
upstream of itself and nothing refers back to it, so a graph whose backward never runs is freed like any other (a hook on z
that closes over z would keep it for ever).
"""

from __future__ import annotations

from collections.abc import Callable
from contextvars import copy_context
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.autograd.graph import GradientEdge, get_gradient_edge

from .solvers import Solution, Status, fixed_point
from .solvers.solution import check_choice

Cell = Callable[[Tensor, Any], Tensor]
Solver = Callable[..., Solution]

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
    ) -> None:
        """
        Args:
            cell: maps the state `(B, ...)` and the injection x to a new state of the same shape; a module or a function.
                x is a tensor or any structure of tensors.
            solver: ``solver(f, z0) -> Solution``; set its options with `functools.partial`.
            gradient: ``"implicit"``, by the backward solve; ``"jfb"``, Jacobian-free (Fung et al. 2022): the last
                `phantom_steps` evaluations are differentiated and nothing else; ``"unrolled"``, through every step of
                the solver.
            backward_solver: solver of u = J^T u + dL/dz, from zeros; the forward one if None. The first evaluation at
                zeros is dL/dz itself and costs nothing. Its stop should be relative: gradients have no scale of their own.
                It should return f: where J expands, the best x is the start, a gradient of zero, and the best f is dL/dz.
            phantom_steps: tracked evaluations at the end for ``"jfb"``, >= 1 (phantom gradients, Geng et al. 2021).
            final_evaluation: evaluate the cell once more at the solution (`phantom_steps` times for ``"jfb"``) when autograd
                does not record, so that training and inference give the same numbers. Off saves that evaluation.

        Raises:
            ValueError: for an unknown `gradient` or `phantom_steps` below 1.
        """
        super().__init__()
        check_choice("gradient", gradient, GRADIENTS)
        if phantom_steps < 1:
            raise ValueError(f"phantom_steps must be >= 1, got {phantom_steps}")
        self.cell = cell
        self.solver = solver
        self.gradient = gradient
        self.backward_solver = backward_solver
        self.phantom_steps = phantom_steps
        self.final_evaluation = final_evaluation

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
        if self.gradient == "unrolled":
            sol = self._solve(z0, x, max_iter)
            return (self.cell(sol.value, x) if self.final_evaluation else sol.value), sol

        with torch.no_grad():
            sol = self._solve(z0, x, max_iter)
        recording = torch.is_grad_enabled()
        if self.gradient == "jfb" or not recording:
            z = sol.value
            steps = self.phantom_steps if self.gradient == "jfb" else 1
            for _ in range(steps if recording or self.final_evaluation else 0):
                z = self.cell(z, x)
            return z, sol

        z_star = sol.value.detach().requires_grad_()
        z = self.cell(z_star, x)
        if not z.requires_grad:  # a cell that ignores its state, and nothing else to differentiate
            return z, sol
        adjoint = _AdjointSolve(z_star, get_gradient_edge(z), self.backward_solver or self.solver, sol)
        return _ReplaceGradient.apply(z, adjoint), sol

    def _solve(self, z0: Tensor, x: Any, max_iter: int | None) -> Solution:
        if max_iter == 0:
            batch, device = z0.shape[0], z0.device
            unknown = torch.full((batch,), torch.inf, device=device)
            status = torch.full((batch,), int(Status.MAX_ITER), device=device)
            return Solution(z0, unknown, torch.zeros(batch, dtype=torch.int64, device=device), status)
        options = {} if max_iter is None else {"max_iter": max_iter}
        return self.solver(lambda z: self.cell(z, x), z0, **options)


class _AdjointSolve:
    """Solves u = J^T u + dL/dz with the vector-Jacobian product of one recorded evaluation."""

    def __init__(self, z_star: Tensor, output: GradientEdge, solver: Solver, forward: Solution) -> None:
        self.z_star, self.output, self.solver, self.forward = z_star, output, solver, forward
        # Autograd runs a GPU's backward in a thread of its own, where the choice of `use_backend` would be lost.
        self.context = copy_context()

    def __call__(self, grad: Tensor) -> Tensor:
        return self.context.copy().run(self._solve, grad)

    def _solve(self, grad: Tensor) -> Tensor:
        at_start = True

        def f(u: Tensor) -> Tensor:
            nonlocal at_start
            if at_start:  # J^T 0 = 0: no product needed
                at_start = False
                return grad
            (product,) = torch.autograd.grad(self.output, self.z_star, u, retain_graph=True, allow_unused=True)
            return grad if product is None else product + grad

        sol = self.solver(f, torch.zeros_like(grad))
        self.forward.adjoint = replace(sol, value=sol.value.new_empty(0))
        # A NaN or infinite dL/dz goes on as it is: zeros in its place would hide an overflow from a gradient scaler.
        lost = (sol.status == Status.NONFINITE) & (sol.iterations == 1)
        return torch.where(lost.reshape(-1, *[1] * (grad.ndim - 1)), grad, sol.value)


class _ReplaceGradient(torch.autograd.Function):
    """Identity forward; backward hands the gradient to an `_AdjointSolve` and passes on its answer."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, adjoint: _AdjointSolve) -> Tensor:
        ctx.adjoint = adjoint
        return z.view_as(z)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return ctx.adjoint(grad), None
