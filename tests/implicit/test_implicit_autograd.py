"""The implicit layer within autograd: modes, transforms, checkpoints, compilation, and what it leaves behind."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from tanh_cell import LOSSES, TanhCell, each_gradient, gradients, injection, relative_error, start, unrolled_to_convergence
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ldeq import DEQ
from ldeq.ops import current_backend, use_backend
from ldeq.solvers import SOLVERS, Solution, Status, anderson, fixed_point


@each_gradient
def test_gradients_exist_in_eval_mode_and_are_the_same(gradient: str) -> None:
    grads = []
    for training in (True, False):
        cell = TanhCell()
        deq = DEQ(cell, partial(anderson, tol=1e-8), gradient=gradient).train(training)
        deq(start(), injection())[0].sum().backward()
        assert cell.w.grad is not None
        grads.append(cell.w.grad)
    assert torch.equal(grads[0], grads[1])
    assert grads[0].norm() > 0


@each_gradient
def test_only_unrolling_gives_the_start_a_gradient(gradient: str) -> None:
    z0 = start().requires_grad_()
    z, _ = DEQ(TanhCell(), partial(fixed_point, max_iter=3), gradient=gradient)(z0, injection())
    z.sum().backward()
    assert (z0.grad is not None) == (gradient == "unrolled")
    if z0.grad is not None:
        assert z0.grad.norm() > 0


def test_backward_twice_adds_up() -> None:
    cell, x = TanhCell(), injection().requires_grad_()
    z, _ = DEQ(cell, partial(anderson, tol=1e-10))(start(), x)
    loss = z.square().sum()
    loss.backward(retain_graph=True)
    assert cell.w.grad is not None
    assert x.grad is not None
    first = cell.w.grad.clone(), x.grad.clone()
    loss.backward()
    torch.testing.assert_close(cell.w.grad, 2 * first[0], rtol=1e-14, atol=0)
    torch.testing.assert_close(x.grad, 2 * first[1], rtol=1e-14, atol=0)
    with pytest.raises(RuntimeError, match="second time"):
        loss.backward()


def test_the_adjoint_solution_is_filled_by_backward() -> None:
    z, sol = DEQ(TanhCell(), partial(anderson, tol=1e-8, trace=True))(start(), injection())
    assert sol.adjoint is None
    z.sum().backward()
    assert isinstance(sol.adjoint, Solution)
    assert sol.adjoint.converged.all()
    assert (sol.adjoint.residual <= 1e-8).all()
    assert sol.adjoint.trace is not None
    assert sol.adjoint.value.numel() == 0


@pytest.mark.parametrize("poison", [torch.nan, torch.inf])
def test_a_nan_gradient_is_handed_on_and_stays_in_its_sample(poison: float) -> None:
    """A solve that answers NaN with its start, zeros, would hide an overflow from a gradient scaler."""
    grads = []
    for value in (1.0, poison):
        cell, x = TanhCell(), injection().requires_grad_()
        z, sol = DEQ(cell, partial(anderson, tol=1e-10))(start(), x)
        incoming = torch.ones_like(z)
        incoming[1, 2] = value
        z.backward(incoming)
        assert cell.w.grad is not None
        assert x.grad is not None
        assert cell.w.grad.isfinite().all() == (value == 1.0)
        grads.append(x.grad)
    assert sol.adjoint is not None
    assert sol.adjoint.status.tolist() == [Status.CONVERGED, Status.NONFINITE, Status.CONVERGED, Status.CONVERGED]
    assert not grads[1][1].isfinite().all()
    keep = [0, 2, 3]
    assert torch.equal(grads[1][keep], grads[0][keep])


def test_a_second_derivative_through_an_unrolled_layer_is_right() -> None:
    results = []
    for output in (
        unrolled_to_convergence,
        lambda cell, x: DEQ(cell, partial(anderson, tol=1e-12, max_iter=40), gradient="unrolled")(start(), x)[0],
    ):
        cell, x = TanhCell(norm=0.5), injection().requires_grad_()
        (first,) = torch.autograd.grad(output(cell, x).square().sum(), x, create_graph=True)
        results.append(torch.autograd.grad(first.square().sum(), (cell.w, x)))
    for got, want in zip(results[1], results[0], strict=True):
        # Second derivatives of the mixing weights see the rounding of a solve that has converged.
        assert relative_error(got, want) < 1e-4


def test_a_sample_without_gradient_gets_zeros() -> None:
    """A loss that masks a sample hands zeros down: 0 / 0 in the relative residual."""
    cell, x = TanhCell(), injection().requires_grad_()
    z, sol = DEQ(cell, partial(anderson, tol=1e-10))(start(), x)
    z[1:].square().sum().backward()
    assert x.grad is not None
    assert (x.grad[0] == 0).all()
    assert x.grad[1:].norm() > 0
    assert sol.adjoint is not None
    assert sol.adjoint.converged.all()


# --- modes of autograd --------------------------------------------------------------------------------------------------


@each_gradient
@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("phantom_steps", [1, 3])
def test_inference_gives_the_numbers_of_training(gradient: str, solver: str, phantom_steps: int) -> None:
    # Far from converged: an evaluation more or less shows.
    deq = DEQ(TanhCell(), partial(SOLVERS[solver], max_iter=3), gradient=gradient, phantom_steps=phantom_steps)
    trained, _ = deq(start(), injection())
    assert trained.requires_grad
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            inferred, sol = deq(start(), injection())
        assert not inferred.requires_grad
        # Unrolling takes the loop in plain PyTorch, inference the compiled steps, which add up in another order.
        rounding = 8 * torch.finfo(torch.float64).eps if gradient == "unrolled" else 0.0
        torch.testing.assert_close(inferred, trained, rtol=0, atol=rounding)
        assert sol.iterations.tolist() == [3] * 4


@each_gradient
def test_the_final_evaluation_can_be_saved(gradient: str) -> None:
    calls = []
    cell = TanhCell()

    def counted(z: Tensor, x: Tensor) -> Tensor:
        calls.append(z)
        return cell(z, x)

    for final in (True, False):
        calls.clear()
        with torch.no_grad():
            z, sol = DEQ(counted, partial(fixed_point, max_iter=3, tol=0), gradient=gradient, final_evaluation=final)(
                start(), injection()
            )
        assert len(calls) == 3 + final
        assert torch.equal(z, cell(sol.value, injection()) if final else sol.value)


@each_gradient
@pytest.mark.parametrize("max_iter", [None, 0])
def test_a_start_made_in_inference_mode_can_be_trained_from(gradient: str, max_iter: int | None) -> None:
    """The carried state of a video, fed to a training step; without an iteration it is itself what the cell is given."""
    cell = TanhCell()
    deq = DEQ(cell, partial(anderson, tol=1e-8), gradient=gradient)
    with torch.inference_mode():
        z0, _ = deq(start(), injection())
    z, _ = deq(z0, injection(), max_iter)
    z.sum().backward()
    assert cell.w.grad is not None


def test_a_cell_with_no_parameters_can_be_differentiated() -> None:
    x = torch.zeros(2, 3, requires_grad=True)
    z, sol = DEQ(lambda z, x: torch.cos(z) + x, partial(anderson, tol=1e-8))(torch.zeros(2, 3), x)
    z.sum().backward()
    assert x.grad is not None
    assert sol.adjoint is not None
    assert sol.adjoint.converged.all()


def test_a_cell_that_ignores_its_state_gets_the_plain_gradient() -> None:
    w = torch.ones(3, requires_grad=True)
    z, _ = DEQ(lambda z, x: x * w, fixed_point)(torch.zeros(2, 3), 2 * torch.ones(2, 3))
    z.sum().backward()
    assert w.grad is not None
    assert w.grad.tolist() == [4.0, 4.0, 4.0]
    z, _ = DEQ(lambda z, x: 2 * x, fixed_point)(torch.zeros(2, 3), torch.ones(2, 3))
    assert not z.requires_grad


def test_an_injection_may_be_any_structure() -> None:
    x, scale = injection().requires_grad_(), torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    cell = TanhCell()
    z, _ = DEQ(lambda z, inputs: cell(z * inputs["scale"], inputs["x"]), partial(anderson, tol=1e-10))(
        start(), {"x": x, "scale": scale}
    )
    z.sum().backward()
    assert x.grad is not None
    assert scale.grad is not None


@each_gradient
def test_autocast_reaches_the_gradients_of_float32(gradient: str) -> None:
    results = []
    for enabled in (False, True):
        cell = TanhCell(torch.float32, norm=0.5)
        x = injection(dtype=torch.float32)
        deq = DEQ(cell, partial(anderson, tol=1e-3, max_iter=30), gradient=gradient)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            z, _ = deq(start(dtype=torch.float32), x)
        z.float().square().sum().backward()
        assert cell.w.grad is not None
        results.append((z.detach().float(), cell.w.grad))
    # bf16 has 8 bits (0.4 %); a product, a tanh and an amplification of 2 stand between the two.
    torch.testing.assert_close(results[1][0], results[0][0], rtol=0, atol=0.02)
    assert relative_error(results[1][1], results[0][1]) < 0.03


@pytest.mark.parametrize("where", ["inside the cell", "around the layer"])
def test_checkpointing_does_not_change_gradients(where: str) -> None:
    def with_checkpoint(cell: TanhCell, x: Tensor) -> Tensor:
        solver = partial(anderson, tol=1e-10)
        if where == "around the layer":
            deq = DEQ(cell, solver)
            return checkpoint(lambda x: deq(start(), x)[0], x, use_reentrant=False)
        return DEQ(lambda z, x: checkpoint(cell, z, x, use_reentrant=False), solver)(start(), x)[0]

    def without(cell: TanhCell, x: Tensor) -> Tensor:
        return DEQ(cell, partial(anderson, tol=1e-10))(start(), x)[0]

    for got, want in zip(gradients(with_checkpoint, LOSSES["sum"]), gradients(without, LOSSES["sum"]), strict=True):
        torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("transform", ["grad", "vjp"])
def test_transforms_of_torch_func_give_the_same_gradients(transform: str) -> None:
    cell, x = TanhCell(), injection()
    deq = DEQ(cell, partial(anderson, tol=1e-10))

    def loss(parameters: dict[str, Tensor], x: Tensor) -> Tensor:
        return torch.func.functional_call(deq, parameters, (start(), x))[0].square().sum()

    parameters = {name: p.detach() for name, p in deq.named_parameters()}
    if transform == "grad":
        by_name, of_x = torch.func.grad(loss, (0, 1))(parameters, x)
    else:
        by_name, of_x = torch.func.vjp(loss, parameters, x)[1](torch.ones((), dtype=torch.float64))
    got = [*(by_name[f"cell.{name}"] for name in ("w", "u", "b")), of_x]
    for one, other in zip(got, gradients(unrolled_to_convergence, LOSSES["sum"]), strict=True):
        assert relative_error(one, other) < 1e-8
    with pytest.raises(RuntimeError, match="second derivative"):
        torch.func.grad(lambda x: torch.func.grad(loss, 1)(parameters, x).square().sum())(x)


@each_gradient
def test_a_compiled_layer_is_the_layer(gradient: str) -> None:
    """Whatever of it the compiler leaves to Python."""
    results = []
    for compiled in (False, True):
        cell, x = TanhCell(), injection().requires_grad_()
        deq: Any = DEQ(cell, partial(fixed_point, tol=1e-10, max_iter=2, check_every=0), gradient=gradient)
        z, _ = (torch.compile(deq, backend="eager") if compiled else deq)(start(), x)
        z.square().sum().backward()
        results.append((z, cell.w.grad, x.grad))
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-14)


def test_layers_can_follow_and_contain_each_other() -> None:
    def nested(cell: TanhCell, x: Tensor) -> Tensor:
        inner = DEQ(lambda z, y: torch.tanh(0.3 * z + y), partial(anderson, tol=1e-12))
        outer = DEQ(lambda z, x: inner(torch.zeros_like(z), cell(z, x))[0], partial(anderson, tol=1e-11))
        z, _ = outer(start(), x)
        return outer(z.detach(), x + z[:, :3])[0]

    def unrolled(cell: TanhCell, x: Tensor) -> Tensor:
        def solve(x: Tensor) -> Tensor:
            z = start()
            for _ in range(60):
                y, z = cell(z, x), start()
                for _ in range(30):
                    z = torch.tanh(0.3 * z + y)
            return z

        return solve(x + solve(x)[:, :3])

    for got, want in zip(gradients(nested, LOSSES["sum"]), gradients(unrolled, LOSSES["sum"]), strict=True):
        assert relative_error(got, want) < 1e-7


def test_the_backward_solve_keeps_the_backend_of_its_forward() -> None:
    """Autograd runs a GPU's backward in a thread of its own, where a context variable has its default."""
    seen = []

    def spying(f: Callable[[Tensor], Tensor], z0: Tensor) -> Solution:
        seen.append(current_backend())
        return anderson(f, z0)

    with use_backend("torch"):
        z, _ = DEQ(TanhCell(), spying)(start(), injection())
    loss = z.sum()
    thread = threading.Thread(target=loss.backward)
    thread.start()
    thread.join()
    assert seen == ["torch", "torch"]
    assert current_backend() == "auto"


