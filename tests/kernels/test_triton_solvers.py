"""The solvers' Triton kernels in the interpreter, against float64 step by step and against the reference solve by solve."""

import math

import pytest
import torch

from ldeq.solvers import Status, anderson, fixed_point
from ldeq.solvers.anderson import mixing_weights

kernels = pytest.importorskip("ldeq.kernels.anderson")
fixed = pytest.importorskip("ldeq.kernels.fixed_point")
progress = pytest.importorskip("ldeq.kernels.progress")

# One unit in the last place: the interpreter breaks ties of bfloat16 in its own way.
ROUNDING = {torch.float32: 0.0, torch.bfloat16: 2**-7, torch.float16: 2**-10}


def triton_anderson(
    f, z0, *, m, max_iter, tol, stop, ridge=1e-8, beta=1.0, returns="f", g_dtype=torch.float32, after_step=None
):
    state = kernels.AndersonState.fresh(z0, m, g_dtype)
    # Unwritten memory shows.
    for buffer in (state.f, state.g, state.partials, state.gram, state.alpha):
        buffer.fill_(math.nan)
    p = progress.ProgressState.fresh(z0.shape[0], max_iter, z0.device)
    x_cast = torch.full_like(z0, math.nan) if z0.dtype != torch.float32 else None
    for step in range(max_iter):
        before = state.x.clone()
        fx = f(state.x.to(z0.dtype))
        kernels.launch_step(
            fx, x_cast, state, p, step=step, tol=tol, relative=stop == "relative", ridge=ridge, beta=beta,
            returns_x=returns == "x", safeguards=True, last=step + 1 == max_iter,
        )  # fmt: skip
        if after_step is not None:
            after_step(step, before, fx, state, p, x_cast)
    progress.launch_finish(state.x[None] if returns == "x" else state.f, p, state.value)
    return state.value, p


def triton_fixed_point(f, z0, *, max_iter, tol, stop, beta=1.0, returns="f"):
    batch, size = z0.shape
    p = progress.ProgressState.fresh(batch, max_iter, z0.device)
    value = z0.clone()
    slots = 3 if returns == "x" else 2
    ring = torch.full((slots, batch, size), math.nan, dtype=torch.float32 if returns == "x" else z0.dtype)
    x = z0.float().clone()
    if returns == "x":
        ring[0] = x
    partials = fixed.partials_for(batch, size, z0.device).fill_(math.nan)
    for step in range(max_iter):
        now, after = (ring[step % 3], ring[(step + 1) % 3]) if returns == "x" else (x, x)
        fixed.launch_step(
            f(now.to(z0.dtype)), now, after, None, ring, value, partials, p, step=step, tol=tol, relative=stop == "relative",
            beta=beta, returns_x=returns == "x",
        )  # fmt: skip
    progress.launch_finish(ring, p, value)
    return value, p


@pytest.mark.parametrize(
    ("size", "m", "beta", "dtype", "g_dtype"),
    [
        (37, 1, 1.0, torch.float32, torch.float32),
        (2100, 3, 0.7, torch.float32, torch.float32),
        (517, 9, 1.0, torch.float32, torch.float32),
        (70, 6, 0.7, torch.bfloat16, torch.bfloat16),
        (70, 2, 1.0, torch.float16, torch.float32),
        (1, 3, 1.0, torch.float32, torch.float32),
    ],
)
def test_each_step_against_float64(size, m, beta, dtype, g_dtype):
    generator = torch.Generator().manual_seed(size + m)
    b, count = 2, m + 2
    outputs = [torch.randn(b, size, generator=generator).to(dtype) for _ in range(count)]
    calls = iter(outputs)
    # A single number has parallel residuals: weights that blow up are checked elsewhere.
    ridge = 1e-8 if size > m else 1.0

    def check(step, before, fx, state, p, x_cast):
        n = min(step + 1, m)
        exact = fx.float() - before
        assert torch.equal(state.f[step % m], fx)
        torch.testing.assert_close(state.g[step % m].float(), exact, rtol=ROUNDING[g_dtype], atol=0)
        torch.testing.assert_close(p.trace[step].double(), exact.double().norm(dim=1), rtol=1e-6, atol=0)
        if step + 1 == count:
            return
        g = state.g[:n].double().transpose(0, 1)
        alpha = mixing_weights(g @ g.mT, torch.ones(b, n, dtype=torch.bool), ridge)
        torch.testing.assert_close(state.alpha[:, :n].double(), alpha, rtol=1e-5, atol=1e-5)
        wanted = (alpha.unsqueeze(-1) * (state.f[:n].double().transpose(0, 1) - (1 - beta) * g)).sum(1)
        torch.testing.assert_close(state.x.double(), wanted, rtol=1e-5, atol=1e-5 * float(wanted.abs().max()))
        if x_cast is not None:
            torch.testing.assert_close(x_cast.float(), state.x, rtol=ROUNDING[dtype], atol=1e-6)

    z0 = torch.randn(b, size, generator=generator).to(dtype)
    value, p = triton_anderson(
        lambda x: next(calls),
        z0,
        m=m,
        max_iter=count,
        tol=0.0,
        stop="absolute",
        ridge=ridge,
        beta=beta,
        g_dtype=g_dtype,
        after_step=check,
    )
    # The best point is exactly what f returned there, also where the ring had to give it up.
    best = p.trace.argmin(0)
    for i in range(b):
        assert torch.equal(value[i], outputs[best[i]][i])


def problem(size: int):
    """Samples that converge, converge slowly, become NaN, blow up, start at the answer, and mix badly."""
    slope = torch.linspace(0, 0.8, size)
    rates = torch.tensor([0.5, 1.0, 0.9, 1.0, 0.3, 1.0]).unsqueeze(1)
    count = 0

    def f(z):
        nonlocal count
        count += 1
        out = z * slope * rates + 1
        out[2] = math.nan if count >= 4 else out[2]
        out[3] = 10.0 ** min(3 * count, 15)
        if count == 5:
            out[5] = 1e4 * out[5]
        return out

    z0 = torch.zeros(6, size)
    z0[4] = 1 / (1 - slope * rates[4])
    return f, z0


@pytest.mark.parametrize("returns", ["f", "x"])
@pytest.mark.parametrize("solver", ["anderson", "fixed_point"])
def test_a_whole_solve_ends_as_the_reference_does(solver, returns):
    options = {"max_iter": 9, "tol": 5e-3, "stop": "absolute", "returns": returns, "beta": 0.9}
    if solver == "anderson":
        options |= {"m": 3}
    ours, reference = (triton_anderson, anderson) if solver == "anderson" else (triton_fixed_point, fixed_point)
    f, z0 = problem(24)
    value, p = ours(f, z0, **options)
    f, z0 = problem(24)
    wanted = reference(f, z0, **options, trace=True)
    assert p.status.tolist() == wanted.status.tolist()
    assert {Status.MAX_ITER, Status.CONVERGED, Status.DIVERGED, Status.NONFINITE} <= set(p.status.tolist())
    assert p.iterations.tolist() == wanted.iterations.tolist()
    # The reference rounds its Gram matrix to float32, and weights of a few steps hand that on.
    torch.testing.assert_close(p.residual, wanted.residual, rtol=2e-3, atol=1e-7)
    torch.testing.assert_close(p.trace[: wanted.trace.shape[0]], wanted.trace, rtol=2e-3, atol=1e-7, equal_nan=True)
    for i in range(6):
        torch.testing.assert_close(value[i], wanted.value[i], rtol=1e-4, atol=1e-4 * float(wanted.value[i].abs().max()))
    assert torch.isfinite(value).all()
