"""Fused steps and whole solves on the target of this run, against float64 formulas and the solvers' loops in plain PyTorch."""

from __future__ import annotations

import pytest
import torch
from native import Calls, step_arguments

import ldeq
from ldeq.ops import BackendError
from ldeq.ops.anderson import ACTIVE, BEST, IN_START, ITERATIONS, STATUS, SolveState, StopRule, anderson_step
from ldeq.ops.fixed_point import fixed_point_step
from ldeq.solvers import PUBLISHED, Status, anderson, fixed_point
from ldeq.solvers.anderson import mixing_weights

FOREVER = StopRule(tol=0.0, relative=True, batch=False)
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
# One unit in the last place: Triton's interpreter breaks ties of bfloat16 in its own way.
ROUNDING = {torch.float32: 0.0, torch.bfloat16: 2**-7, torch.float16: 2**-10}


def run_steps(device, dtype, b, d, m, steps, beta=1.0, history=None):
    """Steps on random f; every (x, f) and every x_next, whose memory held NaN before, and the ring of g."""
    generator = torch.Generator().manual_seed(d + m)
    x = torch.randn(b, d, generator=generator)
    state = SolveState.new(x.to(device, dtype), m, dtype, history)
    for buffer in (state.g_ring, state.kept, state.gram):
        buffer.fill_(torch.nan)
    seen, nexts = [], []
    for _ in range(steps):
        f = torch.randn(b, d, generator=generator).to(dtype)
        x_next = torch.full((b, d), torch.nan, device=device)
        x_cast = torch.full((b, d), torch.nan, device=device, dtype=dtype)
        # A single number has parallel residuals: weights that blow up are checked elsewhere.
        ridge = 1e-6 if d > m else 1.0
        on_device = f.to(device)
        anderson_step(
            state, x.to(device), on_device, on_device, x_next, x_cast, stop=FOREVER, beta=beta, ridge=ridge, safeguards=False
        )
        torch.testing.assert_close(x_cast.float(), x_next, rtol=max(ROUNDING[dtype], 1e-7), atol=1e-6)
        seen.append((x.double(), f.double()))
        nexts.append((x_next.cpu(), state.g_ring.cpu().clone(), ridge))
        x = torch.randn(b, d, generator=generator)
    return seen, nexts


# Blocks of 1,024 numbers, or 512 where m > 8: below one, one, and several, the last of them cut.
@pytest.mark.parametrize(
    ("d", "m", "beta", "dtype", "history"),
    [
        *((37 + 5 * m, m, 0.7 if m % 3 == 0 else 1.0, DTYPES[m % 3], None) for m in range(1, 17)),
        (2100, 3, 0.7, torch.float32, None),
        (1024, 8, 1.0, torch.bfloat16, torch.bfloat16),
        (1100, 9, 0.6, torch.float16, torch.bfloat16),
        (1, 3, 1.0, torch.float32, None),
    ],
    ids=str,
)
def test_every_anderson_step_equals_the_float64_formula(target, d, m, beta, dtype, history):
    b = 2 if m < 9 else 1  # the interpreter is slow
    seen, nexts = run_steps(target.device, dtype, b, d, m, m + 2, beta, history)
    for step, (x_next, g_ring, ridge) in enumerate(nexts):
        n = min(step + 1, m)
        x, f = seen[step]
        stored = g_ring[step % m]
        # The ring holds f - x of this step, in its own type.
        torch.testing.assert_close(stored.double(), f - x, rtol=ROUNDING[history or torch.float32] or 1e-6, atol=1e-6)
        g = g_ring[:n].double().transpose(0, 1)
        alpha = mixing_weights(g @ g.mT, torch.ones(b, n, dtype=torch.bool), ridge)
        fs = torch.stack(
            [next(f for s, (_, f) in reversed(list(enumerate(seen[: step + 1]))) if s % m == i) for i in range(n)], 1
        )
        wanted = (alpha.unsqueeze(-1) * (fs - (1 - beta) * g)).sum(1)
        assert (x_next - wanted).abs().max() <= 1e-5 * wanted.abs().max()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("d", [3, 1003, 2049])
