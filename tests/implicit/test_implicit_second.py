"""Second derivatives of the implicit gradient: Hessian-vector products and penalties, against unrolling and differences."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from saved_memory import Meter
from tanh_cell import N, TanhCell, injection, relative_error, start, unrolled_to_convergence
from torch import Tensor, nn
from torch.autograd import gradgradcheck
from torch.utils.checkpoint import checkpoint

from ldeq import DEQ
from ldeq.errors import LdeqError
from ldeq.solvers import Anderson, FixedPoint

EXACT = Anderson(tol=1e-13, max_iter=100)
Output = Callable[[TanhCell, Tensor], Tensor]


def loss(z: Tensor) -> Tensor:
    return z.square().sum() + z.sin().sum()


def hessian_product(output: Output) -> list[Tensor]:
    """H v of the loss, by W, U, b and the injection, for one v."""
    cell, x = TanhCell(), injection().requires_grad_()
    inputs = (cell.w, cell.u, cell.b, x)
    first = torch.autograd.grad(loss(output(cell, x)), inputs, create_graph=True)
    generator = torch.Generator().manual_seed(3)
    v = [torch.randn(t.shape, generator=generator, dtype=t.dtype) for t in inputs]
    return list(torch.autograd.grad(sum((g * t).sum() for g, t in zip(first, v, strict=True)), inputs))


def layer(**options: Any) -> Output:
    return lambda cell, x: DEQ(cell, **({"solver": EXACT} | options))(start(), x)[0]


def in_two_tensors(cell: TanhCell, x: Tensor) -> Tensor:
    def split(z: Tensor) -> dict[str, Tensor]:
        return {"a": z[:, :5], "b": z[:, 5:].reshape(-1, N - 5, 1)}

    def evaluate(z: dict[str, Tensor], x: Tensor) -> dict[str, Tensor]:
        return split(cell(torch.cat((z["a"], z["b"].flatten(1)), 1), x))

    z, _ = DEQ(evaluate, EXACT, params=cell)(split(start()), x)
    return torch.cat((z["a"], z["b"].flatten(1)), 1)


class CheckpointedLayer(nn.Module):
    def __init__(self, cell: TanhCell) -> None:
        super().__init__()
        self.deq = DEQ(cell, EXACT)

    def forward(self, x: Tensor) -> Tensor:
        return self.deq(start(), x)[0]


LAYERS: dict[str, Output] = {
    "anderson": layer(),
    "fixed point": layer(solver=FixedPoint(tol=1e-14, max_iter=300)),
    "batch stop": layer(solver=Anderson(tol=1e-13, max_iter=100, stop_scope="batch")),
    "compact": layer(solver=Anderson(tol=1e-13, max_iter=100, compact=0.75)),
    "a dictionary as state": in_two_tensors,
    "an injection with a history": lambda cell, x: DEQ(lambda z, made: torch.tanh(z @ made["w"].T + made["term"]), EXACT)(
        start(), {"w": 1.0 * cell.w, "term": x @ cell.u.T + cell.b}
    )[0],
    "checkpointed": lambda cell, x: checkpoint(CheckpointedLayer(cell), x, use_reentrant=False),
}


@pytest.mark.parametrize("name", LAYERS)
def test_a_hessian_vector_product_is_that_of_the_unrolled_cell(name: str) -> None:
    """u and z* depend on the weights, too: without that, second derivatives were an error, and before that a wrong number."""
    expected = hessian_product(unrolled_to_convergence)
    for got, want in zip(hessian_product(LAYERS[name]), expected, strict=True):
        assert relative_error(got, want) < 1e-9


def test_second_derivatives_are_those_of_differences() -> None:
    cell = TanhCell()
    deq = DEQ(lambda z, x: torch.tanh(z @ x["w"].T + x["x"]), Anderson(tol=1e-14, max_iter=80))

    def solve(w: Tensor, x: Tensor) -> Tensor:
        return deq(torch.zeros(2, N, dtype=torch.float64), {"w": w, "x": x})[0][:, :4]

    w, x = cell.w.detach().requires_grad_(), (injection(2) @ cell.u.T).detach().requires_grad_()
    assert gradgradcheck(solve, (w, x))


def test_a_gradient_penalty_trains_with_the_loss_in_one_backward() -> None:
    """loss + |dL/dx|^2: the penalty's graph and the recorded evaluation are walked in one pass."""
    results = []
    for output in (unrolled_to_convergence, layer()):
        cell, x = TanhCell(), injection().requires_grad_()
        value = loss(output(cell, x))
        (first,) = torch.autograd.grad(value, x, create_graph=True)
        (value + 0.1 * first.square().sum()).backward()
        results.append([cell.w.grad, cell.u.grad, cell.b.grad, x.grad])
    for got, want in zip(results[1], results[0], strict=True):
        assert got is not None
        assert want is not None
        assert relative_error(got, want) < 1e-9


def test_a_bilevel_problem_gets_the_gradient_of_its_outer_loss() -> None:
    """One gradient step on the weights inside, the outer loss after it: hyperparameters and meta-learning."""
    results = []
    for output in (unrolled_to_convergence, layer()):
        cell, x = TanhCell(norm=0.5), injection().requires_grad_()
        (first,) = torch.autograd.grad(loss(output(cell, x)), cell.w, create_graph=True)
        moved = {"w": cell.w - 0.01 * first}
        if output is unrolled_to_convergence:
            z = start()
            for _ in range(200):
                z = torch.func.functional_call(cell, moved, (z, x))
        else:
            z = torch.func.functional_call(DEQ(cell, EXACT), {"cell.w": moved["w"]}, (start(), x))[0]
        results.append(torch.autograd.grad(z.square().sum(), (cell.w, cell.u, x)))
    for got, want in zip(results[1], results[0], strict=True):
        assert relative_error(got, want) < 1e-9


