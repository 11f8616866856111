"""What holds for every solver."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from problems import PROBLEMS, Problem, linear, name_of, noise, tanh_network
from torch import Tensor

from ldeq.ops import use_backend
from ldeq.solvers import SOLVERS, Solution, Status, anderson, broyden, fixed_point

Solver = Callable[..., Solution]

each_solver = pytest.mark.parametrize("solver", SOLVERS.values(), ids=list(SOLVERS))
each_problem = pytest.mark.parametrize("problem", PROBLEMS, ids=str)


def relative_residual(f: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    fx = f(x)
    return (fx - x).flatten(1).double().norm(dim=1) / fx.flatten(1).double().norm(dim=1)


@each_solver
@each_problem
@pytest.mark.parametrize(("dtype", "tol"), [(torch.float32, 1e-5), (torch.float64, 1e-10)], ids=["float32", "float64"])
def test_the_answer_is_the_direct_solution(problem: Problem, solver: Solver, dtype: torch.dtype, tol: float) -> None:
    sol = solver(problem.map(dtype), problem.start(dtype), tol=tol, max_iter=1500)
    assert sol.converged.all()
    assert (sol.residual <= tol).all()
    assert sol.value.dtype == dtype
    assert sol.value.shape == problem.solution.shape
    error = (sol.value.double() - problem.solution).flatten(1).norm(dim=1)
    size = problem.solution.flatten(1).norm(dim=1)
    # A residual of tol leaves amplification x tol; float32 maps round at 1.2e-7 and amplify that too. 1.1: tol is
    # relative to ||f(x)||, not to ||x*||.
    assert (error <= 1.1 * problem.amplification * (tol + 4 * torch.finfo(dtype).eps) * size).all()


@each_solver
@each_problem
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_the_residual_is_that_of_the_point_returned(problem: Problem, solver: Solver, dtype: torch.dtype) -> None:
    f = problem.map(dtype)
    for max_iter in (1, 2, 7):
        sol = solver(f, problem.start(dtype), tol=1e-5, max_iter=max_iter, returns="x")
        # The same evaluation again: only the sum of squares, in float32, may differ.
        torch.testing.assert_close(sol.residual.double(), relative_residual(f, sol.value), rtol=1e-5, atol=0)
        absolute = solver(f, problem.start(dtype), tol=0, max_iter=max_iter, returns="x", stop="absolute")
        size = (f(absolute.value) - absolute.value).flatten(1).double().norm(dim=1)
        torch.testing.assert_close(absolute.residual.double(), size, rtol=1e-5, atol=0)


@each_solver
@each_problem
def test_returning_f_is_one_evaluation_of_f_at_the_point_x(problem: Problem, solver: Solver) -> None:
    f = problem.map()
    for max_iter in (1, 2, 7):
        x = solver(f, problem.start(), tol=1e-6, max_iter=max_iter, returns="x")
        fx = solver(f, problem.start(), tol=1e-6, max_iter=max_iter, returns="f")
        assert torch.equal(f(x.value), fx.value)
        assert torch.equal(x.residual, fx.residual)


@each_solver
def test_budgets_of_one_and_two_evaluations_are_spent(solver: Solver) -> None:
    """torchdeq 0.1.0 returns its start for both."""
    problem = tanh_network()
    f, start = problem.map(), problem.start()
    once = solver(f, start, max_iter=1)
    assert torch.equal(once.value, f(start))
    assert once.iterations.tolist() == [1, 1, 1]
    assert once.status.tolist() == [Status.MAX_ITER] * 3
    twice = solver(f, start, max_iter=2, tol=0)
    # The first step of every method here is x <- f(x).
    torch.testing.assert_close(twice.value, f(f(start)), rtol=1e-14, atol=0)
    assert twice.iterations.tolist() == [2, 2, 2]


@each_solver
def test_the_budget_counts_evaluations_of_f(solver: Solver) -> None:
    calls: list[Tensor] = []
    f = linear(1.0).map()

    def counted(z: Tensor) -> Tensor:
        calls.append(z)
        return f(z)

    for max_iter in (1, 2, 3, 10):
        calls.clear()
        sol = solver(counted, linear(1.0).start(), tol=0, max_iter=max_iter)
        assert len(calls) == max_iter
        assert (sol.iterations == max_iter).all()


@each_solver
def test_no_evaluation_is_spent_once_all_have_stopped(solver: Solver) -> None:
    calls: list[Tensor] = []
    problem = linear(1.0)
    f = problem.map()

    def counted(z: Tensor) -> Tensor:
        calls.append(z)
        return f(z)

    sol = solver(counted, problem.start(), tol=1e-6, max_iter=1000)
    assert len(calls) == sol.iterations.max()


def crowd(dtype: torch.dtype, rows: slice) -> tuple[Callable[[Tensor], Tensor], Tensor]:
    """Eight samples: six with different conditioning, one that returns NaN (3), one without a fixed point (5)."""
    n = 24
    a = torch.tensor([0.1, 0.5, 0.8, 0.5, 0.85, 1.0, 0.3, -0.7], dtype=torch.float64)[:, None]
    slope = a * torch.linspace(0.2, 1, n, dtype=torch.float64)
    shift, square = noise(8, n, seed=5), torch.zeros(8, 1, dtype=torch.float64)
    shift[3, 7] = torch.nan
    shift[5], slope[5], square[5] = 2.0, 1.0, 1.0  # z + z^2 + 2 > z
    slope, shift, square = (t[rows].to(dtype) for t in (slope, shift, square))
    return lambda z: slope * z + shift + square * z * z, torch.zeros_like(shift)


@each_solver
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("stop", ["relative", "absolute"])
def test_no_sample_notices_who_shares_its_batch(solver: Solver, dtype: torch.dtype, stop: str) -> None:
    options = {"tol": 1e-5, "max_iter": 90, "stop": stop, "trace": True}
    together = solver(*crowd(dtype, slice(None)), **options)
    for i in range(8):
        alone = solver(*crowd(dtype, slice(i, i + 1)), **options)
        torch.testing.assert_close(alone.value[0], together.value[i], rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(alone.residual[0], together.residual[i], rtol=1e-6, atol=1e-6)
        assert (alone.iterations[0], alone.status[0]) == (together.iterations[i], together.status[i])
        assert alone.trace is not None
        assert together.trace is not None
        steps = len(alone.trace)
        torch.testing.assert_close(alone.trace[:, 0], together.trace[:steps, i], rtol=1e-4, atol=1e-7, equal_nan=True)
    status = together.status.tolist()
    assert status[3] == Status.NONFINITE
    # The other two wander about for a while instead of leaving at once.
    assert status[5] == (Status.DIVERGED if solver is fixed_point else Status.MAX_ITER)
    assert [status[i] for i in (0, 1, 2, 4, 6, 7)] == [Status.CONVERGED] * 6
    assert together.value.isfinite().all()


@each_solver
def test_the_order_of_a_batch_does_not_matter(solver: Solver) -> None:
    f, start = crowd(torch.float64, slice(None))
    order = torch.tensor([5, 2, 7, 0, 3, 1, 6, 4])
    back = order.argsort()
    one = solver(f, start, tol=1e-8, max_iter=100)
    other = solver(lambda z: f(z[back])[order], start[order], tol=1e-8, max_iter=100)
    torch.testing.assert_close(other.value, one.value[order], rtol=1e-12, atol=1e-12)
    assert torch.equal(other.iterations, one.iterations[order])
    assert torch.equal(other.status, one.status[order])


@each_solver
@pytest.mark.parametrize("poison", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("stop", ["relative", "absolute"])
def test_a_nan_at_the_first_evaluation_returns_the_start(solver: Solver, stop: str, poison: float) -> None:
    start, first = noise(2, 4), torch.tensor([[True], [False]])
    sol = solver(lambda z: torch.where(first, poison, 0.5 * z + 1), start, stop=stop)
    assert torch.equal(sol.value[0], start[0])
    assert math.isinf(sol.residual[0])
    assert (sol.iterations[0], sol.status[0]) == (1, Status.NONFINITE)
    torch.testing.assert_close(sol.value[1], torch.full_like(start[1], 2.0), rtol=1e-3, atol=0)


@each_solver
def test_a_stopped_sample_is_evaluated_where_it_stopped(solver: Solver) -> None:
    """Iterating on would walk it into rounding, or a diverged one into overflow, while it waits for the others."""
    visited: list[Tensor] = []
    f, start = crowd(torch.float64, slice(None))

    def watched(z: Tensor) -> Tensor:
        visited.append(z)
        return f(z)

    sol = solver(watched, start, tol=1e-6, max_iter=100)
    for i, stopped in enumerate(sol.iterations.tolist()):
        for z in visited[stopped:]:
            assert torch.equal(z[i], visited[stopped - 1][i])


@each_solver
def test_a_nan_in_mid_solve_keeps_the_best_finite_point(solver: Solver) -> None:
    """0 x NaN = NaN: a best-so-far kept by multiplication with a mask loses it here."""
    problem = linear(1.0)
    f, calls = problem.map(), []

    def breaks(z: Tensor) -> Tensor:
        calls.append(z)
        out = f(z).clone()
        if len(calls) == 6:
            out[1, 3] = torch.inf
        return out

    sol = solver(breaks, problem.start(), tol=1e-8, max_iter=1000, returns="x")
    assert sol.status.tolist() == [Status.CONVERGED, Status.NONFINITE, Status.CONVERGED]
    assert sol.iterations[1] == 6
    assert sol.value.isfinite().all()
    best = min(calls[:5], key=lambda x: float(relative_residual(f, x)[1]))
    assert torch.equal(sol.value[1], best[1])


@each_solver
def test_the_best_point_is_returned_when_the_last_is_worse(solver: Solver) -> None:
    """Slopes beyond -1 drive a plain iteration away; the others overshoot within a small budget."""
    shift = noise(4, 30, seed=6)
    slope = torch.linspace(-4, 0.9, 30, dtype=torch.float64)
    visited: list[Tensor] = []

    def f(z: Tensor) -> Tensor:
        visited.append(z)
        return slope * z + shift

    sol = solver(f, torch.zeros_like(shift), tol=1e-12, max_iter=7, returns="x", trace=True)
    assert sol.trace is not None
    assert torch.equal(sol.residual, sol.trace.amin(0))
    if solver is fixed_point:
        assert (sol.trace[-1] > sol.residual).all()
    for i, step in enumerate(sol.trace.argmin(0).tolist()):
        assert torch.equal(sol.value[i], visited[step][i])


@each_solver
def test_a_growth_by_eight_decades_is_called_divergence(solver: Solver) -> None:
    options = {"m": 1} if solver is anderson else {}
    sol = solver(lambda z: z * z + 2 * z + 10, torch.ones(2, 3, dtype=torch.float64), max_iter=200, **options)
    assert sol.status.tolist() == [Status.DIVERGED] * 2
    assert (sol.iterations < 200).all()
    assert sol.value.isfinite().all()


@each_solver
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_a_map_onto_zero_is_not_taken_for_infinite(solver: Solver, dtype: torch.dtype) -> None:
    """||f|| = 0 divides the relative residual of a warm start."""
    sol = solver(lambda z: 0 * z, 50 * torch.ones(2, 64, dtype=dtype))
    assert sol.status.tolist() == [Status.CONVERGED] * 2
    assert (sol.value == 0).all()
    assert (sol.residual == 0).all()


@each_solver
def test_a_start_at_the_fixed_point_costs_one_evaluation(solver: Solver) -> None:
    for start in (torch.zeros(2, 3), torch.ones(2, 3)):
        sol = solver(lambda z: z, start, tol=0)
        assert sol.iterations.tolist() == [1, 1]
        assert sol.converged.all()
        assert torch.equal(sol.value, start)


@each_solver
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("stop_scope", ["sample", "batch"])
def test_post_convergence_stays_finite(solver: Solver, dtype: torch.dtype, stop_scope: str) -> None:
    """tol = 0 goes on for 200 iterations on residuals that are rounding, or exactly zero."""
    a = torch.tensor([0.5, 0.25], dtype=dtype)
    b = torch.tensor([[1.0, -1.0], [1e-3, 3.0], [0.3, 0.7]], dtype=dtype)
    sol = solver(lambda z: a * z + b, torch.zeros_like(b), tol=0, max_iter=200, trace=True, stop_scope=stop_scope)
    assert sol.trace is not None
    assert sol.trace.isfinite().all()
    torch.testing.assert_close(sol.value, b / (1 - a), rtol=4 * torch.finfo(dtype).eps, atol=0)


@each_solver
def test_a_stopped_sample_repeats_its_last_residual(solver: Solver) -> None:
    f, start = crowd(torch.float64, slice(None))
    sol = solver(f, start, tol=1e-6, max_iter=200, trace=True)
    assert sol.trace is not None
    assert sol.trace.shape == (int(sol.iterations.max()), 8)
    for i, stopped in enumerate(sol.iterations.tolist()):
        tail = sol.trace[stopped - 1 :, i]
        assert torch.equal(tail.nan_to_num(-1.0), tail[:1].expand_as(tail).nan_to_num(-1.0))
        if sol.status[i] == Status.CONVERGED:
            assert sol.trace[stopped - 1, i] <= 1e-6
            assert (sol.trace[: stopped - 1, i] > 1e-6).all()
    assert solver(f, start, max_iter=3).trace is None


@each_solver
def test_a_stop_on_the_batch_mean_stops_all_at_once(solver: Solver) -> None:
    f, start = crowd(torch.float64, slice(0, 3))
    sol = solver(f, start, tol=1e-4, max_iter=200, stop_scope="batch", trace=True)
    assert sol.trace is not None
    assert len(set(sol.iterations.tolist())) == 1
    assert sol.trace[-1].mean() <= 1e-4
    assert (sol.trace[:-1].mean(1) > 1e-4).all()


@each_solver
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_states_converge_to_the_rounding_of_their_type(solver: Solver, dtype: torch.dtype) -> None:
    """torchdeq raises for these. f computes and rounds in the half type; the iterate must not stall above that."""
    n = 256
    slope, shift = torch.linspace(-0.5, 0.5, n).to(dtype), noise(2, n).to(dtype)
    exact = shift.double() / (1 - slope.double())
    seen = []

    def f(z: Tensor) -> Tensor:
        seen.append(z.dtype)
        return slope * z + shift

    sol = solver(f, torch.zeros(2, n, dtype=dtype), tol=0, max_iter=40)
    assert set(seen) == {dtype}
    assert sol.value.dtype == dtype
    assert sol.residual.dtype == torch.float32
    eps = torch.finfo(dtype).eps
    # Three roundings of half an eps (argument, product, sum), amplified by 1 / (1 - .5) = 2.
    assert ((sol.value.double() - exact).norm(dim=1) <= 3 * eps * exact.norm(dim=1)).all()
    assert (sol.residual <= 3 * eps).all()


@each_solver
@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (5, 1, 1, 1), (2, 3, 4, 5), (0, 4), (3, 0)], ids=str)
def test_any_shape_of_two_dimensions_or_more_works(solver: Solver, shape: tuple[int, ...]) -> None:
    sol = solver(lambda z: 0.5 * z + 1, torch.zeros(shape, dtype=torch.float64), tol=1e-9, max_iter=60)
    torch.testing.assert_close(sol.value, torch.full(shape, 2.0, dtype=torch.float64), rtol=1e-8, atol=0)
    assert sol.residual.shape == sol.iterations.shape == sol.status.shape == shape[:1]


@each_solver
def test_strides_of_start_and_of_f_do_not_matter(solver: Solver) -> None:
    dense = noise(2, 3, 4, 5)
    last = dense.to(memory_format=torch.channels_last)
    one = solver(lambda z: torch.cos(z) * 0.5, dense, tol=1e-10)
    other = solver(lambda z: (torch.cos(z) * 0.5).to(memory_format=torch.channels_last), last, tol=1e-10)
    assert torch.equal(one.value, other.value)


@each_solver
def test_the_start_is_left_as_it_was(solver: Solver) -> None:
    start = noise(2, 6).float()
    kept = start.clone()
    solver(lambda z: torch.cos(z), start)
    assert torch.equal(start, kept)


@each_solver
def test_the_status_is_a_member_that_says_what_happened(solver: Solver) -> None:
    sol = solver(*crowd(torch.float64, slice(None)), tol=1e-5, max_iter=6)
    assert {Status(s) for s in sol.status.tolist()} >= {Status.NONFINITE, Status.CONVERGED, Status.MAX_ITER}
    assert torch.equal(sol.converged, sol.status == Status.CONVERGED)
    assert torch.equal(sol.converged, sol.residual <= 1e-5)
    assert [s.name for s in Status] == ["MAX_ITER", "CONVERGED", "DIVERGED", "NONFINITE"]
    assert sol.status.dtype == sol.iterations.dtype == torch.int64
    assert sol.adjoint is None


GOOD = torch.zeros(2, 3)


@each_solver
@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"max_iter": 0}, "max_iter"),
        ({"max_iter": -3}, "max_iter"),
        ({"max_iter": 3.0}, "max_iter must be an integer"),
        ({"check_every": 2.5}, "check_every must be an integer"),
        ({"tol": -1e-4}, "tol"),
        ({"tol": float("nan")}, "tol"),
        ({"tol": float("inf")}, "tol"),
        ({"stop": "rel"}, "stop"),
        ({"stop_scope": "mean"}, "stop_scope"),
        ({"returns": "z"}, "returns"),
    ],
    ids=name_of,
)
def test_bad_arguments_are_refused_in_one_line_that_names_them(solver: Solver, options: dict[str, object], name: str) -> None:
    with pytest.raises(ValueError, match=name) as caught:
        solver(lambda z: z, GOOD, **options)
    assert "\n" not in str(caught.value)
    assert str(next(iter(options.values()))) in str(caught.value)


@pytest.mark.parametrize(
    ("solver", "options", "name"),
    [
        (anderson, {"m": 0}, "m must"),
        (anderson, {"m": 17}, "m must"),
        (anderson, {"m": 2.0}, "m must be an integer"),
        (anderson, {"beta": 0.0}, "beta"),
        (anderson, {"beta": 1.5}, "beta"),
        (anderson, {"beta": -0.5}, "beta"),
        (anderson, {"beta": float("nan")}, "beta"),
        (anderson, {"ridge": float("nan")}, "ridge"),
        (fixed_point, {"beta": 0.0}, "beta"),
        (broyden, {"m": 0}, "m must"),
    ],
    ids=name_of,
)
def test_bad_options_of_one_method_are_refused(solver: Solver, options: dict[str, object], name: str) -> None:
    with pytest.raises(ValueError, match=name) as caught:
        solver(lambda z: z, GOOD, **options)
    assert "\n" not in str(caught.value)


@each_solver
def test_unknown_options_are_not_swallowed(solver: Solver) -> None:
    with pytest.raises(TypeError, match="lam"):
        solver(lambda z: z, GOOD, lam=1e-4)


@each_solver
@pytest.mark.parametrize(
    ("start", "says"),
    [
        (torch.zeros(3), r"\(3,\)"),
        (torch.tensor(1.0), r"\(\)"),
        (torch.zeros(2, 3, dtype=torch.int64), "int64"),
        (torch.zeros(2, 3, dtype=torch.complex64), "complex64"),
        ([1.0, 2.0], "list"),
    ],
    ids=["one dimension", "none", "integer", "complex", "list"],
)
def test_a_start_that_cannot_be_a_batch_is_refused(solver: Solver, start: Any, says: str) -> None:
    with pytest.raises(ValueError, match=f"z0 .*{says}"):
        solver(lambda z: z, start)


@each_solver
@pytest.mark.parametrize(
    "f", [lambda z: z[:, :2], lambda z: z.sum(), lambda z: z.flatten(), lambda z: z.T], ids=["cut", "0-d", "flat", "turned"]
)
def test_an_f_that_changes_the_shape_is_refused(solver: Solver, f: Callable[[Tensor], Tensor]) -> None:
    with pytest.raises(ValueError, match=r"shape .*\(2, 3\)"):
        solver(f, GOOD)


@each_solver
@pytest.mark.parametrize(
    ("f", "says"),
    [
        (lambda z: z.to("meta"), "float32 on meta"),
        (lambda z: z.to(torch.complex64), "complex64 on cpu"),
        (lambda z: z.long(), "int64 on cpu"),
        (lambda z: (z, z), "tuple"),
        (lambda z: None, "NoneType"),
    ],
    ids=["device", "complex", "integer", "tuple", "nothing"],
)
def test_an_answer_that_is_no_state_is_refused(solver: Solver, f: Callable[[Tensor], Any], says: str) -> None:
    """The device of f decided which kernel ran, and an imaginary part went missing."""
    with pytest.raises(ValueError, match=f"f must return .*{says}") as caught:
        solver(f, GOOD)
    assert "\n" not in str(caught.value)


@each_solver
@pytest.mark.parametrize("backend", ["auto", "torch"])
def test_an_f_that_fills_one_buffer_is_refused_and_a_constant_is_not(solver: Solver, backend: str) -> None:
    """The history refers to what f returned; overwritten, it gave a wrong answer without a word."""
    buffer = torch.empty(2, 5)

    def fills(z: Tensor) -> Tensor:
        return buffer.copy_(0.5 * z.cos())

    def fills_views(z: Tensor) -> Tensor:
        return buffer.copy_(0.5 * z.cos()).view(2, 5)

    constant = torch.ones(2, 5)
    with use_backend(backend):
        for f in (fills, fills_views):
            with pytest.raises(ValueError, match=r"f must return a new tensor at each call, .*; end it with \.clone\(\)"):
                solver(f, torch.zeros(2, 5), max_iter=6, tol=0.0)
        assert torch.equal(solver(lambda z: constant, torch.zeros(2, 5), max_iter=4, tol=0.0).value, constant)
        # The same values, each in memory of its own that the last one may have left.
        solver(lambda z: fills(z).clone(), torch.zeros(2, 5), max_iter=12, tol=0.0)
        assert torch.equal(solver(lambda z: z, torch.ones(2, 5), max_iter=4).value, torch.ones(2, 5))


@each_solver
@pytest.mark.parametrize("tol", [2**70, 10**400, "x", float("nan")])
@pytest.mark.parametrize("backend", ["auto", "torch"])
def test_a_tolerance_that_no_kernel_can_hold_is_compared_or_refused(solver: Solver, tol: Any, backend: str) -> None:
    with use_backend(backend):
        if tol == 2**70:
            assert (solver(lambda z: 0.5 * z + 1, torch.zeros(2, 5), tol=tol).iterations == 1).all()
        else:
            with pytest.raises(ValueError, match="tol must be a finite number >= 0"):
                solver(lambda z: 0.5 * z + 1, torch.zeros(2, 5), tol=tol)


@pytest.mark.parametrize("name", ["ridge", "beta", "compact"])
def test_an_option_beyond_every_float_is_refused_in_a_short_sentence(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} must") as found:
        anderson(lambda z: z, torch.zeros(2, 5), **{name: 10**400})
    assert len(str(found.value)) < 200


@pytest.mark.parametrize("name", ["m", "max_iter", "check_every"])
def test_true_is_no_number_of_anything(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} must be an integer, got True"):
        anderson(torch.cos, torch.zeros(2, 3), **{name: True})
