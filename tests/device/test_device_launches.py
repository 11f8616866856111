"""What a solve asks of a GPU besides its arithmetic: no waiting for it, and launches that a CUDA graph can hold."""

from __future__ import annotations

import contextlib
import inspect
from functools import partial

import pytest
import torch

from ldeq.solvers import anderson, fixed_point

SOLVERS = pytest.mark.parametrize("solver", [partial(anderson, m=3), fixed_point], ids=["anderson", "fixed_point"])


@contextlib.contextmanager
def synchronisation_is_an_error(device):
    if device == "cpu":
        yield
        return
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(before)


def blind(solver, device):
    """A solve with no look of the host, and its start. A first call has compiled and allocated what it needs."""
    if "check_every" not in inspect.signature(anderson).parameters:
        pytest.skip("these solvers look at the device after every step")
    a = torch.linspace(0, 0.9, 517, device=device)
    z0 = torch.zeros(3, 517, device=device)

    def solve():
        return solver(lambda z: a * z + 1, z0, max_iter=6, tol=1e-3, check_every=0)

    return solve, solve(), z0


@SOLVERS
def test_a_solve_never_waits_for_the_device(target, solver):
    solve, expected, _ = blind(solver, target.device)
    with synchronisation_is_an_error(target.device):
        solution = solve()
    assert torch.equal(solution.value, expected.value) and torch.equal(solution.iterations, expected.iterations)


@SOLVERS
def test_a_cuda_graph_holds_a_solve(target, solver):
    solve, expected, z0 = blind(solver, target.device)
    if target.device == "cpu":
        pytest.skip("CUDA graphs need a GPU")
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        solution = solve()
    solution.value.fill_(torch.nan)
    graph.replay()
    torch.cuda.synchronize()
    assert torch.equal(solution.value, expected.value) and torch.equal(solution.status, expected.status)
    z0.fill_(1.0)
    graph.replay()
    other = solve()
    assert torch.equal(solution.value, other.value) and not torch.equal(other.value, expected.value)
