"""Gradients of the implicit layer against unrolling and finite differences, and the options of its backward solve."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from tanh_cell import LOSSES, N, TanhCell, gradients, injection, relative_error, start, unrolled_to_convergence
from torch import Tensor

from ldeq import DEQ
from ldeq.solvers import SOLVERS, Anderson, Broyden, FixedPoint, Solution, Solver, anderson, broyden, fixed_point


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("backward", SOLVERS)
@pytest.mark.parametrize("forward", SOLVERS)
@pytest.mark.parametrize(("dtype", "tol"), [(torch.float32, 1e-6), (torch.float64, 1e-9)], ids=["float32", "float64"])
def test_implicit_gradients_are_those_of_unrolling_to_convergence(
    dtype: torch.dtype, tol: float, forward: str, backward: str, loss: str
) -> None:
    cell, x = TanhCell(dtype), injection(dtype=dtype).requires_grad_()
    solvers = [partial(SOLVERS[name], tol=tol, max_iter=200) for name in (forward, backward)]
    z, sol = DEQ(cell, solvers[0], backward_solver=solvers[1])(start(dtype=dtype), x)
    LOSSES[loss](z).backward()
    expected = gradients(unrolled_to_convergence, LOSSES[loss])
    assert sol.adjoint is not None
    assert sol.adjoint.converged.all()
    # The residual is amplified by at most ||(I - J)^-1|| = 5, forward and backward: 25 tol, and 1e-4 is what is promised.
    bound = min(1e-4, 100 * tol)
    for got, want in zip((cell.w.grad, cell.u.grad, cell.b.grad, x.grad), expected, strict=True):
        assert got is not None
        assert got.dtype == dtype
        assert relative_error(got, want) < bound


@pytest.mark.parametrize("scale", [1e-30, 1e-15, 1e20])
@pytest.mark.parametrize("solver", [Anderson(), Anderson(kind="I"), Broyden(), FixedPoint()], ids=lambda s: type(s).__name__)
def test_gradients_of_a_scaled_loss_are_the_scaled_gradients(solver: Solver, scale: float) -> None:
    """Squares of 1e-30 vanish in float32, those of 1e20 overflow: the adjoint solve stopped early and was wrong by a third."""

    def found(scale: float) -> tuple[list[Tensor], Tensor]:
        cell, x = TanhCell(torch.float32), injection(dtype=torch.float32).requires_grad_()
        z, sol = DEQ(cell, replace(solver, tol=1e-6, max_iter=200))(start(dtype=torch.float32), x)
        (scale * LOSSES["sum"](z)).backward()
        assert sol.adjoint is not None
        assert sol.adjoint.converged.all()
        return [t.grad for t in (cell.w, cell.u, cell.b, x)], sol.adjoint.iterations

    (scaled, evaluations), (usual, as_usual) = found(scale), found(1.0)
    assert (evaluations - as_usual).abs().max() <= 2
    for got, want in zip(scaled, usual, strict=True):
        # Two solves to 1e-6, amplified by at most 5, whose roundings differ.
        assert relative_error(got.double() / scale, want.double()) < 2e-5


@pytest.mark.parametrize("solver", SOLVERS)
def test_the_whole_layer_passes_finite_differences(solver: str) -> None:
    def layer(w: Tensor, x: Tensor) -> Tensor:
        deq = DEQ(lambda z, x: torch.tanh(z @ w.T + x), partial(SOLVERS[solver], tol=1e-12, max_iter=300))
        return deq(torch.zeros_like(x), x)[0]

    w = 0.25 * torch.randn(4, 4, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    x = torch.randn(2, 4, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    assert torch.autograd.gradcheck(layer, (w.requires_grad_(), x.requires_grad_()))


@pytest.mark.parametrize("solver", SOLVERS)
def test_gradients_through_an_unrolled_solver_are_right(solver: str) -> None:
    """Every operation of the solver is differentiated, also where some samples stop before others."""

    def layer(w: Tensor, x: Tensor, z0: Tensor) -> Tensor:
        deq = DEQ(lambda z, x: torch.tanh(z @ w.T + x), partial(SOLVERS[solver], tol=0, max_iter=5), gradient="unrolled")
        return deq(z0, x)[0]

    w = 0.25 * torch.randn(4, 4, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    x = torch.randn(2, 4, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    z0 = torch.randn(2, 4, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    assert torch.autograd.gradcheck(layer, (w.requires_grad_(), x.requires_grad_(), z0.requires_grad_()))


@pytest.mark.parametrize("solver", SOLVERS)
def test_unrolling_past_convergence_keeps_gradients_finite(solver: str) -> None:
    """Singular Gram matrices and vanished curvatures lie behind a `where`: 0 x inf must not come out of it."""

    def unrolled(cell: TanhCell, x: Tensor) -> Tensor:
        return DEQ(cell, partial(SOLVERS[solver], tol=1e-13, max_iter=150), gradient="unrolled")(start(), x)[0]

    for got, want in zip(gradients(unrolled, LOSSES["sum"]), gradients(unrolled_to_convergence, LOSSES["sum"]), strict=True):
        assert relative_error(got, want) < 1e-5


def test_jfb_is_the_gradient_of_one_tracked_evaluation() -> None:
    solver = partial(anderson, tol=1e-10)
    cell, x = TanhCell(), injection().requires_grad_()
    z, _ = DEQ(cell, solver, gradient="jfb")(start(), x)
    z.square().sum().backward()
    grads = [cell.w.grad, cell.u.grad, x.grad]
    cell, x = TanhCell(), injection().requires_grad_()
    with torch.no_grad():
        z_star = solver(lambda z: cell(z, x), start()).value
    cell(z_star, x).square().sum().backward()
    for got, want in zip(grads, (cell.w.grad, cell.u.grad, x.grad), strict=True):
        assert got is not None
        assert want is not None
        assert torch.equal(got, want)


def test_more_phantom_steps_come_closer_to_the_implicit_gradient() -> None:
    exact = gradients(unrolled_to_convergence, LOSSES["sum"])[0]
    errors = []
    for steps in (1, 2, 4, 8, 40):

        def phantom(cell: TanhCell, x: Tensor, steps: int = steps) -> Tensor:
            return DEQ(cell, partial(anderson, tol=1e-12), gradient="jfb", phantom_steps=steps)(start(), x)[0]

        errors.append(relative_error(gradients(phantom, LOSSES["sum"])[0], exact))
    assert errors == sorted(errors, reverse=True)
    assert errors[0] > 0.01
    assert errors[-1] < 1e-4


def test_a_backward_budget_of_one_is_jfb() -> None:
    one = partial(fixed_point, max_iter=1)

    def implicit(cell: TanhCell, x: Tensor) -> Tensor:
        return DEQ(cell, partial(anderson, tol=1e-10), backward_solver=one)(start(), x)[0]

    def jfb(cell: TanhCell, x: Tensor) -> Tensor:
        return DEQ(cell, partial(anderson, tol=1e-10), gradient="jfb")(start(), x)[0]

    for got, want in zip(gradients(implicit, LOSSES["sum"]), gradients(jfb, LOSSES["sum"]), strict=True):
        assert torch.equal(got, want)


def test_the_backward_solve_has_its_own_budget_and_a_free_first_evaluation() -> None:
    calls = []

    class Counting(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, z: Tensor) -> Tensor:
            return z.clone()

        @staticmethod
        def backward(ctx: Any, grad: Tensor) -> Tensor:
            calls.append(grad)
            return grad

    cell = TanhCell()
    deq = DEQ(
        lambda z, x: cell(Counting.apply(z), x),
        partial(fixed_point, max_iter=3, tol=0),
        backward_solver=partial(fixed_point, max_iter=7, tol=0),
    )
    z, sol = deq(start(), injection())
    z.sum().backward()
    assert sol.iterations.tolist() == [3] * 4
    assert sol.adjoint is not None
    assert sol.adjoint.iterations.tolist() == [7] * 4
    # Six products, and the pass that goes on to the parameters.
    assert len(calls) == 6 + 1


def stiff(dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Slopes in [0, .95], the map that the ridge was measured on, and shifts; plain iteration needs hundreds of steps."""
    generator = torch.Generator().manual_seed(4)
    shift = torch.randn(4, 512, generator=generator, dtype=torch.float64)
    return torch.linspace(0, 0.95, 512, dtype=torch.float64).to(dtype).requires_grad_(), shift.to(dtype).requires_grad_()


