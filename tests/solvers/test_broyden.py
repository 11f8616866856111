from __future__ import annotations

import pytest
import torch
from problems import conditioned, linear, noise, tanh_network
from torch import Tensor

from ldeq.solvers import Status, broyden


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


@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e4], ids=str)
def test_calls_do_not_depend_on_the_scale_of_the_problem(scale: float) -> None:
    calls = [
        int(broyden(linear(s, n=256).map(), linear(s, n=256).start(), tol=1e-6, max_iter=300).iterations.max())
        for s in (1.0, scale)
    ]
    assert abs(calls[0] - calls[1]) <= 1


def test_one_number_is_the_secant_method() -> None:
    sol = broyden(torch.cos, torch.zeros(1, 1, dtype=torch.float64), tol=1e-14)
    assert sol.iterations.item() <= 9
    assert sol.value.item() == pytest.approx(0.7390851332151607, abs=1e-15)


def test_a_plain_step_that_grows_does_not_drop_the_corrections() -> None:
    """f expands 12-fold; a restart on the growth of its first plain step forgets what that step taught."""
    slope, shift = torch.linspace(-12, 0.5, 6, dtype=torch.float64), noise(3, 6)
    sol = broyden(lambda z: slope * z + shift, torch.zeros(3, 6, dtype=torch.float64), tol=1e-6)
    assert sol.status.tolist() == [Status.CONVERGED] * 3
