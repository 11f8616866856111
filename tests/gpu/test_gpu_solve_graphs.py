"""Solve loops on a CUDA device: no host synchronisation, looks that come late, whole solves as CUDA graphs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ldeq import DEQ
from ldeq.solvers import SOLVERS, Injected, Solution, anderson

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")

each_solver = pytest.mark.parametrize("solver", SOLVERS.values(), ids=list(SOLVERS))


class Cell(nn.Module):
    def __init__(self, channels: int = 8) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.mix = nn.Conv2d(2 * channels, 32, 3, padding=1)
        self.norm = nn.GroupNorm(4, 32)
        self.head = nn.Conv2d(32, channels, 1)

    def forward(self, z: Tensor, x: Tensor) -> Tensor:
        v = torch.nn.functional.leaky_relu(self.norm(self.mix(torch.cat([z, x], 1))))
        return torch.tanh(0.1 * self.head(v) + x)


def injection(seed: int = 0, batch: int = 4) -> Tensor:
    return torch.randn(batch, 8, 32, 32, generator=torch.Generator().manual_seed(seed)).cuda()


@pytest.fixture(autouse=True)
def deterministic() -> Iterator[None]:
    before = torch.backends.cudnn.deterministic
    torch.backends.cudnn.deterministic = True
    yield
    torch.backends.cudnn.deterministic = before


@pytest.fixture
def no_synchronisation() -> Iterator[None]:
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    yield
    torch.cuda.set_sync_debug_mode("default")


def solve(solver: Callable[..., Solution], x: Tensor, **options: Any) -> Solution:
    cell = Cell().cuda()
    with torch.no_grad():
        return solver(Injected(cell, x), torch.zeros_like(x), tol=1e-4, max_iter=30, **options)


@each_solver
@pytest.mark.parametrize(
    "options", [{}, {"stop": "motion", "observe": lambda z: z.flatten(2).mean(-1)}], ids=["residual", "motion"]
)
def test_a_solve_never_synchronises(solver: Callable[..., Solution], options: dict[str, Any]) -> None:
    x, cell = injection(), Cell().cuda()
    start = torch.zeros_like(x)
    for every, compact in ((0, 0.0), (1, 0.0), (3, 0.0), (1, 0.9)):
        run = partial(solver, Injected(cell, x), start, tol=1e-4, max_iter=30, check_every=every, compact=compact, **options)
        with torch.no_grad():
            run()
            torch.cuda.synchronize()
            torch.cuda.set_sync_debug_mode("error")
            try:
                run()
            finally:
                torch.cuda.set_sync_debug_mode("default")


@each_solver
def test_late_looks_change_nothing_but_the_number_of_evaluations(solver: Callable[..., Solution]) -> None:
    x = injection()
    x[1] *= 1e-3
    never = solve(solver, x, check_every=0)
    for options in ({"check_every": 1}, {"check_every": 4}, {"check_every": 1, "compact": 0.9}):
        sol = solve(solver, x, **options)
        torch.testing.assert_close(sol.value, never.value, rtol=1e-5, atol=1e-5)
        assert sol.status.tolist() == never.status.tolist()
        if "compact" not in options:
            assert torch.equal(sol.iterations, never.iterations)


def step(deq: DEQ, x: Tensor) -> tuple[Tensor, Solution, list[Tensor]]:
    x = x.clone().requires_grad_()
    z, sol = deq(torch.zeros_like(x), x)
    return z.detach(), sol, list(torch.autograd.grad(z.float().square().mean(), [*deq.cell.parameters(), x]))  # type: ignore[attr-defined]


@each_solver
@pytest.mark.parametrize("gradient", ["implicit", "jfb"])
@pytest.mark.parametrize("dtype", [None, torch.bfloat16], ids=["float32", "autocast"])
def test_replays_equal_the_solves_that_they_replace(
    solver: Callable[..., Solution], gradient: str, dtype: torch.dtype | None
) -> None:
    cell = Cell().cuda()
    chosen = partial(solver, tol=1e-3, max_iter=8, check_every=0, trace=True)
    eager, graphed = (DEQ(cell, chosen, gradient=gradient, cuda_graphs=g) for g in (False, True))
    for seed in range(4):
        with torch.autocast("cuda", dtype=dtype, enabled=dtype is not None):
            one, other = step(graphed, injection(seed)), step(eager, injection(seed))
        loose = {"rtol": 1e-4, "atol": 1e-5} if dtype is None else {"rtol": 2e-2, "atol": 2e-2}
        torch.testing.assert_close(one[0], other[0], **loose)
        torch.testing.assert_close(one[1].residual, other[1].residual, **loose)
        for a, b in zip(one[2], other[2], strict=True):
            torch.testing.assert_close(a, b, **loose)
        if gradient == "implicit":
            assert one[1].adjoint is not None
        with torch.no_grad():
            for p in cell.parameters():
                p.mul_(0.95)
    assert graphed.graphs is not None
    assert graphed.graphs.reason is None
    assert len(graphed.graphs) == 1


def test_a_replay_never_synchronises(no_synchronisation: None) -> None:
    torch.cuda.set_sync_debug_mode("default")
    cell, x = Cell().cuda(), injection()
    deq = DEQ(cell, partial(anderson, max_iter=6, check_every=0), cuda_graphs=True)
    step(deq, x)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    step(deq, x)


def test_inference_carries_its_state_through_replays() -> None:
    cell = Cell().cuda().eval()
    eager, graphed = (DEQ(cell, partial(anderson, max_iter=4, check_every=0), cuda_graphs=g) for g in (False, True))
    states = [torch.zeros(4, 8, 32, 32, device="cuda")] * 2
    kept = []
    with torch.inference_mode():
        for frame in range(5):
            states = [deq(z, injection(frame))[0] for deq, z in zip((eager, graphed), states, strict=True)]
            kept.append(states)
    for one, other in kept:
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_several_steps_in_flight_and_training() -> None:
    results = []
    for graphs in (False, True):
        cell = Cell().cuda()
        deq = DEQ(cell, partial(anderson, max_iter=6, check_every=0), cuda_graphs=graphs)
        optimizer = torch.optim.SGD(cell.parameters(), 0.1)
        for i in range(4):
            optimizer.zero_grad()
            one, two = (deq(torch.zeros(4, 8, 32, 32, device="cuda"), injection(2 * i + k))[0] for k in (0, 1))
            (one * two).mean().backward()
            optimizer.step()
        results.append([p.detach().clone() for p in cell.parameters()])
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    assert deq.graphs is not None
    assert len(deq.graphs) == 2


def test_memory_is_that_of_one_capture() -> None:
    deq = DEQ(Cell().cuda(), partial(anderson, max_iter=6, check_every=0), cuda_graphs=True)
    step(deq, injection())
    before = torch.cuda.memory_allocated()
    for seed in range(10):
        step(deq, injection(seed))
    assert torch.cuda.memory_allocated() <= before