def stiff_gradient_error(scale: float, dtype: torch.dtype, reduction: str, **options: Any) -> float:
    slope, shift = stiff(dtype)
    deq = DEQ(
        lambda z, x: slope * z + x,
        partial(anderson, tol=0.0, max_iter=60),
        backward_solver=partial(anderson, tol=0.0, max_iter=30, **options),
    )
    z, _ = deq(torch.zeros_like(shift), shift)
    got = torch.autograd.grad(scale * getattr(z.square(), reduction)(), (slope, shift))
    a, b = (t.detach().double().requires_grad_() for t in (slope, shift))
    want = torch.autograd.grad(scale * getattr((b / (1 - a)).square(), reduction)(), (a, b))
    return max(relative_error(g, w) for g, w in zip(got, want, strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e4])
def test_thirty_backward_iterations_are_enough_for_a_mean_reduced_loss(dtype: torch.dtype, scale: float) -> None:
    """The customary absolute ridge fails here, since such a loss makes small residuals."""
    assert stiff_gradient_error(scale, dtype, "mean", m=10) <= 1e-4
    if scale <= 1:
        assert stiff_gradient_error(scale, dtype, "mean", m=10, ridge=-1e-4) > 0.05
    # However short the history, the reduction of the loss does not enter; a shorter one is slower on such a map.
    mean, total = (stiff_gradient_error(scale, dtype, reduction, m=6) for reduction in ("mean", "sum"))
    assert mean == pytest.approx(total, rel=0.05)
    assert mean < 1e-3


