from __future__ import annotations

import importlib
import math
from collections.abc import Callable

import pytest
import torch
from problems import PROBLEMS, Problem, conditioned, linear, noise, tanh_network
from torch import Tensor

from ldeq.ops import use_backend
from ldeq.ops.solve_step.mixing import mixing_weights
from ldeq.solvers import PUBLISHED, Status, anderson, fixed_point

Map = Callable[[Tensor], Tensor]


# --- the small system ---------------------------------------------------------------------------------------------------


def bordered(gram: Tensor, ridge: float) -> Tensor:
    """alpha of [[0, 1], [1, G G^T + lambda I]] [nu, alpha] = [1, 0], the way tutorials write it; (n, n) to (n,)."""
    n = len(gram)
    shift = ridge * gram.diagonal().mean() if ridge >= 0 else torch.tensor(-ridge, dtype=gram.dtype)
    system = torch.ones(n + 1, n + 1, dtype=torch.float64)
    system[0, 0] = 0
    system[1:, 1:] = gram + shift * torch.eye(n, dtype=torch.float64)
    right = torch.zeros(n + 1, dtype=torch.float64)
    right[0] = 1
    return torch.linalg.solve(system, right)[1:]


@pytest.mark.parametrize("n", [1, 2, 6, 16])
@pytest.mark.parametrize("ridge", [0.0, 1e-8, 1e-2, -1e-4], ids=str)
@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e4], ids=str)
def test_weights_are_those_of_the_bordered_system(n: int, ridge: float, scale: float) -> None:
    g = scale * noise(5, n, 40)
    gram = g @ g.mT
    alpha = mixing_weights(gram, torch.ones(5, n, dtype=torch.bool), ridge)
    expected = torch.stack([bordered(a, ridge) for a in gram])
    # Random rows are well conditioned: two direct solvers agree to rounding times a condition below 1e3.
    torch.testing.assert_close(alpha, expected, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("ridge", [0.0, 1e-8, -1e-4], ids=str)
def test_rows_of_very_different_size_are_solved_too(ridge: float) -> None:
    """A history that converges fast spans decades: 1e-6 in the norm is 1e-12 in the Gram matrix."""
    g = torch.logspace(0, -4, 5, dtype=torch.float64)[:, None] * noise(1, 5, 40)
    gram = g @ g.mT
    alpha = mixing_weights(gram, torch.ones(1, 5, dtype=torch.bool), ridge)
    torch.testing.assert_close(alpha[0], bordered(gram[0], ridge), rtol=1e-6, atol=1e-10)


@pytest.mark.parametrize("ridge", [0.0, 1e-8, -1e-4], ids=str)
def test_masked_entries_have_no_part_in_the_system(ridge: float) -> None:
    g = noise(4, 6, 20)
    gram = g @ g.mT
    valid = torch.tensor([[1, 1, 1, 1, 1, 1], [1, 0, 1, 1, 0, 1], [0, 0, 0, 1, 0, 0], [0, 1, 1, 0, 0, 0]], dtype=torch.bool)
    # What lies in a dropped slot must not matter, were it infinite.
    dirty = gram.clone()
    dirty[1, 4, :] = dirty[1, :, 4] = torch.nan
    dirty[2, 0, :] = dirty[2, :, 0] = torch.inf
    for matrix in (gram, dirty):
        alpha = mixing_weights(matrix, valid, ridge)
        assert (alpha[~valid] == 0).all()
        for i in range(4):
            inner = gram[i][valid[i]][:, valid[i]]
            torch.testing.assert_close(alpha[i][valid[i]], bordered(inner, ridge), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("ridge", [0.0, 1e-8, -1e-4], ids=str)
def test_identical_residuals_give_finite_weights_that_sum_to_one(ridge: float, dtype: torch.dtype) -> None:
    """A singular Gram matrix; any weights of sum one are right, since all mix to the same residual."""
    g = noise(3, 1, 20).to(dtype).expand(3, 5, 20)
    alpha = mixing_weights(g @ g.mT, torch.ones(3, 5, dtype=torch.bool), ridge)
    assert alpha.isfinite().all()
    torch.testing.assert_close(alpha.sum(1), torch.ones(3, dtype=torch.float64))
    assert (alpha.norm(dim=1) < 10).all()


def test_dependent_residuals_do_not_fail_the_rest_of_the_batch() -> None:
    g = noise(3, 6, 20)
    g[1, 5] = 3 * g[1, 0] - 2 * g[1, 3]
    gram = g @ g.mT
    alpha = mixing_weights(gram, torch.ones(3, 6, dtype=torch.bool), 0.0)
    for i in (0, 2):
        torch.testing.assert_close(alpha[i], bordered(gram[i], 0.0), rtol=1e-10, atol=1e-12)
    # An affine combination of others: without it, the minimum over weights of sum one is the same.
    best = bordered(gram[1, :5, :5], 0.0) @ g[1, :5]
    torch.testing.assert_close((alpha[1] @ g[1]).norm(), best.norm(), rtol=1e-4, atol=0)


@pytest.mark.parametrize("ridge", [0.0, 1e-8], ids=str)
@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6], ids=str)
def test_a_residual_of_zero_takes_all_the_weight(ridge: float, scale: float) -> None:
    g = scale * noise(1, 4, 20)
    g[0, 2] = 0
    alpha = mixing_weights(g @ g.mT, torch.ones(1, 4, dtype=torch.bool), ridge)
    torch.testing.assert_close(alpha, torch.tensor([[0.0, 0, 1, 0]], dtype=torch.float64), rtol=1e-6, atol=1e-6)


