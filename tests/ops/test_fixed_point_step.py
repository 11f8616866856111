"""Fused fixed-point solves against the reference loop."""

from __future__ import annotations

import pytest
import torch
from native import Calls, needs_library

import ldeq
from ldeq.ops.anderson import SolveState, StopRule
from ldeq.ops.fixed_point import fixed_point_step
from ldeq.solvers import Status, fixed_point

pytestmark = needs_library


def f(z):
    return (0.6 * torch.cos(z.double() * torch.linspace(0.2, 1.4, z.shape[1], dtype=torch.float64)) + 0.1).to(z.dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("d", [1, 17, 20_003])
@pytest.mark.parametrize("beta", [1.0, 0.7])
@pytest.mark.parametrize(("scope", "returns"), [("sample", "f"), ("batch", "x")])
def test_solves_equal_the_reference_loop(dtype, d, beta, scope, returns):
    z0 = torch.arange(4.0)[:, None].expand(4, d).to(dtype)
    options = {"beta": beta, "tol": 2e-2, "max_iter": 9, "stop_scope": scope, "returns": returns, "trace": True}
    fused = fixed_point(f, z0, **options)
    with ldeq.ops.use_backend("torch"):
        loop = fixed_point(f, z0, **options)
    assert torch.equal(fused.iterations, loop.iterations) and torch.equal(fused.status, loop.status)
    # beta g + x is one rounding where the processor has fused multiplication, two in the reference.
    tolerance = {torch.float64: 1e-14, torch.float32: 1e-6}.get(dtype, 1e-2)
    torch.testing.assert_close(fused.value, loop.value, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(fused.trace, loop.trace, rtol=max(tolerance, 1e-5), atol=tolerance)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16], ids=str)
def test_one_step_writes_every_element(dtype):
    work = torch.promote_types(dtype, torch.float32)
    x, value = torch.randn(3, 1003).to(work), torch.randn(3, 1003).to(dtype)
    state = SolveState.new(value, 0, dtype, None)
    x_next, x_cast = torch.full_like(x, torch.nan), torch.full_like(value, torch.nan)
    fixed_point_step(state, x, value, value, x_next, x_cast, stop=StopRule(0.0, False, False), beta=0.3)
    expected = x.double() + 0.3 * (value.double() - x.double())
    assert (x_next - expected).abs().max() <= (1e-14 if dtype == torch.float64 else 1e-6) * expected.abs().max()
    assert torch.equal(x_cast, x_next.to(dtype))


def test_a_broken_sample_stays_alone_and_f_never_sees_its_nan():
    def g(z):
        assert torch.isfinite(z).all()
        return torch.where(torch.tensor([True, False])[:, None], z / 2 + 1, torch.nan)

    sol = fixed_point(g, torch.zeros(2, 5), tol=1e-6, max_iter=30)
    assert sol.status.tolist() == [Status.CONVERGED, Status.NONFINITE]
    torch.testing.assert_close(sol.value[0], torch.full((5,), 2.0))
    assert torch.equal(sol.value[1], torch.zeros(5))


def test_which_path_runs():
    with Calls() as calls:
        fixed_point(f, torch.zeros(2, 3), max_iter=3, tol=0)
    assert calls.names == ["fixed_point_step"] * 3 + ["best_so_far"]


def test_opcheck_and_errors():
    x = torch.randn(2, 9)
    state = SolveState.new(x, 0, x.dtype, None)
    kept, x_next = torch.zeros_like(x), torch.zeros_like(x)
    rest = (0, 0.5, 1e-4, True, False)
    torch.library.opcheck(
        torch.ops.ldeq.fixed_point_step, (x, x + 1, None, state.numbers, state.flags, kept, x_next, None, *rest)
    )
    with pytest.raises(RuntimeError, match="x_next has another shape"):
        torch.ops.ldeq.fixed_point_step(x, x, None, state.numbers, state.flags, kept, x_next[:, :3], None, *rest)