@pytest.mark.parametrize("loss", LOSSES)
def test_thirty_default_backward_iterations_are_enough_for_a_contraction(loss: str) -> None:
    def output(cell: TanhCell, x: Tensor) -> Tensor:
        budget = partial(anderson, tol=0.0, max_iter=30)
        return DEQ(cell, partial(anderson, tol=1e-10), backward_solver=budget)(start(), x)[0]

    expected = gradients(unrolled_to_convergence, LOSSES[loss])
    for got, want in zip(gradients(output, LOSSES[loss]), expected, strict=True):
        assert relative_error(got, want) <= 1e-4


@pytest.mark.parametrize("backward", [False, True], ids=["inherited", "its own"])
def test_a_backward_solve_returns_f_whatever_the_forward_one_does(backward: bool) -> None:
    """Where the adjoint expands, the x of lowest residual is its start: a gradient of zero."""
    grads = []
    for returns in ("x", "f"):
        cell, x = TanhCell(), injection().requires_grad_()
        solver = partial(fixed_point, max_iter=4, returns=returns)
        deq = DEQ(
            lambda z, x, cell=cell: 50 * z @ cell.w.T + x @ cell.u.T, solver, backward_solver=solver if backward else None
        )
        z, sol = deq(start(), x)
        z.sum().backward()
        assert sol.adjoint is not None
        assert not sol.adjoint.converged.any()
        grads.append(x.grad)
    assert grads[0] is not None
    assert (grads[0].norm(dim=1) > 1).all()
    assert torch.equal(grads[0], grads[1])


