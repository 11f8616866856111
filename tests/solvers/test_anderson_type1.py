"""Type I against a plain float64 form of its formula; its safeguards; every scale."""

from __future__ import annotations

import pytest
import torch
from problems import PROBLEMS, Problem, conditioned, noise, tanh_network
from torch import Tensor

from ldeq.solvers import Anderson, Injected, Status, anderson, fixed_point
from ldeq.solvers.anderson_type1 import type_one_weights


def textbook(f, x: Tensor, *, m: int, beta: float, steps: int) -> list[Tensor]:
    """x + beta g - (S + beta Y) (S^T Y)^-1 S^T g of one sample `(D,)`, the last m - 1 differences (Fang and Saad 2009)."""
    visited, xs, gs = [], [], []
    for _ in range(steps):
        visited.append(x)
        g = f(x[None])[0] - x
        xs, gs = [*xs, x][-m:], [*gs, g][-m:]
        x = x + beta * g
        if len(xs) > 1:
            s, y = torch.stack(xs).diff(dim=0).T, torch.stack(gs).diff(dim=0).T
            x = x - (s + beta * y) @ torch.linalg.solve(s.T @ y, s.T @ g)
    return visited


@pytest.mark.parametrize("m", [2, 3, 6])
@pytest.mark.parametrize("beta", [1.0, 0.6])
def test_the_iterates_are_those_of_the_textbook_formula(m: int, beta: float) -> None:
    problem = tanh_network(shape=(20,))
    f, visited = problem.map(), []

    def watched(z: Tensor) -> Tensor:
        visited.append(z)
        return f(z)

    anderson(watched, problem.start(), kind="I", m=m, beta=beta, max_iter=11, tol=0, safeguards=False)
    for i in range(len(problem.solution)):
        expected = textbook(problem.map(rows=slice(i, i + 1)), problem.start()[i], m=m, beta=beta, steps=11)
        for k, (ours, theirs) in enumerate(zip(visited, expected, strict=True)):
            # Two orders of elimination differ by rounding times the condition of S^T Y.
            torch.testing.assert_close(ours[i], theirs, rtol=0, atol=1e-8, msg=lambda m, k=k: f"iterate {k}: {m}")


def test_it_is_another_method_than_type_two() -> None:
    problem = tanh_network()
    one, two = (anderson(problem.map(), problem.start(), kind=k, max_iter=6, tol=0).value for k in ("I", "II"))
    assert (one - two).norm() > 1e-6 * two.norm()


@pytest.mark.parametrize("ridge", [0.0, 1e-3, -1e-2], ids=str)
def test_weights_solve_the_shifted_system(ridge: float) -> None:
    gram, right = noise(4, 5, 5, seed=1) - 4 * torch.eye(5, dtype=torch.float64), noise(4, 5, seed=2)
    t = type_one_weights(gram, right, torch.ones(4, 5, dtype=torch.bool), 3, ridge)
    size = gram.diagonal(dim1=1, dim2=2).abs().mean(1)
    shift = ridge * size if ridge >= 0 else torch.full_like(size, -ridge)
    expected = torch.linalg.solve(gram - shift[:, None, None] * torch.eye(5, dtype=torch.float64), right)
    torch.testing.assert_close(t, expected, rtol=1e-10, atol=1e-12)


def test_differences_that_are_left_out_have_no_part() -> None:
    gram, right = noise(3, 5, 5, seed=1) - 4 * torch.eye(5, dtype=torch.float64), noise(3, 5, seed=2)
    taking = torch.tensor([[1, 1, 0, 1, 1], [0, 0, 0, 0, 0], [1, 0, 1, 0, 0]], dtype=torch.bool)
    gram[0, 2, :], gram[1] = torch.nan, torch.inf
    t = type_one_weights(gram, right, taking, 3)
    assert (t[~taking] == 0).all()
    for i in (0, 2):
        inner = gram[i][taking[i]][:, taking[i]]
        torch.testing.assert_close(t[i][taking[i]], torch.linalg.solve(inner, right[i][taking[i]]), rtol=1e-10, atol=1e-12)


def test_dependent_differences_give_finite_weights() -> None:
    row = noise(2, 1, 5, seed=1)
    t = type_one_weights(row.mT @ row, (row.mT @ noise(2, 1, 1, seed=3))[..., 0], torch.ones(2, 5, dtype=torch.bool), 4)
    assert t.isfinite().all()
    assert (t != 0).sum(1).tolist() == [1, 1]


