r"""Second derivatives of the implicit layer, by a second adjoint solve.

The first derivative is $p = u^T f_\theta(z, \theta)$ with $z = f(z, \theta)$ and $u = J^T u + g$, $J = f_z$, $g = dL/dz$.
Here theta stands for the injection and the parameters. A change of theta moves p directly, through z and through u. For a
cotangent c of p, with $\phi = u^T f$ and subscripts for derivatives,

$$ q = f_\theta c, \quad w = J w + q, $$
$$ \bar\theta = \phi_{\theta\theta} c + \phi_{\theta z} w, \quad \bar z = \phi_{z\theta} c + \phi_{zz} w, \quad \bar g = w. $$

w is the second adjoint solve: u is a fixed point too, so its own gradient is an implicit one, with J in the place of J^T.
Autograd then goes on from $\bar z$ and $\bar g$: z is the layer's output, so its gradient is once more a backward solve.

All terms come from two products that are recorded when p is computed, $u^T f_\theta$ and $u^T f_z$. Memory holds one
evaluation of f and these two, however many the solves took.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import get_gradient_edge

from ..solvers import Solution
from .adjoint import (
    AdjointSolve,
    DerivativeError,
    leaves_behind,
    nodes_of,
    pull_back_through,
    refuse_derivative,
    without_value,
)

NO_THIRD = "a third derivative was asked for through DEQ(gradient='implicit'), which has two; use gradient='unrolled'"

Gradients = tuple[Tensor | None, ...]


def gradients_with_graph(
    adjoint: AdjointSolve, grad: Tensor, z: Tensor, tensors: Sequence[Tensor]
) -> tuple[Gradients, Solution]:
    """p for each of `tensors`, as functions of everything that they depend on.

    Args:
        adjoint: of a layer.
        grad: dL/dz `(B, ...)`.
        z: the layer's output `(B, ...)`.
        tensors: those of the layer's injection that require a gradient, then the parameters.

    Returns:
        the gradients, None for a tensor that f does not use; and the solution of u, whose `adjoint` is that of w, once a
        second derivative was taken.
    """
    local = _Local(adjoint, grad, z, tensors)
    given = iter(_Gradients.apply(local, grad, z, *tensors))
    return tuple(next(given) if used else None for used in local.used), local.solution


class _Local:
    """One evaluation of f at leaves of its own, u, and the two products with u, recorded."""

    def __init__(self, adjoint: AdjointSolve, grad: Tensor, z: Tensor, tensors: Sequence[Tensor]) -> None:
        evaluation = adjoint.evaluation
        assert evaluation is not None
        self.solver = adjoint.solver
        parameters = list(tensors[evaluation.count :])
        with torch.enable_grad():
            self.z = z.detach().requires_grad_()
            x = [t.detach().requires_grad_() for t in tensors[: evaluation.count]]
            f = evaluation(self.z, x)
            self.theta = [*x, *parameters]
            _refuse_unknown(f, [self.z, *self.theta])
            solve = AdjointSolve(self.z, partial(pull_back_through, get_gradient_edge(f), self.z), self.solver)
            with torch.no_grad():
                u, solution = solve(grad.detach())
            self.solution = without_value(solution)
            self.u = u.detach().requires_grad_()
            products = torch.autograd.grad(f, [self.z, *self.theta], self.u, create_graph=True, allow_unused=True)
        self.of_z, of_theta = products[0], products[1:]
        self.used = [t is not None for t in of_theta]
        self.of_theta = [t for t in of_theta if t is not None]

    def pull_back(self, cotangents: Sequence[Tensor | None]) -> tuple[Tensor, Gradients, Solution | None]:
        """w, the gradients of z and of theta, and the solution of w."""
        pairs = [(p, c) for p, c in zip(self.of_theta, cotangents, strict=True) if c is not None and p.requires_grad]
        q = _grad(pairs, [self.u])[0]
        w = torch.zeros_like(self.u) if q is None else q
        solution = None
        if self.of_z is not None and self.of_z.requires_grad:
            # The vector-Jacobian product of u -> J^T u is w -> J w.
            transposed = AdjointSolve(self.u, partial(pull_back_through, get_gradient_edge(self.of_z), self.u), self.solver)
            w, solution = transposed(w)
            pairs.append((self.of_z, w))
        return w, _grad(pairs, [self.z, *self.theta]), solution


def _grad(pairs: Sequence[tuple[Tensor, Tensor]], inputs: Sequence[Tensor]) -> Gradients:
    if not pairs:
        return (None,) * len(inputs)
    outputs, cotangents = zip(*pairs, strict=True)
    return torch.autograd.grad(outputs, inputs, cotangents, retain_graph=True, allow_unused=True)


class _Gradients(torch.autograd.Function):
    """(g, z, theta) to p; backward is the second adjoint solve."""

    @staticmethod
    def forward(ctx: Any, local: _Local, grad: Tensor, z: Tensor, *tensors: Tensor) -> Gradients:
        ctx.local = local
        ctx.save_for_backward(z)
        ctx.set_materialize_grads(False)
        return tuple(t.detach() for t in local.of_theta)

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor | None) -> tuple[Tensor | None, ...]:
        local: _Local = ctx.local
        with torch.no_grad():
            w, of_inputs, solution = local.pull_back(cotangents)
        local.solution.adjoint = None if solution is None else without_value(solution)
        results = (w, *of_inputs)
        if torch.is_grad_enabled():
            results = tuple(None if t is None else refuse_derivative(t, ctx.saved_tensors[0], NO_THIRD) for t in results)
        return None, *results


def _refuse_unknown(f: Tensor, known: Sequence[Tensor]) -> None:
    """
    Raises:
        DerivativeError: if f depends on a tensor whose gradient the layer cannot give, since nobody named it.
    """
    for leaf in leaves_behind(f, nodes_of(known)):
        raise DerivativeError(
            f"a second derivative was asked for through a DEQ whose cell uses a tensor of shape {tuple(leaf.shape)} that it "
            "does not know: give it in x, or name it in DEQ(params=...)"
        )
