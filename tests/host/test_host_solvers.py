"""The solvers' device code, run on the CPU, against float64 step by step and against the reference solve by solve."""

import math

import pytest
import torch
from solvers import host_anderson, host_fixed_point

from ldeq.solvers import Status, anderson, fixed_point
from ldeq.solvers.anderson import mixing_weights

# float32: the sums of a step round at 1e-7, the mixing at as much times the weights. A bf16 history of g is checked against
# what it holds.
STEP_TOLERANCE = 1e-5

# One tile and several, with and without 16-byte accesses, a tail, a single number.
SIZES = [1, 37, 1025, 2056, 4100]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("m", "beta", "g_dtype"), [(1, 1.0, "float32"), (3, 0.7, "float32"), (3, 0.7, "bfloat16")])
def test_each_step_against_float64(kernels, size, m, beta, g_dtype):
    steps(kernels, size, m, beta, getattr(torch, g_dtype), torch.float32, 6)


@pytest.mark.parametrize("m", [2, 8, 9, 16])
def test_each_history_length_against_float64(kernels, m):
    # Fewer numbers than pairs would make the system singular, and its answer a matter of rounding.
    steps(kernels, 516, m, 1.0, torch.float32, torch.float32, m + 2)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("size", [37, 2056])
def test_each_step_of_a_half_state_against_float64(kernels, size, dtype):
    steps(kernels, size, 3, 0.7, torch.float32, dtype, 5)


def steps(kernels, size: int, m: int, beta: float, g_dtype: torch.dtype, dtype: torch.dtype, count: int) -> None:
    """Random f: well-conditioned systems, so that every number can be checked closely."""
    generator = torch.Generator().manual_seed(size + m)
    b = 2
    outputs = [torch.randn(b, size, generator=generator).to(dtype) for _ in range(count)]
    calls = iter(outputs)
    # A single number has parallel residuals: weights that blow up are checked elsewhere.
    ridge = 1e-8 if size > m else 1.0

    def check(s):
        n, step = min(s["step"] + 1, m), s["step"]
        g = [t.double() for t in s["g"][:n]]
        exact = outputs[step].float() - s["before"]
        assert torch.equal(s["g"][s["slot"]], exact.to(g_dtype))
        torch.testing.assert_close(s["trace"][step].double(), exact.double().norm(dim=1), rtol=1e-6, atol=0)
        if step + 1 == count:
            return
        stacked = torch.stack(g, 1)
        gram = stacked @ stacked.mT
        torch.testing.assert_close(
            s["gram"][:, :n, :n], gram, rtol=1e-6, atol=1e-6 * float(gram.diagonal(dim1=1, dim2=2).max())
        )
        alpha = mixing_weights(gram, torch.ones(b, n, dtype=torch.bool), ridge)
        torch.testing.assert_close(s["alpha"][:, :n].double(), alpha, rtol=STEP_TOLERANCE, atol=STEP_TOLERANCE)
        damped = torch.stack([f.double() for f in s["f"][:n]], 1) - (1 - beta) * stacked
        wanted = (alpha.unsqueeze(-1) * damped).sum(1)
        torch.testing.assert_close(
            s["x"].double(), wanted, rtol=STEP_TOLERANCE, atol=STEP_TOLERANCE * float(wanted.abs().max())
        )
        if s["x_cast"] is not None:
            assert torch.equal(s["x_cast"], s["x"].to(dtype))

    z0 = torch.randn(b, size, generator=generator).to(dtype)
    sol = host_anderson(
        kernels, lambda x: next(calls), z0, m=m, max_iter=count, tol=0.0, stop="absolute", ridge=ridge, beta=beta,
        g_dtype=g_dtype, copy_f=size == 37, after_step=check,
    )  # fmt: skip
    # The best point is exactly what f returned there, also where the ring had to give it up.
    best = sol.trace.argmin(0)
    for i in range(b):
        assert torch.equal(sol.value[i], outputs[best[i]][i])


