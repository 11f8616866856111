from __future__ import annotations

import pytest
import torch
from problems import conditioned, noise, tanh_network
from torch import Tensor

from ldeq.solvers import Solution, Status, broyden


def dense_broyden(f: object, x: Tensor, steps: int) -> list[Tensor]:
    """Good Broyden with H as a matrix, one sample, by the textbook update of the inverse (Sherman and Morrison)."""
    assert callable(f)
    h = -torch.eye(len(x), dtype=x.dtype)
    g = f(x[None])[0] - x
    visited = [x]
    for _ in range(steps - 1):
        dx = -h @ g
        x = x + dx
        g_next = f(x[None])[0] - x
        dg = g_next - g
        h = h + torch.outer(dx - h @ dg, dx @ h) / (dx @ h @ dg)
        g = g_next
        visited.append(x)
    return visited


def test_the_limited_memory_walks_the_same_path_as_the_full_matrix() -> None:
    problem = tanh_network(shape=(20,))
    visited: list[Tensor] = []
    f = problem.map()

    def watched(z: Tensor) -> Tensor:
        visited.append(z)
        return f(z)

    broyden(watched, problem.start(), max_iter=12, tol=0, m=16)
    for i in range(len(problem.solution)):
        expected = dense_broyden(problem.map(rows=slice(i, i + 1)), problem.start()[i], 12)
        for ours, theirs in zip(visited, expected, strict=True):
            # The corrections amplify roundings as the residual falls by ten decades.
            torch.testing.assert_close(ours[i], theirs, rtol=0, atol=1e-8)


@pytest.mark.parametrize("m", [1, 2, 3, 8, 40])
def test_a_full_memory_starts_over_and_still_converges(m: int) -> None:
    problem = conditioned()
    sol = broyden(problem.map(), problem.start(), m=m, tol=1e-8, max_iter=1500)
    assert sol.converged.all()
    error = (sol.value - problem.solution).norm(dim=1)
    assert (error <= 1.1e-8 * problem.amplification * problem.solution.norm(dim=1)).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("scale", [1e-35, 1e-30, 1e-19, 1e-4, 1e4, 1e19, 1e30], ids=str)
def test_states_of_any_size_are_solved_alike(scale: float, dtype: torch.dtype) -> None:
    """Products of two steps of 1e-30 vanish in float32, and those of 1e19 overflow: no correction was ever taken in."""
    slope, shift = torch.linspace(0, 0.9, 64, dtype=dtype), noise(2, 64, seed=1).to(dtype)

    def solve(scale: float) -> Solution:
        return broyden(lambda z: slope * z + scale * shift, torch.zeros_like(shift), tol=1e-5, max_iter=60)

    usual, other = solve(1.0), solve(scale)
    assert other.converged.all()
    # Rounding is another at another scale: a restart may come a few evaluations later.
    assert (other.iterations - usual.iterations).max() <= 10
    torch.testing.assert_close((other.value.double() / scale), shift.double() / (1 - slope.double()), rtol=0, atol=5e-3)


def test_one_number_is_the_secant_method() -> None:
    sol = broyden(torch.cos, torch.zeros(1, 1, dtype=torch.float64), tol=1e-14)
    assert sol.iterations.item() <= 9
    assert sol.value.item() == pytest.approx(0.7390851332151607, abs=1e-15)


def test_a_plain_step_that_grows_does_not_drop_the_corrections() -> None:
    """f expands 12-fold; a restart on the growth of its first plain step forgets what that step taught."""
    slope, shift = torch.linspace(-12, 0.5, 6, dtype=torch.float64), noise(3, 6)
    sol = broyden(lambda z: slope * z + shift, torch.zeros(3, 6, dtype=torch.float64), tol=1e-6)
    assert sol.status.tolist() == [Status.CONVERGED] * 3
