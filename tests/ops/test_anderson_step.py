"""The fused Anderson step against a float64 formula, and fused solves against the reference loop."""

from __future__ import annotations

import pytest
import torch
from native import Calls, needs_library

import ldeq
from ldeq.ops.anderson import SolveState, StopRule, anderson_step
from ldeq.solvers import PUBLISHED, Status, anderson
from ldeq.solvers.anderson import mixing_weights

pytestmark = needs_library

FOREVER = StopRule(tol=0.0, relative=True, batch=False)
DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]


def work(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)


def run_steps(dtype, b, d, m, steps, beta=1.0, history=None, seed=0):
    """Steps on random f; returns the state, every (x, f), and every x_next, whose memory held NaN before."""
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(b, d, generator=g).to(work(dtype))
    state = SolveState.new(x.to(dtype), m, dtype, history)
    state.g_ring.fill_(torch.nan)
    state.kept.fill_(torch.nan)
    seen, nexts = [], []
    for _ in range(steps):
        f = torch.randn(b, d, generator=g).to(dtype)
        x_next, x_cast = torch.full_like(x, torch.nan), torch.full_like(x, torch.nan, dtype=dtype)
        anderson_step(state, x, f, f, x_next, x_cast, stop=FOREVER, beta=beta, ridge=1e-6, safeguards=False)
        assert torch.equal(x_cast, x_next.to(dtype))
        seen.append((x, f))
        nexts.append(x_next)
        x = torch.randn(b, d, generator=g).to(work(dtype))
    return state, seen, nexts


def formula(seen, m, beta, history=None):
    """x_next in float64 from the last m pairs."""
    pairs = [(x.double(), f.double()) for x, f in seen[-m:]]
    gs = [f - x for x, f in pairs]
    if history is not None:
        gs = [g.to(history).double() for g in gs]
    stack = torch.stack(gs, 1)
    gram = stack @ stack.transpose(1, 2)
    alpha = mixing_weights(gram, torch.ones(gram.shape[:2], dtype=torch.bool), 1e-6)
    return sum(alpha[:, i : i + 1] * (pairs[i][1] - (1 - beta) * gs[i]) for i in range(len(pairs)))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("b", "d", "m"), [(1, 40, 1), (3, 37, 2), (2, 1000, 6), (5, 129, 16), (2, 20_001, 5), (1, 8193, 3)])
@pytest.mark.parametrize("beta", [1.0, 0.6])
def test_every_step_equals_the_float64_formula(dtype, b, d, m, beta):
    _, seen, nexts = run_steps(dtype, b, d, m, m + 3, beta)
    for i, x_next in enumerate(nexts):
        expected = formula(seen[: i + 1], m, beta)
        # x is at least float32 whatever the state; its inputs are taken as they are, so float32 rounding is all there is.
        tolerance = 1e-10 if dtype == torch.float64 else 1e-5
        assert (x_next - expected).abs().max() <= tolerance * expected.abs().max()


@pytest.mark.parametrize("beta", [1.0, 0.6])
def test_a_bfloat16_history_is_used_as_it_is_stored(beta):
    _, seen, nexts = run_steps(torch.float32, 2, 3001, 4, 7, beta, history=torch.bfloat16)
    for i, x_next in enumerate(nexts):
        expected = formula(seen[: i + 1], 4, beta, torch.bfloat16)
        assert (x_next - expected).abs().max() <= 1e-5 * expected.abs().max()