def problem(size: int, dtype: torch.dtype = torch.float32):
    """Samples that converge, converge slowly, become NaN, blow up, start at the answer, and mix badly (a sign flip)."""
    slope = torch.linspace(0, 0.8, size)
    rates = torch.tensor([0.5, 1.0, 0.9, 1.0, 0.3, 1.0]).unsqueeze(1)
    count = 0

    def f(z):
        nonlocal count
        count += 1
        out = z.float() * slope * rates + 1
        out[2] = torch.where(torch.tensor(count >= 4), math.nan, out[2])
        out[3] = 10.0 ** min(3 * count, 15)
        if count == 5:
            out[5] = 1e4 * out[5]
        return out.to(dtype)

    z0 = torch.zeros(6, size)
    z0[4] = 1 / (1 - slope * rates[4])
    return f, z0.to(dtype)


@pytest.mark.parametrize("returns", ["f", "x"])
@pytest.mark.parametrize("size", [24, 2056])
@pytest.mark.parametrize("solver", ["anderson", "fixed_point"])
def test_a_whole_solve_ends_as_the_reference_does(kernels, solver, size, returns):
    options = {"max_iter": 9, "tol": 5e-3, "stop": "absolute", "returns": returns}
    if solver == "anderson":
        options |= {"m": 3, "beta": 0.9}
        host, reference = host_anderson, anderson
    else:
        host, reference = host_fixed_point, fixed_point
    f, z0 = problem(size)
    got = host(kernels, f, z0, **options)
    f, z0 = problem(size)
    wanted = reference(f, z0, **options, trace=True)
    assert got.status.tolist() == wanted.status.tolist()
    assert {Status.MAX_ITER, Status.CONVERGED, Status.DIVERGED, Status.NONFINITE} <= set(got.status.tolist())
    assert got.iterations.tolist() == wanted.iterations.tolist()
    # The reference rounds its Gram matrix to float32, and weights of a few steps hand that on.
    torch.testing.assert_close(got.residual, wanted.residual, rtol=2e-3, atol=1e-7)
    steps_run = wanted.trace.shape[0]
    torch.testing.assert_close(got.trace[:steps_run], wanted.trace, rtol=2e-3, atol=1e-7, equal_nan=True)
    for i in range(6):
        size_of = float(wanted.value[i].abs().max())
        torch.testing.assert_close(got.value[i], wanted.value[i], rtol=1e-4, atol=1e-4 * size_of)
    assert torch.isfinite(got.value).all()


def test_a_sample_does_not_depend_on_its_batch(kernels):
    f, z0 = problem(2056)
    together = host_anderson(kernels, f, z0, max_iter=7, m=3)
    f, z0 = problem(2056)
    # Sample 1 alone, the others replaced by copies of it.
    alone = host_anderson(kernels, lambda z: f(z.expand(6, -1).clone())[1:2].contiguous(), z0[1:2].clone(), max_iter=7, m=3)
    assert torch.equal(together.value[1:2], alone.value) and torch.equal(together.trace[:, 1:2], alone.trace)


def test_runs_repeat_bit_for_bit(kernels):
    runs = []
    for _ in range(2):
        f, z0 = problem(4100)
        runs.append(host_anderson(kernels, f, z0, max_iter=5, m=3))
    assert torch.equal(runs[0].value, runs[1].value) and torch.equal(runs[0].trace.nan_to_num(), runs[1].trace.nan_to_num())


def test_parallel_residuals_get_finite_weights(kernels):
    """Dependent history: the pivot floor keeps the weights finite, the cap takes a plain step where they are absurd."""
    direction = torch.randn(1, 64, generator=torch.Generator().manual_seed(5))
    sol = host_anderson(kernels, lambda z: z + direction, torch.zeros(1, 64), m=4, max_iter=6, ridge=0.0, tol=0.0)
    assert torch.isfinite(sol.value).all() and torch.isfinite(sol.trace).all()


def test_bf16_history_of_g_still_converges(kernels):
    f, z0 = problem(64)
    sol = host_anderson(kernels, f, z0, m=6, max_iter=25, tol=1e-5, g_dtype=torch.bfloat16)
    assert sol.status[:2].tolist() == [Status.CONVERGED] * 2