@pytest.mark.parametrize("problem", PROBLEMS, ids=str)
def test_every_problem_is_solved(problem: Problem) -> None:
    sol = Anderson(kind="I", tol=1e-8, max_iter=400)(problem.map(), problem.start())
    assert sol.converged.all()
    bound = 2e-8 * problem.amplification * float(problem.solution.norm())
    torch.testing.assert_close(sol.value, problem.solution, rtol=0, atol=bound)


@pytest.mark.parametrize("m", [1, 2, 4, 9, 16])
def test_every_history_length_converges(m: int) -> None:
    problem = conditioned()
    sol = anderson(problem.map(), problem.start(), kind="I", m=m, tol=1e-6, max_iter=600)
    assert sol.converged.all()
    if m == 1:
        assert torch.equal(sol.value, fixed_point(problem.map(), problem.start(), tol=1e-6, max_iter=600).value)


@pytest.mark.parametrize("m", [6, 16])
def test_more_pairs_than_numbers_and_slopes_beyond_one(m: int) -> None:
    slope, shift = torch.tensor([-3.0, 0.5, 1.5, 0.9], dtype=torch.float64), noise(3, 4, seed=1)
    sol = anderson(lambda z: slope * z + shift, torch.zeros_like(shift), kind="I", m=m, tol=1e-9, max_iter=40)
    assert sol.converged.all()
    torch.testing.assert_close(sol.value, shift / (1 - slope), rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("scale", [1e-30, 1e-10, 1e10, 1e19, 1e30], ids=str)
def test_evaluations_are_the_same_at_every_scale(scale: float, dtype: torch.dtype) -> None:
    slope = torch.linspace(0, 0.9, 64, dtype=dtype)
    shift = noise(2, 64, seed=1).to(dtype)
    usual, other = (
        anderson(lambda z, s=s: slope * z + s * shift, torch.zeros_like(shift), kind="I", tol=1e-5) for s in (1.0, scale)
    )
    assert other.converged.all()
    assert (usual.iterations - other.iterations).abs().max() <= 1
    torch.testing.assert_close(other.value / scale, shift / (1 - slope), rtol=1e-3, atol=1e-3)


def test_a_sample_that_breaks_leaves_the_others_alone() -> None:
    problem = tanh_network()
    f, calls = problem.map(), []

    def breaks(z: Tensor) -> Tensor:
        calls.append(z)
        out = f(z).clone()
        if len(calls) == 5:
            out[1] = torch.nan
        return out

    whole = anderson(f, problem.start(), kind="I", tol=1e-8)
    broken = anderson(breaks, problem.start(), kind="I", tol=1e-8)
    assert broken.status[1] == Status.NONFINITE
    assert broken.value.isfinite().all()
    for i in (0, 2):
        assert torch.equal(broken.value[i], whole.value[i])


def test_a_solve_can_be_differentiated() -> None:
    slope = torch.linspace(-0.5, 0.8, 5, dtype=torch.float64)

    def solved(shift: Tensor) -> Tensor:
        return anderson(
            lambda z: slope * torch.tanh(z) + shift, torch.zeros_like(shift), kind="I", m=4, max_iter=7, tol=0
        ).value

    assert torch.autograd.gradcheck(solved, (noise(2, 5, seed=1).requires_grad_(),))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"kind": "1"}, "unknown kind '1'; choose one of I, II"),
        ({"kind": "I", "history_dtype": torch.bfloat16}, "history_dtype=torch.bfloat16 is for kind='II'"),
    ],
    ids=str,
)
def test_options_that_do_not_go_together_are_refused(options: dict[str, object], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        Anderson(**options)


def test_samples_that_go_early_change_nothing_for_the_others() -> None:
    slope = torch.linspace(0.1, 0.95, 6, dtype=torch.float64).unsqueeze(1) * torch.linspace(-1, 1, 9, dtype=torch.float64)
    f = Injected(lambda z, x: x["slope"] * z + 1, {"slope": slope})
    whole, narrowed = (
        anderson(f, torch.zeros_like(slope), kind="I", m=4, tol=1e-9, max_iter=60, compact=share) for share in (0.0, 0.9)
    )
    assert whole.iterations.tolist() == narrowed.iterations.tolist() and whole.iterations.unique().numel() > 2
    torch.testing.assert_close(narrowed.value, whole.value, rtol=1e-12, atol=1e-12)