def test_one_fixed_point_step_writes_every_element(target, dtype, d):
    generator = torch.Generator().manual_seed(d)
    x, f = torch.randn(3, d, generator=generator), torch.randn(3, d, generator=generator).to(dtype)
    value = f.to(target.device)
    state = SolveState.new(value, 0, dtype, None)
    x_next, x_cast = torch.full_like(x, torch.nan, device=target.device), torch.full_like(value, torch.nan)
    fixed_point_step(state, x.to(target.device), value, value, x_next, x_cast, stop=StopRule(0.0, False, False), beta=0.3)
    expected = x.double() + 0.3 * (f.double() - x.double())
    assert (x_next.cpu() - expected).abs().max() <= 1e-6 * expected.abs().max()
    torch.testing.assert_close(x_cast.float(), x_next, rtol=max(ROUNDING[dtype], 1e-7), atol=1e-6)
    norm = (f.double() - x.double()).norm(dim=1)
    torch.testing.assert_close(state.numbers[:, 0].cpu(), norm, rtol=1e-6, atol=0)


def problem(d):
    """Five samples of very different scale, the first and the last near their answers."""
    a = torch.linspace(0, 0.9, d)
    c = torch.randn(5, d, generator=torch.Generator().manual_seed(1)) * torch.tensor([1e-3, 1.0, 30.0, 1.0, 0.0])[:, None]

    def f(z):
        return (a.to(z.device) * z.float() + c.to(z.device) + 0.05 * torch.sin(z.float())).to(z.dtype)

    return f, torch.zeros(5, d)


@pytest.mark.parametrize("d", [33, 1501])
@pytest.mark.parametrize(
    ("solver", "options"),
    [
        (anderson, {"m": 5, "max_iter": 12, "tol": 1e-3}),
        (anderson, {"m": 3, "max_iter": 9, "tol": 1e-2, "beta": 0.7, "returns": "x", "stop": "absolute"}),
        (anderson, {"m": 4, "max_iter": 8, "tol": 1e-2, "stop_scope": "batch"}),
        (anderson, {"m": 4, "max_iter": 1}),
        (anderson, {"max_iter": 7, "tol": 1e-3, **PUBLISHED}),
        (fixed_point, {"max_iter": 9, "tol": 1e-2, "beta": 0.7}),
        (fixed_point, {"max_iter": 8, "tol": 1e-2, "stop_scope": "batch", "returns": "x"}),
    ],
    ids=str,
)
def test_solves_equal_the_reference_loop(target, solver, options, d):
    f, z0 = problem(d)
    with Calls() as calls:
        fused = solver(f, z0.to(target.device), trace=True, **options)
    step = ("anderson_step" if solver is anderson else "fixed_point_step") + target.suffix
    assert calls.names == [step] * len(fused.trace) + ["best_so_far" + target.suffix]
    with ldeq.ops.use_backend("torch"):
        loop = solver(f, z0, trace=True, **options)
    assert torch.equal(fused.iterations.cpu(), loop.iterations) and torch.equal(fused.status.cpu(), loop.status)
    # Rounding differs by the order of sums; mixing weights magnify it.
    torch.testing.assert_close(fused.value.cpu(), loop.value, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(fused.trace.cpu(), loop.trace, rtol=1e-2, atol=1e-4)


@pytest.mark.parametrize("dtype", DTYPES[1:], ids=str)
@pytest.mark.parametrize("solver", [anderson, fixed_point])
def test_half_states_reach_the_fixed_point(target, solver, dtype):
    slope = torch.linspace(0, 0.5, 333)
    z0 = torch.linspace(-3, 3, 4)[:, None].expand(4, 333)
    solution = solver(lambda z: (z.float() * slope.to(z.device) + 1).to(z.dtype), z0.to(target.device, dtype), tol=1e-2)
    assert solution.value.dtype == dtype and (solution.status == Status.CONVERGED).all()
    # A residual of 1e-2 of f is an error of at most twice that where the slope is a half; rounding adds 2^-8 of bfloat16.
    exact = (1 / (1 - slope)).expand(4, -1)
    assert ((solution.value.cpu().float() - exact).norm(dim=1) <= 0.03 * exact.norm(dim=1)).all()


@pytest.mark.parametrize("solver", [anderson, fixed_point])
def test_a_solve_ends_as_it_should_for_each_kind_of_sample(target, solver):
    """Converges, converges slowly, becomes NaN, blows up, starts at the answer, and mixes badly."""

    def solve(device):
        slope = torch.linspace(0, 0.8, 24, device=device)
        rates = torch.tensor([0.5, 1.0, 0.9, 1.0, 0.3, 1.0], device=device).unsqueeze(1)
        count = 0

        def f(z):
            nonlocal count
            count += 1
            assert torch.isfinite(z).all()
            out = z * slope * rates + 1
            out[2] = torch.nan if count >= 4 else out[2]
            out[3] = 10.0 ** min(3 * count, 15)
            if count == 5:
                out[5] = 1e4 * out[5]
            return out

        z0 = torch.zeros(6, 24, device=device)
        z0[4] = 1 / (1 - slope * rates[4])
        return solver(f, z0, max_iter=9, tol=5e-3, stop="absolute", beta=0.9, **({"m": 3} if solver is anderson else {}))

    fused = solve(target.device)
    with ldeq.ops.use_backend("torch"):
        loop = solve("cpu")
    assert fused.status.tolist() == loop.status.tolist() and fused.iterations.tolist() == loop.iterations.tolist()
    assert {Status.MAX_ITER, Status.CONVERGED, Status.DIVERGED, Status.NONFINITE} <= set(fused.status.tolist())
    torch.testing.assert_close(fused.residual.cpu(), loop.residual, rtol=2e-3, atol=1e-7)
    for ours, theirs in zip(fused.value.cpu(), loop.value, strict=True):
        assert torch.isfinite(ours).all()
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4 * float(theirs.abs().max()))