def test_residuals_of_zero_alone_give_finite_weights() -> None:
    """Any weights of sum one are right. Without a ridge that prefers small ones, the step is a plain one."""
    alike, plain = torch.full((2, 3), 1 / 3, dtype=torch.float64), torch.tensor([[0, 0, 1]] * 2, dtype=torch.float64)
    for ridge, expected in ((0.0, plain), (1e-8, plain), (-1e-4, alike)):
        alpha = mixing_weights(torch.zeros(2, 3, 3), torch.ones(2, 3, dtype=torch.bool), ridge)
        torch.testing.assert_close(alpha, expected)


def test_a_nan_in_one_gram_matrix_stays_there() -> None:
    g = noise(3, 4, 20)
    gram = g @ g.mT
    gram[1, 2, :] = gram[1, :, 2] = torch.nan
    alpha = mixing_weights(gram, torch.ones(3, 4, dtype=torch.bool), 1e-8)
    for i in (0, 2):
        torch.testing.assert_close(alpha[i], bordered(gram[i], 1e-8), rtol=1e-10, atol=1e-12)


def test_weights_can_be_differentiated() -> None:
    g = noise(2, 3, 8).requires_grad_()
    valid = torch.tensor([[True, True, True], [True, False, True]])
    assert torch.autograd.gradcheck(lambda g: mixing_weights(g @ g.mT, valid, 1e-4), (g,))


# --- the method ---------------------------------------------------------------------------------------------------------


def calls_on_linear(scale: float, dtype: torch.dtype, **options: float) -> int:
    problem = linear(scale, n=4096, batch=1)
    return int(anderson(problem.map(dtype), problem.start(dtype), tol=1e-5, max_iter=400, **options).iterations)  # type: ignore[arg-type]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_calls_do_not_depend_on_the_scale_of_the_problem(dtype: torch.dtype) -> None:
    calls = {scale: calls_on_linear(scale, dtype) for scale in (1e-4, 1e-2, 1.0, 1e2, 1e4)}
    # 31 in the notes on solvers (plain iteration: 146); the draw of the right-hand side moves it by a few.
    assert all(29 <= n <= 33 for n in calls.values()), calls
    assert max(calls.values()) - min(calls.values()) <= 2, calls


@pytest.mark.parametrize("ridge", [1e-4, 1e-6, 1e-10, 0.0], ids=str)
def test_the_relative_ridge_is_not_a_setting_to_tune(ridge: float) -> None:
    assert 29 <= calls_on_linear(1e-4, torch.float32, ridge=ridge) <= 33


def test_an_absolute_ridge_fails_on_small_problems() -> None:
    """Why the default is relative: the table in the notes reads 400+, 81 and 31."""
    assert calls_on_linear(1e-4, torch.float32, ridge=-1e-4) == 400
    assert calls_on_linear(1.0, torch.float32, ridge=-1e-4) > 60
    assert calls_on_linear(100.0, torch.float32, ridge=-1e-4) <= 33


@pytest.mark.parametrize("m", range(1, 17))
def test_every_history_length_converges(m: int) -> None:
    problem = conditioned()
    sol = anderson(problem.map(), problem.start(), m=m, tol=1e-6, max_iter=600)
    assert sol.converged.all()
    error = (sol.value - problem.solution).norm(dim=1)
    assert (error <= 1.1e-6 * problem.amplification * problem.solution.norm(dim=1)).all()
    if m >= 4:
        assert sol.iterations.max() < fixed_point(problem.map(), problem.start(), tol=1e-6, max_iter=600).iterations.max() / 2