def problem(d, b, dtype):
    a = torch.linspace(0, 0.9, d, dtype=torch.float64)
    c = torch.randn(b, d, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    c = c * torch.tensor([1e-3, 1.0, 30.0, 1.0, 0.0], dtype=torch.float64)[:b, None]
    return lambda z: (a * z.double() + c + 0.05 * torch.sin(z.double())).to(z.dtype), torch.zeros(b, d, dtype=dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("d", [1, 33, 9001])
@pytest.mark.parametrize(
    "options",
    [
        {"m": 5, "max_iter": 14, "tol": 1e-3},
        {"m": 1, "max_iter": 6, "tol": 1e-3},
        {"m": 3, "max_iter": 9, "tol": 1e-2, "beta": 0.7, "returns": "x", "stop": "absolute"},
        {"m": 4, "max_iter": 8, "tol": 1e-2, "stop_scope": "batch"},
        {"m": 4, "max_iter": 1},
        {"max_iter": 7, "tol": 1e-3, **PUBLISHED},
    ],
    ids=str,
)
def test_solves_equal_the_reference_loop(dtype, d, options):
    f, z0 = problem(d, 5, dtype)
    fused = anderson(f, z0, trace=True, **options)
    with ldeq.ops.use_backend("torch"):
        loop = anderson(f, z0, trace=True, **options)
    assert torch.equal(fused.iterations, loop.iterations) and torch.equal(fused.status, loop.status)
    # Rounding differs by the order of sums; mixing weights magnify it.
    tolerance = 1e-9 if dtype == torch.float64 else 1e-4
    torch.testing.assert_close(fused.value, loop.value, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(fused.trace, loop.trace, rtol=1e-2, atol=tolerance)
    assert fused.residual.dtype == loop.residual.dtype


def test_half_states_solve_like_the_reference_loop():
    for dtype in (torch.bfloat16, torch.float16):
        f, z0 = problem(333, 4, dtype)
        fused = anderson(f, z0, tol=3e-2, max_iter=12)
        with ldeq.ops.use_backend("torch"):
            loop = anderson(f, z0, tol=3e-2, max_iter=12)
        assert fused.value.dtype == dtype and torch.equal(fused.status, loop.status)
        torch.testing.assert_close(fused.value, loop.value, rtol=5e-2, atol=5e-2)


def test_a_broken_sample_stays_alone():
    bad = torch.tensor([False, True, False])[:, None]

    def f(z):
        return torch.where(bad, torch.log(z - 3), 0.5 * torch.tanh(z) + 1)

    z0 = torch.ones(3, 77)
    sol = anderson(f, z0, tol=1e-5)
    alone = anderson(lambda z: 0.5 * torch.tanh(z) + 1, z0[:1], tol=1e-5)
    assert sol.status.tolist() == [Status.CONVERGED, Status.NONFINITE, Status.CONVERGED]
    assert torch.equal(sol.value[1], z0[1]) and sol.residual[1] == torch.inf
    assert torch.equal(sol.value[0], alone.value[0]) and torch.equal(sol.value[2], alone.value[0])


def test_same_bits_for_any_number_of_threads_and_any_neighbours():
    threads = torch.get_num_threads()
    try:
        results = []
        for n in (1, 2, 5):
            torch.set_num_threads(n)
            results.append(torch.stack(run_steps(torch.float32, 3, 30_000, 4, 6)[2]))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(results[0], other) for other in results[1:])
    f, z0 = problem(20_000, 4, torch.float32)
    z0 = z0 + 0.1
    both = anderson(f, z0, max_iter=8)
    again = anderson(f, z0, max_iter=8)
    assert torch.equal(both.value, again.value) and torch.equal(both.residual, again.residual)


def test_which_path_runs():
    weight = torch.full((4,), 0.5, requires_grad=True)
    z0 = torch.zeros(2, 4)
    with Calls() as calls:
        anderson(lambda z: 0.5 * z + 1, z0, max_iter=4, tol=0)
    assert calls.names == ["anderson_step"] * 4 + ["best_so_far"]
    with torch.no_grad(), Calls() as calls:
        anderson(lambda z: weight * z + 1, z0, max_iter=4, tol=0)
    assert calls.names.count("anderson_step") == 4
    # What must be differentiated runs in plain PyTorch, and f is called no more often for that.
    count = 0

    def f(z):
        nonlocal count
        count += 1
        return weight * z + 1

    with Calls() as calls:
        sol = anderson(f, z0, max_iter=4, tol=0)
    assert calls.names == [] and count == 4 and torch.autograd.grad(sol.value.sum(), weight)[0].abs().sum() > 0
    with ldeq.ops.use_backend("torch"), Calls() as calls:
        anderson(lambda z: 0.5 * z + 1, z0, max_iter=4, tol=0)
    assert calls.names == []


def test_arguments_of_the_solver():
    z0 = torch.zeros(1, 2)
    with pytest.raises(ValueError, match=r"m must lie in 1\.\.16"):
        anderson(lambda z: z, z0, m=17)
    with pytest.raises(ValueError, match="history_dtype"):
        anderson(lambda z: z, z0, history_dtype=torch.float16)
    with pytest.raises(ValueError, match="keep the shape"):
        anderson(lambda z: z[:, :1], z0)
