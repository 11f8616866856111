"""The backward solve of the implicit layer, u = J^T u + dL/dz, and the node of the graph that runs it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextvars import copy_context
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge, Node, get_gradient_edge

from ..errors import LdeqError
from ..solvers import Solution, Status
from .repeat import Repeatable

Solver = Callable[..., Solution]
PullBack = Callable[[Tensor], Tensor | None]
"""u to J^T u, each `(B, ...)`; None for zero."""


NO_SECOND = (
    "a second derivative was asked for through {}, which has a first one only; use gradient='implicit' or 'unrolled' with "
    "torch.autograd"
)


class DerivativeError(LdeqError, RuntimeError):
    """A derivative was asked for that the layer does not have."""


class AdjointSolve:
    """Solves u = J^T u + dL/dz with the vector-Jacobian product of one recorded evaluation."""

    def __init__(
        self,
        z_star: Tensor,
        pull_back: PullBack,
        solver: Solver,
        evaluation: Repeatable | None = None,
        checkpointed: bool = False,
    ) -> None:
        """
        Args:
            z_star: where the evaluation was recorded.
            pull_back: its vector-Jacobian product.
            solver: of u.
            evaluation: makes the evaluation again, for second derivatives; None if there are none.
            checkpointed: make it again for the first derivative as well. `torch.utils.checkpoint` around the layer would
                otherwise evaluate the layer once for each product: it computes what it did not keep once for each call of
                autograd.
        """
        self.z_star, self.pull_back, self.solver = z_star, pull_back, solver
        self.evaluation, self.checkpointed = evaluation, checkpointed
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

    def at_new_evaluation(self, inputs: Sequence[Tensor]) -> AdjointSolve:
        """This solve, with the products of an evaluation that is recorded now, from the saved `inputs`."""
        assert self.evaluation is not None
        with torch.enable_grad():
            z = self.z_star.detach().requires_grad_()
            f = self.evaluation(z, [t.detach() for t in inputs])
        return AdjointSolve(z, partial(pull_back_through, get_gradient_edge(f), z), self.solver)

    def with_graph(self, grad: Tensor, z: Tensor, *tensors: Tensor) -> tuple[tuple[Tensor | None, ...], Solution]:
        """Gradients of `tensors`, those of x and the parameters, that can be differentiated again; and the solution of u."""
        from .second import gradients_with_graph

        return self.context.copy().run(gradients_with_graph, self, grad, z, tensors)


def without_value(solution: Solution) -> Solution:
    return replace(solution, value=solution.value.new_empty(0))


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


def replace_gradient(z: Tensor, adjoint: AdjointSolve, solution: Solution) -> Tensor:
    """z `(B, ...)`, recorded, with the gradient that the adjoint solve gives; its solution becomes ``solution.adjoint``."""
    if adjoint.evaluation is None:
        return _ReplaceGradient.apply(z, adjoint, solution)
    return _ReplaceGradient.apply(z, adjoint, solution, *adjoint.evaluation.inputs, *adjoint.evaluation.parameters)


class _ReplaceGradient(torch.autograd.Function):
    """Identity forward; backward hands the gradient to an `AdjointSolve` and passes on its answer.

    The first derivative goes on through the recorded evaluation behind z. For a second one, the node gives the gradients of
    all inputs of that evaluation itself, with a graph; therefore it takes them: the tensors of x, then the parameters.
    """

    @staticmethod
    def forward(z: Tensor, adjoint: AdjointSolve, forward: Solution, *tensors: Tensor) -> Tensor:
        return z.view_as(z)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        z, ctx.adjoint, ctx.forward_solution, *_ = inputs
        evaluation = ctx.adjoint.evaluation
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*((z,) if evaluation is None else (output, *evaluation.forget())))

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None) -> tuple[Tensor | None, ...]:
        adjoint: AdjointSolve = ctx.adjoint
        nothing = (None,) * (len(ctx.needs_input_grad) - 1)
        if grad is None:
            return None, *nothing
        if torch.is_grad_enabled() and adjoint.evaluation is not None:  # create_graph=True
            z, *saved = ctx.saved_tensors
            gradients, solution = adjoint.with_graph(
                grad, z, *saved, *adjoint.evaluation.inputs, *adjoint.evaluation.parameters
            )
            ctx.forward_solution.adjoint = solution
            return (None, None, None, *gradients)
        with torch.no_grad():
            if adjoint.checkpointed:
                adjoint = adjoint.at_new_evaluation(ctx.saved_tensors[1:])
            u, solution = adjoint(grad)
        ctx.forward_solution.adjoint = without_value(solution)
        if torch.is_grad_enabled():
            u = refuse_derivative(u, ctx.saved_tensors[0], NO_SECOND.format("DEQ within torch.func"))
        return u, *nothing


def leaves_behind(output: Tensor, stop: Iterable[Node] = ()) -> Iterator[Tensor]:
    """The leaf tensors that a graph ends in, without those behind the nodes `stop`."""
    seen: set[Any] = set(stop)
    todo = [output.grad_fn]
    while todo:
        node = todo.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        variable = getattr(node, "variable", None)
        if isinstance(variable, Tensor):
            yield variable
        todo.extend(next_node for next_node, _ in node.next_functions)


def nodes_of(tensors: Iterable[Tensor]) -> list[Node]:
    return [get_gradient_edge(t).node for t in tensors]


def refuse_second_derivative(z: Tensor, name: str) -> Tensor:
    """z `(B, ...)`; a derivative of its gradient is an error that names the layer."""
    return _Refuse.apply(z, name) if z.requires_grad else z


class _Refuse(torch.autograd.Function):
    @staticmethod
    def forward(z: Tensor, name: str) -> Tensor:
        return z.view_as(z)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, str], output: Tensor) -> None:
        z, ctx.name = inputs
        ctx.save_for_backward(z)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        if torch.is_grad_enabled():  # create_graph=True
            grad = refuse_derivative(grad, ctx.saved_tensors[0], NO_SECOND.format(ctx.name))
        return grad, None


def refuse_derivative(u: Tensor, z: Tensor, message: str) -> Tensor:
    """u, a gradient that belongs to z; a derivative of it is an error.

    The node takes z as well: whatever a second derivative is asked for lies upstream of z, so that every way there comes
    through here. (`once_differentiable` alone is passed by: u has no graph, and autograd then goes on as if u were a constant.)
    """
    return _NoDerivative.apply(u, z, message)


class _NoDerivative(torch.autograd.Function):
    @staticmethod
    def forward(u: Tensor, z: Tensor, message: str) -> Tensor:
        return u.view_as(u)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, str], output: Tensor) -> None:
        ctx.message = inputs[2]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        raise DerivativeError(ctx.message)