@pytest.mark.parametrize("beta", [1.0, 0.5, 0.1])
def test_a_history_of_one_is_plain_iteration(beta: float) -> None:
    problem = tanh_network()
    options = {"max_iter": 12, "tol": 0.0, "beta": beta, "trace": True}
    one, plain = (
        anderson(problem.map(), problem.start(), m=1, **options),  # type: ignore[arg-type]
        fixed_point(problem.map(), problem.start(), **options),  # type: ignore[arg-type]
    )
    assert one.trace is not None
    assert plain.trace is not None
    # f - (1 - beta) g and x + beta g differ by a rounding.
    torch.testing.assert_close(one.value, plain.value, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(one.trace, plain.trace, rtol=1e-9, atol=0)


@pytest.mark.parametrize("problem", PROBLEMS, ids=str)
@pytest.mark.parametrize("beta", [0.5, 0.1])
def test_damped_mixing_reaches_the_same_point(problem: Problem, beta: float) -> None:
    sol = anderson(problem.map(), problem.start(), beta=beta, tol=1e-8, max_iter=2000)
    assert sol.converged.all()
    torch.testing.assert_close(
        sol.value, problem.solution, rtol=0, atol=2e-8 * problem.amplification * float(problem.solution.norm())
    )


def test_a_linear_map_of_n_eigenvalues_takes_n_mixed_steps() -> None:
    """With a history that holds them all, Anderson mixing is GMRES on a linear problem (Walker and Ni 2011, theorem 2.2)."""
    a = torch.tensor([0.9, -0.5, 0.3, 2.0], dtype=torch.float64).repeat(8)
    shift = noise(3, 32)
    sol = anderson(lambda z: a * z + shift, torch.zeros(3, 32, dtype=torch.float64), m=8, tol=1e-9, ridge=1e-14)
    # The start, four mixed steps, one evaluation to see the end; the pivot floor may cost one more.
    assert (sol.iterations <= 7).all()
    torch.testing.assert_close(sol.value, shift / (1 - a), rtol=1e-7, atol=1e-8)


# --- safeguards ---------------------------------------------------------------------------------------------------------


def visited_with_a_jump(safeguards: bool, factor: float) -> tuple[list[Tensor], list[Tensor]]:
    """Points and values of a solve whose map is suddenly another one at evaluation 5, in sample 1 alone."""
    problem = tanh_network(batch=2, shape=(20,))
    f, points, values = problem.map(), [], []

    def jumps(z: Tensor) -> Tensor:
        points.append(z)
        out = f(z)
        if len(points) == 5:
            residual = (out - z)[1]
            out = out.clone()
            out[1] = z[1] + factor * residual.norm() * noise(20) / noise(20).norm()
        values.append(out)
        return out

    anderson(jumps, problem.start(), max_iter=8, tol=0, safeguards=safeguards)
    return points, values


@pytest.mark.parametrize("backend", ["auto", "torch"])
def test_a_residual_that_jumps_drops_the_history_of_its_sample_alone(backend: str) -> None:
    with use_backend(backend):
        _check_a_jump()


def _check_a_jump() -> None:
    points, values = visited_with_a_jump(safeguards=True, factor=100.0)
    assert torch.equal(points[5][1], values[4][1])
    calm, calm_values = visited_with_a_jump(safeguards=True, factor=1.0)
    assert not torch.equal(calm[5][1], calm_values[4][1])
    for jumped, quiet in zip(points, calm, strict=True):
        torch.testing.assert_close(jumped[0], quiet[0], rtol=1e-13, atol=1e-14)


def test_without_safeguards_the_history_is_kept() -> None:
    points, values = visited_with_a_jump(safeguards=False, factor=100.0)
    assert not torch.equal(points[5][1], values[4][1])


def test_restarts_help_where_a_history_goes_stale() -> None:
    """From z = 3 the slope runs from 0.2 to 0.99: old pairs describe another map."""
    shift = 0.1 * noise(64, 8, seed=7)

    def f(z: Tensor) -> Tensor:
        return 0.99 * z - 0.03 * z**3 + shift

    start = torch.full((64, 8), 3.0, dtype=torch.float64)
    guarded, free = (anderson(f, start, tol=1e-5, max_iter=60, safeguards=s) for s in (True, False))
    assert guarded.converged.sum() > free.converged.sum() + 5


def test_a_plain_step_that_grows_does_not_drop_the_history() -> None:
    """f expands 30-fold, so every plain step grows; dropping the pairs for one more of them can only diverge."""
    slope, shift = torch.linspace(-30, 0.9, 6, dtype=torch.float64), noise(3, 6)
    sol = anderson(lambda z: slope * z + shift, torch.zeros(3, 6, dtype=torch.float64), m=16, tol=1e-6)
    assert sol.status.tolist() == [Status.CONVERGED] * 3


def test_capped_weights_take_plain_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    # Weights of sum one have a norm above 0: no allowance for their rounding turns every step into a plain one.
    monkeypatch.setattr(importlib.import_module("ldeq.ops.solve_step.reference"), "MAX_WEIGHT_ROUNDING", 0.0)
    problem = tanh_network()
    with use_backend("torch"):  # the compiled step has its own constant
        capped = anderson(problem.map(), problem.start(), max_iter=10, tol=0)
    plain = fixed_point(problem.map(), problem.start(), max_iter=10, tol=0)
    assert torch.equal(capped.value, plain.value)


# --- parity with what people have today ---------------------------------------------------------------------------------


def textbook(f: Map, x0: Tensor, *, m: int, lam: float, max_iter: int, tol: float) -> tuple[Tensor, list[Tensor]]:
    """The batched loop of public DEQ tutorials: two start-up evaluations, the bordered system with an absolute lambda, a
    stop on the batch mean of the relative residual, the x of lowest residual. Returns it and every x that f was given.
    """
    batch, size = x0.shape
    x_ring, f_ring = (torch.zeros(batch, m, size, dtype=x0.dtype) for _ in range(2))
    x_ring[:, 0], f_ring[:, 0] = x0, f(x0)
    x_ring[:, 1], f_ring[:, 1] = f_ring[:, 0], f(f_ring[:, 0])
    visited = [x_ring[:, 0].clone(), x_ring[:, 1].clone()]
    system = torch.zeros(batch, m + 1, m + 1, dtype=x0.dtype)
    system[:, 0, 1:] = system[:, 1:, 0] = 1
    right = torch.zeros(batch, m + 1, 1, dtype=x0.dtype)
    right[:, 0] = 1
    best, lowest = x0, torch.full((batch,), torch.inf, dtype=x0.dtype)
    for k in range(2, max_iter + 2):
        n = min(k, m)
        g = f_ring[:, :n] - x_ring[:, :n]
        system[:, 1 : n + 1, 1 : n + 1] = g @ g.mT + lam * torch.eye(n, dtype=x0.dtype)
        alpha = torch.linalg.solve(system[:, : n + 1, : n + 1], right[:, : n + 1])[:, 1:, 0]
        x = (alpha.unsqueeze(1) @ f_ring[:, :n])[:, 0]
        visited.append(x)
        x_ring[:, k % m], f_ring[:, k % m] = x, f(x)
        residual = (f_ring[:, k % m] - x).norm(dim=1) / f_ring[:, k % m].norm(dim=1)
        best = torch.where((residual < lowest).unsqueeze(1), x, best)
        lowest = torch.minimum(residual, lowest)
        if residual.mean() <= tol:
            break
    return best, visited


@pytest.mark.parametrize("problem", [p for p in PROBLEMS if p.solution.ndim == 2], ids=str)
@pytest.mark.parametrize("max_iter", [5, 20])
def test_published_settings_walk_the_textbook_loop(problem: Problem, max_iter: int) -> None:
    f, visited = problem.map(), []

    def watched(z: Tensor) -> Tensor:
        visited.append(z)
        return f(z)

    # Their budget does not count the two start-up evaluations, ours counts every one.
    sol = anderson(watched, problem.start(), max_iter=max_iter + 2, tol=1e-4, **PUBLISHED)
    best, expected = textbook(f, problem.start(), m=6, lam=1e-4, max_iter=max_iter, tol=1e-4)
    assert len(visited) == len(expected)
    for ours, theirs in zip(visited, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5 * float(theirs.norm(dim=1).max()))
    torch.testing.assert_close(sol.value, best, rtol=0, atol=1e-5 * float(best.norm(dim=1).max()))


@pytest.mark.parametrize("problem", [p for p in PROBLEMS if p.name in ("linear at 100", "rotation", "tanh network")], ids=str)
def test_torchdeq_finds_the_same_fixed_point(problem: Problem) -> None:
    solvers = pytest.importorskip("torchdeq.solver")
    tol = 1e-7
    theirs, _, info = solvers.get_solver("anderson")(
        problem.map(), problem.start(), max_iter=400, tol=tol, stop_mode="rel", m=6, lam=1e-8
    )
    assert (info["rel_lowest"] <= tol).all()
    ours = anderson(problem.map(), problem.start(), max_iter=400, tol=tol)
    assert ours.converged.all()
    # Each may be amplification x tol away from the solution.
    bound = 2.2 * tol * problem.amplification * problem.solution.flatten(1).norm(dim=1)
    assert ((ours.value - theirs).flatten(1).norm(dim=1) <= bound).all()


@pytest.mark.parametrize("max_iter", [3, 4, 8])
def test_torchdeq_takes_the_same_steps_with_its_own_ridge(max_iter: int) -> None:
    solvers = pytest.importorskip("torchdeq.solver")
    problem = linear(100.0)
    theirs, _, _ = solvers.get_solver("anderson")(
        problem.map(), problem.start(), max_iter=max_iter, tol=0.0, stop_mode="rel", m=6, lam=1e-4
    )
    ours = anderson(problem.map(), problem.start(), max_iter=max_iter, tol=0.0, m=6, ridge=-1e-4, safeguards=False)
    # Both return f at the lowest residual, and both count every evaluation.
    torch.testing.assert_close(ours.value, theirs, rtol=1e-6, atol=1e-8)


# --- what a history is worth ----------------------------------------------------------------------------------------------


def evaluations(f: Map, start: Tensor, **options: float) -> int:
    sol = anderson(f, start, **({"max_iter": 500, "tol": 1e-9} | options))  # type: ignore[arg-type]
    assert sol.converged.all()
    return int(sol.iterations.max())


def secant(f: Callable[[float], float], x: float, tol: float) -> int:
    """Evaluations that the secant method for f(x) - x takes: Anderson mixing of two pairs of one number."""
    before, residual_before, count = math.nan, math.nan, 0
    while True:
        residual, count = f(x) - x, count + 1
        if abs(residual) <= tol * abs(f(x)):
            return count
        slope = -1.0 if count == 1 else (residual - residual_before) / (x - before)
        before, residual_before, x = x, residual, x - residual / slope


@pytest.mark.parametrize("m", [2, 6, 12])
def test_more_pairs_than_numbers_do_no_harm(m: int) -> None:
    """Residuals of one number are parallel, and a sum that damps all of them forgets the newest two, which are a secant."""
    start = torch.zeros(1, 1, dtype=torch.float64)
    assert evaluations(torch.cos, start, m=m, tol=1e-12) <= secant(math.cos, 0.0, 1e-12) + 1
    assert evaluations(lambda z: -2.5 * torch.tanh(z) + 0.7, start, m=m, tol=1e-12) <= 14
    slopes = torch.tensor([-30.0, -3.0, 0.5, 0.9], dtype=torch.float64)
    few = evaluations(lambda z: slopes * z + 1, torch.zeros(1, 4, dtype=torch.float64), m=5)
    assert evaluations(lambda z: slopes * z + 1, torch.zeros(1, 4, dtype=torch.float64), m=16) <= few + 1


def test_small_steps_use_the_precision_of_float64() -> None:
    """Gradient steps of a hundredth: residuals differ by a hundredth of themselves, their Gram matrix by 1e-4 and by powers of
    it."""
    a = noise(20, 5, seed=28) / 20**0.5
    h = a.T @ a
    rate = 0.01 / torch.linalg.matrix_norm(h, 2)
    shift = noise(3, 5, seed=29)
    # Five mixed steps on five unknowns, from two evaluations on, and a few that rounding costs.
    assert evaluations(lambda z: z - rate * (z @ h - shift), torch.zeros(3, 5, dtype=torch.float64), m=12) <= 10


def test_a_history_that_makes_no_progress_is_dropped() -> None:
    """Six pairs on a spectrum up to .99: without restarts, 380 evaluations and more."""
    slopes, shift = torch.linspace(-0.9, 0.99, 100, dtype=torch.float64), noise(4, 100)
    options = {"max_iter": 1000, "tol": 1e-9}
    start = torch.zeros(4, 100, dtype=torch.float64)
    guarded, free = (anderson(lambda z: slopes * z + shift, start, safeguards=s, **options) for s in (True, False))
    assert guarded.converged.all()
    assert guarded.iterations.max() < 0.6 * free.iterations.min()