def test_the_best_value_survives_the_ring(target):
    # The residual is lowest at the second evaluation and grows from then on, far longer than the ring is.
    def solve(device):
        count = 0

        def f(z):
            nonlocal count
            count += 1
            return z + {1: 1.0, 2: 0.001}.get(count, 0.5 + count)

        return anderson(f, torch.zeros(2, 10, device=device), m=2, max_iter=9, stop="absolute", safeguards=False)

    fused = solve(target.device)
    with ldeq.ops.use_backend("torch"):
        loop = solve("cpu")
    torch.testing.assert_close(fused.value.cpu(), loop.value, rtol=1e-6, atol=0)
    torch.testing.assert_close(fused.residual.cpu(), torch.full((2,), 0.001 * 10**0.5), rtol=1e-3, atol=0)


def test_a_stopped_sample_is_left_where_it_is(target):
    x = torch.randn(2, 50, device=target.device)
    state = SolveState.new(x, 3, x.dtype, None)
    state.flags[0, ACTIVE] = 0
    x_next = torch.full_like(x, torch.nan)
    anderson_step(state, x, 0.5 * x, 0.5 * x, x_next, None, stop=FOREVER)
    assert torch.equal(x_next[0], x[0]) and not torch.equal(x_next[1], x[1])
    assert state.flags[:, ITERATIONS].tolist() == [0, 1] and state.flags[:, BEST].tolist() == [IN_START, 0]
    assert state.flags[:, STATUS].tolist() == [Status.MAX_ITER] * 2
    assert torch.equal(state.best()[0], x[0]) and torch.equal(state.best()[1], 0.5 * x[1])


@pytest.mark.parametrize("solver", [anderson, fixed_point])
def test_runs_repeat_bit_for_bit_and_neighbours_do_not_matter(target, solver):
    f, z0 = problem(1200)
    z0 = z0.to(target.device) + 0.1
    first, again = (solver(f, z0, max_iter=7, tol=1e-6) for _ in range(2))
    assert torch.equal(first.value, again.value) and torch.equal(first.residual, again.residual)

    def alone(z):
        return f(z.expand(5, -1))[1:2]

    one = solver(alone, z0[1:2], max_iter=7, tol=1e-6)
    assert torch.equal(one.value, first.value[1:2]) and torch.equal(one.residual, first.residual[1:2])