@pytest.mark.parametrize(
    ("options", "says"), [({"gradient": "implict"}, "gradient 'implict'"), ({"phantom_steps": 0}, "phantom_steps .*0")], ids=str
)
def test_bad_settings_are_refused(options: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        DEQ(TanhCell(), **options)


# --- what stays alive ---------------------------------------------------------------------------------------------------


class Token:
    """Lives exactly as long as the autograd node that holds it."""


class Tag(torch.autograd.Function):
    born: list[weakref.ref[Token]] = []

    @staticmethod
    def forward(ctx: Any, z: Tensor) -> Tensor:
        ctx.token = Token()
        Tag.born.append(weakref.ref(ctx.token))
        return z.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad


@each_gradient
@pytest.mark.parametrize("backward", [False, True], ids=["no backward", "backward"])
def test_a_graph_is_freed_with_its_output_and_needs_no_garbage_collector(gradient: str, backward: bool) -> None:
    """torchdeq hooks z with a function that closes over z: such a graph is never freed if backward does not run."""
    cell = TanhCell()
    deq = DEQ(lambda z, x: Tag.apply(cell(z, x)), partial(anderson, tol=1e-8, max_iter=8), gradient=gradient)
    Tag.born.clear()
    gc.collect()
    gc.disable()
    try:
        z, sol = deq(start(), injection())
        assert any(token() is not None for token in Tag.born)
        if backward:
            z.sum().backward()
        value = z.detach()
        del z
        if gradient == "unrolled":  # its Solution is part of the graph
            del sol
        assert all(token() is None for token in Tag.born)
        assert value.isfinite().all()
    finally:
        gc.enable()


@each_gradient
def test_steps_leave_no_tensors_behind(gradient: str) -> None:
    cell = TanhCell()
    deq = DEQ(cell, partial(anderson, tol=1e-8, max_iter=8), gradient=gradient)
    counts = []
    for step in range(6):
        z, sol = deq(start(), injection())
        if step % 2:  # backward runs in some steps only
            z.sum().backward()
        del z, sol
        cell.zero_grad()
        gc.collect()
        # By type: isinstance would ask every lazy module for its __class__.
        counts.append(sum(type(o) is Tensor for o in gc.get_objects()))
    assert len(set(counts[1:])) == 1