def test_both_backward_solves_are_told() -> None:
    cell, x = TanhCell(), injection().requires_grad_()
    z, sol = DEQ(cell, Anderson(tol=1e-8))(start(), x)
    (first,) = torch.autograd.grad(loss(z), x, create_graph=True)
    assert sol.adjoint is not None
    assert sol.adjoint.converged.all()
    assert sol.adjoint.adjoint is None
    adjoint = sol.adjoint
    first.square().sum().backward()
    assert adjoint.adjoint is not None
    assert adjoint.adjoint.converged.all()


def saved_for_a_penalty(gradient: str, max_iter: int) -> int:
    """Bytes that the first derivative keeps for the second one, and the layer for the first."""
    cell, x = TanhCell(), injection(64).requires_grad_()
    meter = Meter()
    with torch.autograd.graph.saved_tensors_hooks(meter.pack, meter.unpack):
        z, _ = DEQ(cell, FixedPoint(tol=0.0, max_iter=max_iter), gradient=gradient)(torch.zeros(64, N, dtype=x.dtype), x)
        (first,) = torch.autograd.grad(loss(z), x, create_graph=True)
        first.square().sum().backward()
    return meter.peak


def test_memory_of_a_second_derivative_does_not_grow_with_the_budget() -> None:
    """The comparison with unrolling shows that the meter would notice."""
    four, many = saved_for_a_penalty("implicit", 4), saved_for_a_penalty("implicit", 64)
    assert many <= 1.02 * four
    assert saved_for_a_penalty("unrolled", 64) > 5 * saved_for_a_penalty("unrolled", 4)


def test_dropout_and_autocast_are_those_of_the_forward_pass() -> None:
    """The evaluation is made again in backward: another mask or precision would be another function."""

    class Dropping(TanhCell):
        def forward(self, z: Tensor, x: Tensor) -> Tensor:
            return super().forward(z, nn.functional.dropout(x, 0.5, self.training))

    found = []
    for create_graph in (False, True):
        torch.manual_seed(0)
        cell, x = Dropping(), injection().requires_grad_()
        z, _ = DEQ(cell, FixedPoint(max_iter=4, tol=0.0))(start(), x)
        torch.manual_seed(1)
        found.append(torch.autograd.grad(loss(z), x, create_graph=create_graph)[0])
        drawn = torch.rand(1)
        torch.manual_seed(1)
        assert torch.equal(drawn, torch.rand(1))
    assert torch.equal(found[0] == 0, found[1] == 0)
    assert (found[0] == 0).any()
    half, wanted = TanhCell(torch.float32), injection(dtype=torch.float32).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        z, _ = DEQ(half, FixedPoint(max_iter=4, tol=0.0))(start(dtype=torch.float32), wanted)
    plain, with_graph = (
        torch.autograd.grad(z.float().sum(), wanted, create_graph=c, retain_graph=True)[0] for c in (False, True)
    )
    torch.testing.assert_close(with_graph, plain, rtol=0, atol=0.02)


# --- refused, not wrong ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [1, 3])
def test_jacobian_free_gradients_refuse_a_second_derivative(steps: int) -> None:
    """Their evaluation knows nothing of how z* moves: the second derivative was a number without a meaning."""
    cell, x = TanhCell(), injection().requires_grad_()
    z, _ = DEQ(cell, EXACT, gradient="jfb", phantom_steps=steps)(start(), x)
    (first,) = torch.autograd.grad(loss(z), x, create_graph=True)
    with pytest.raises(RuntimeError, match=r"second derivative .*gradient='jfb'.*use gradient='implicit'") as caught:
        first.square().sum().backward()
    assert isinstance(caught.value, LdeqError)


def test_a_third_derivative_is_refused() -> None:
    cell, x = TanhCell(), injection().requires_grad_()
    (first,) = torch.autograd.grad(loss(layer()(cell, x)), x, create_graph=True)
    (second,) = torch.autograd.grad(first.square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="third derivative"):
        second.square().sum().backward()


def test_a_tensor_that_the_layer_does_not_know_is_named_and_not_left_out() -> None:
    cell, x = TanhCell(), injection().requires_grad_()
    for deq in (DEQ(lambda z, x: cell(z, x), EXACT, params=()), DEQ(Hiding(cell), EXACT)):
        z, _ = deq(start(), x)
        with pytest.raises(RuntimeError, match=r"uses a tensor of shape .*DEQ\(params=\.\.\.\)"):
            torch.autograd.grad(loss(z), x, create_graph=True)
    z, _ = DEQ(lambda z, x: cell(z, x), EXACT, params=cell)(start(), x)
    torch.autograd.grad(loss(z), x, create_graph=True)


class Hiding(nn.Module):
    def __init__(self, cell: TanhCell) -> None:
        super().__init__()
        self.hidden = [cell]

    def forward(self, z: Tensor, x: Tensor) -> Tensor:
        return self.hidden[0](z, x)


def test_an_input_of_the_injection_is_not_counted_twice() -> None:
    """The weight reaches the cell as itself and through x: the way through x belongs to autograd."""
    results = []
    for second in (False, True):
        cell = TanhCell()
        deq = DEQ(lambda z, x, cell=cell: cell(z, injection()) + 0.1 * x, EXACT, params=cell)
        z, _ = deq(start(), torch.tanh(cell.b).expand(4, N))
        results.append(torch.autograd.grad(loss(z), cell.b, create_graph=second)[0])
    torch.testing.assert_close(results[1], results[0], rtol=1e-9, atol=0)