def test_opcheck(target):
    torch.library.opcheck(target.operator("anderson_step"), step_arguments(target.device))
    x, f_ring, _, _, _, numbers, _, kept, x_next, *_ = step_arguments(target.device)
    flags = torch.tensor([[0, 1, 1, 0, 0], [0, 1, 1, -1, 0]], device=target.device)
    torch.library.opcheck(target.operator("best_so_far"), ([f_ring[0]], kept, x, flags))
    flags = torch.tensor([[0, 0, 1, -2, 0]] * 2, device=target.device)
    step = (x, f_ring[0], None, numbers, flags, kept, x_next, None, 0, 0.9, 1e-4, True, False)
    torch.library.opcheck(target.operator("fixed_point_step"), step)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"x": torch.zeros(2, 8)}, "f_ring has another shape|has another shape"),
        ({"x": torch.zeros(2, 9, dtype=torch.float64)}, "x has another dtype"),
        ({"f_ring": [torch.zeros(9, 2).T]}, "f_ring must be contiguous"),
        ({"f_ring": []}, "f_ring must have 1..m entries, got 0"),
        ({"slot": 1}, "slot must name an entry of f_ring, got 1"),
        ({"g_ring": torch.zeros(17, 2, 9)}, r"m must lie in 1..16, got 17"),
        ({"g_ring": torch.zeros(3, 2, 9, dtype=torch.float16)}, "g_ring has another dtype"),
        ({"x_next": torch.zeros(2, 1)}, "x_next has another shape"),
        ({"flags": torch.zeros(2, 3, dtype=torch.int64)}, "flags has another shape"),
    ],
    ids=str,
)
def test_errors_name_the_argument(target, changes, message):
    if target.device == "cuda" and changes.get("f_ring"):
        changes = {"f_ring": [torch.zeros(9, 2, device="cuda").T]}
    with pytest.raises(RuntimeError, match=message):
        target.operator("anderson_step")(*step_arguments(target.device, **changes))


def test_mixed_devices_are_refused(target):
    if target.device == "cpu":
        pytest.skip("a second device that holds data is needed")
    arguments = list(step_arguments(target.device))
    arguments[8] = arguments[8].cpu()
    with pytest.raises(RuntimeError, match="x_next"):
        target.operator("anderson_step")(*arguments)


def test_what_the_backend_does_not_serve(target):
    if target.backend != "triton":
        pytest.skip("the C++ and CUDA kernels serve every floating-point type")
    z0 = torch.zeros(1, 4, dtype=torch.float64, device=target.device)
    with pytest.raises(BackendError, match=r"'triton' cannot run 'anderson_step': it does not serve torch.float64"):
        anderson(lambda z: 0.5 * z + 1, z0)
    with ldeq.ops.use_backend("auto"):
        assert anderson(lambda z: 0.5 * z + 1, z0).status.item() == Status.CONVERGED


def test_more_samples_than_a_grid_has_rows(target):
    if target.device == "cpu":
        pytest.skip("the limit of 65,535 is that of a GPU's grid")
    z0 = torch.zeros(70_000, 3, device=target.device)
    assert (anderson(lambda z: 0.5 * z + 1, z0, max_iter=9).status == Status.CONVERGED).all()


def test_more_than_two_to_the_31_elements(target):
    if target.device == "cpu" or torch.cuda.mem_get_info()[0] < 60 * 2**30:
        pytest.skip("needs 60 GiB of GPU memory")
    b, d, m = 2, 2**28 + 3, 5
    x = torch.rand(b, d, device=target.device)
    state = SolveState.new(x, m, x.dtype, torch.bfloat16)
    for _ in range(m + 1):
        f = torch.rand(b, d, device=target.device)
        x_next = torch.full_like(x, torch.nan)
        anderson_step(state, x, f, f, x_next, None, stop=FOREVER, ridge=1e-6)
        assert torch.isfinite(x_next).all()
        x = x_next