def test_motion_is_no_stop_for_a_backward_solve() -> None:
    moving = partial(anderson, stop="motion", observe=lambda z: z, tol=1e-6)
    for solvers in ((moving, None), (anderson, moving)):
        with pytest.raises(ValueError, match="backward_solver cannot have stop='motion'"):
            DEQ(TanhCell(), solvers[0], backward_solver=solvers[1])
    cell = TanhCell()
    z, sol = DEQ(cell, moving, backward_solver=partial(anderson, tol=1e-8))(start(), injection())
    z.sum().backward()
    assert sol.motion is not None
    assert (sol.motion <= 1e-6).all()
    DEQ(cell, moving, gradient="jfb")


@pytest.mark.parametrize("solver", SOLVERS)
def test_compacted_solves_change_neither_result_nor_gradient(solver: str) -> None:
    results, sizes = [], []
    for share in (0.0, 0.9):
        cell, drive = TanhCell(), injection()
        drive[2:] *= 1e-3  # these take fewer evaluations: another slope of tanh
        x = {"x": drive.requires_grad_(), "one": torch.ones((), dtype=torch.float64)}

        def sized(z: Tensor, x: dict[str, Tensor], cell: TanhCell = cell) -> Tensor:
            sizes.append(len(z))
            return cell(z, x["x"]) * x["one"]

        sizes.clear()
        deq = DEQ(sized, partial(SOLVERS[solver], tol=1e-9, max_iter=200, compact=share))
        z, sol = deq(start(), x)
        z.square().sum().backward()
        assert sol.adjoint is not None
        results.append((z, sol.iterations, sol.adjoint.iterations, cell.w.grad, x["x"].grad))
    assert min(sizes) < 4
    assert len(set(results[0][2].tolist())) > 1
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)


def test_a_compacted_backward_solve_takes_a_cell_that_answers_in_half_precision() -> None:
    """Its gradients are of that type, and those of some samples were put among zeros of the state's."""
    results = []
    for share in (0.0, 0.9):
        cell, x = TanhCell(torch.float32), injection(dtype=torch.float32)
        deq = DEQ(lambda z, x, cell=cell: cell(z, x).bfloat16(), partial(anderson, tol=1e-2, max_iter=30, compact=share))
        z, sol = deq(start(dtype=torch.float32), x)
        assert z.dtype == torch.bfloat16
        z[:2].float().square().sum().backward()  # the other samples stop at once
        assert sol.adjoint is not None
        results.append((sol.adjoint.iterations, cell.w.grad))
    assert results[0][0].tolist()[2:] == [1, 1]
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-6)


def test_a_compiled_cell_solves_and_trains_like_itself() -> None:
    """Its first backward is one of many through the same evaluation: buffers must not be given away."""
    results = []
    for compiled in (False, True):
        cell, x = TanhCell(), injection().requires_grad_()
        inner = torch.compile(cell, backend="aot_eager") if compiled else cell
        deq = DEQ(inner, partial(anderson, tol=1e-10))  # type: ignore[arg-type]
        for _ in range(2):
            z, sol = deq(start(), x)
            z.square().sum().backward()
        with torch.no_grad():
            inferred, _ = deq(start(), x)
        assert sol.adjoint is not None
        results.append((z, inferred, sol.iterations, sol.adjoint.iterations, cell.w.grad, x.grad))
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("solver", [anderson, broyden, fixed_point], ids=lambda s: s.__name__)
def test_a_few_steps_fit_a_target(solver: Callable[..., Solution]) -> None:
    cell, x = TanhCell(torch.float32), injection(dtype=torch.float32)
    target = torch.rand(4, N, generator=torch.Generator().manual_seed(5)) - 0.5
    deq = DEQ(cell, partial(solver, tol=1e-5))
    optimizer = torch.optim.Adam(cell.parameters(), 0.04)
    losses = []
    for _ in range(30):
        optimizer.zero_grad()
        loss = (deq(start(dtype=torch.float32), x)[0] - target).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.2 * losses[0]
