"""The CUDA operators of the solvers, run on the CPU: step by step against the CPU operators and the formula, solve by solve
against the reference loop."""

import math
import re

import pytest
import torch
from host_install import install
from native import step_arguments
from torch import Tensor

import ldeq
from ldeq.ops.anderson import ACTIVE, BEST, ITERATIONS, LAST, STATUS, SolveState, StopRule, anderson_step
from ldeq.ops.fixed_point import fixed_point_step
from ldeq.solvers import PUBLISHED, Status, anderson, fixed_point
from ldeq.solvers.anderson import mixing_weights

pytestmark = pytest.mark.usefixtures("device_code")

# The state's own rounding, times the weights: float32 sums of a step round at 1e-7.
TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-5, torch.bfloat16: 1e-5, torch.float16: 1e-5}

# One tile and several, with and without 16-byte accesses, a tail, a single number.
SIZES = [1, 37, 1025, 2056, 4100]


def work(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)


def poison(state: SolveState) -> SolveState:
    """Memory that no step has written yet shows where it is used."""
    for tensor in (state.g_ring, state.kept, state.gram):
        tensor.fill_(math.nan)
    return state


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("m", "beta", "history"), [(1, 1.0, None), (3, 0.7, None), (3, 0.7, torch.bfloat16)])
def test_each_step_equals_the_float64_formula(size, m, beta, history):
    steps(size, m, beta, history, torch.float32, m + 2)


@pytest.mark.parametrize("m", [2, 8, 9, 16])
def test_each_history_length_equals_the_float64_formula(m):
    # Fewer numbers than pairs would make the system singular, and its answer a matter of rounding.
    steps(516, m, 1.0, None, torch.float32, m + 2)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("size", [37, 2056])
@pytest.mark.parametrize("history", [None, torch.bfloat16], ids=str)
def test_each_step_of_other_states_equals_the_float64_formula(size, dtype, history):
    if dtype == torch.float64 and history is not None:
        pytest.skip("float64 states keep a float64 history")
    steps(size, 3, 0.7, history, dtype, 5)


def steps(size: int, m: int, beta: float, history: torch.dtype | None, dtype: torch.dtype, count: int) -> None:
    """Random x and f: well-conditioned systems, so that every number can be checked closely."""
    generator = torch.Generator().manual_seed(size + m)
    # A single number has parallel residuals: weights that blow up are checked elsewhere.
    ridge = 1e-8 if size > m else 1.0
    x = torch.randn(2, size, generator=generator).to(work(dtype))
    state = poison(SolveState.new(x.to(dtype), m, dtype, history))
    pairs: list[tuple[Tensor, Tensor]] = []
    stop = StopRule(tol=0.0, relative=False, batch=False)
    for step in range(count):
        f = torch.randn(2, size, generator=generator).to(dtype)
        x_next, x_cast = torch.full_like(x, math.nan), torch.full_like(x, math.nan, dtype=dtype)
        anderson_step(state, x, f, f, x_next, x_cast, stop=stop, beta=beta, ridge=ridge, safeguards=False)
        pairs = [*pairs, (x.double(), f.double())][-m:]
        exact = f.to(x.dtype) - x
        assert torch.equal(state.g_ring[step % m], exact.to(state.g_ring.dtype))
        torch.testing.assert_close(state.numbers[:, LAST], exact.double().norm(dim=1), rtol=1e-6, atol=0)
        g = torch.stack([(a - b).to(work(dtype)).to(state.g_ring.dtype).double() for b, a in pairs], 1)
        alpha = mixing_weights(g @ g.mT, torch.ones(g.shape[:2], dtype=torch.bool), ridge)
        damped = torch.stack([f for _, f in pairs], 1) - (1 - beta) * g
        wanted = (alpha.unsqueeze(-1) * damped).sum(1)
        bound = TOLERANCE[dtype] * float(wanted.abs().max())
        torch.testing.assert_close(x_next.double(), wanted, rtol=0, atol=bound)
        assert torch.equal(x_cast, x_next.to(dtype))
        x = torch.randn(2, size, generator=generator).to(x.dtype)


def outcomes(operators, kind: str, dtype: torch.dtype, size: int, monkeypatch, **stop) -> list[Tensor]:
    """Everything that a solve of six very different samples leaves behind after each step."""
    install(operators, monkeypatch)
    f, z0 = problem(size, dtype, ties=False)
    m = 3 if kind == "anderson" else 0
    x = z0.to(work(dtype))
    state = poison(SolveState.new(z0, m, dtype, None))
    seen = []
    for step in range(7):
        fx = f(x.to(dtype))
        x_next = torch.full_like(x, math.nan) if step < 6 else None
        rule = StopRule(**{"tol": 5e-3, "relative": False, "batch": False} | stop)
        if kind == "anderson":
            anderson_step(state, x, fx, fx, x_next, None, stop=rule, beta=0.9)
        else:
            fixed_point_step(state, x, fx, fx, x_next, None, stop=rule, beta=0.9)
        x = x if x_next is None else x_next
        kept = torch.where(state.flags[:, BEST : BEST + 1] == -1, state.kept.double(), 0)
        seen += [x.double(), state.numbers.clone(), state.flags.clone(), kept]
    return [*seen, state.best()]


@pytest.mark.parametrize("stop", [{}, {"relative": True}, {"batch": True, "tol": 5.0}], ids=str)
@pytest.mark.parametrize(("dtype", "size"), [(torch.float32, 24), (torch.float32, 2056), (torch.float64, 37)], ids=str)
@pytest.mark.parametrize("kind", ["anderson", "fixed_point"])
def test_each_step_leaves_what_the_cpu_operator_leaves(kind, dtype, size, stop, cpu_operators, monkeypatch):
    device = outcomes(torch.ops.ldeq_host, kind, dtype, size, monkeypatch, **stop)
    cpu = outcomes(cpu_operators, kind, dtype, size, monkeypatch, **stop)
    for got, wanted in zip(device, cpu, strict=True):
        if wanted.dtype == torch.int64:
            assert torch.equal(got, wanted)
        else:
            scale = wanted.nan_to_num(posinf=0, neginf=0).abs().amax(dim=-1, keepdim=True)
            # At the answer the residual is what rounding leaves of states of size one.
            tolerance, noise = (1e-9, 1e-14) if dtype == torch.float64 else (1e-4, 1e-6)
            assert torch.equal(got.isnan(), wanted.isnan()) and torch.equal(got.isinf(), wanted.isinf())
            assert ((got - wanted).nan_to_num(posinf=0, neginf=0).abs() <= tolerance * scale + noise * size**0.5).all()


def problem(size: int, dtype: torch.dtype = torch.float32, ties: bool = True):
    """Samples that converge, converge slowly, become NaN, blow up, start at the answer, and mix badly (a jump).

    Without `ties` no two residuals of a sample are alike, and none is rounding alone.
    """
    slope = torch.linspace(0, 0.8, size, dtype=torch.float64)
    rates = torch.tensor([0.5, 1.0, 0.9, 1.0, 0.3, 1.0], dtype=torch.float64).unsqueeze(1)
    count = 0

    def f(z):
        nonlocal count
        count += 1
        out = z.double() * slope * rates + 1
        out[2] = torch.where(torch.tensor(count >= 4), math.nan, out[2])
        out[3] = 10.0 ** (min(3 * count, 15) if ties else min(count * (count + 1) // 2, 12))
        if count == 5:
            out[5] = 1e4 * out[5]
        return out.to(dtype)

    z0 = torch.zeros(6, size, dtype=torch.float64)
    z0[4] = 1 / (1 - slope * rates[4]) + (0 if ties else 0.1)
    return f, z0.to(dtype)


@pytest.mark.parametrize("returns", ["f", "x"])
@pytest.mark.parametrize("size", [24, 2056])
@pytest.mark.parametrize("solver", [anderson, fixed_point], ids=lambda s: s.__name__)
def test_a_whole_solve_ends_as_the_reference_does(solver, size, returns):
    options = {"max_iter": 9, "tol": 5e-3, "stop": "absolute", "returns": returns, "beta": 0.9}
    if solver is anderson:
        options["m"] = 3
    f, z0 = problem(size)
    got = solver(f, z0, **options, trace=True)
    f, z0 = problem(size)
    with ldeq.ops.use_backend("torch"):
        wanted = solver(f, z0, **options, trace=True)
    assert got.status.tolist() == wanted.status.tolist()
    assert {Status.MAX_ITER, Status.CONVERGED, Status.DIVERGED, Status.NONFINITE} <= set(got.status.tolist())
    assert got.iterations.tolist() == wanted.iterations.tolist()
    # The reference rounds its Gram matrix to float32, and weights of a few steps hand that on.
    torch.testing.assert_close(got.residual, wanted.residual, rtol=2e-3, atol=1e-7)
    torch.testing.assert_close(got.trace, wanted.trace, rtol=2e-3, atol=1e-7, equal_nan=True)
    for i in range(6):
        size_of = float(wanted.value[i].abs().max())
        torch.testing.assert_close(got.value[i], wanted.value[i], rtol=1e-4, atol=1e-4 * size_of)
    assert torch.isfinite(got.value).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_states_solve_like_the_reference(dtype):
    a, c = torch.linspace(0, 0.9, 333), torch.randn(4, 333, generator=torch.Generator().manual_seed(1))

    def f(z):
        return (a * z.float() + c).to(z.dtype)

    z0 = torch.zeros(4, 333, dtype=dtype)
    fused = anderson(f, z0, tol=3e-2, max_iter=12)
    with ldeq.ops.use_backend("torch"):
        loop = anderson(f, z0, tol=3e-2, max_iter=12)
    assert fused.value.dtype == dtype and torch.equal(fused.status, loop.status)
    torch.testing.assert_close(fused.value, loop.value, rtol=5e-2, atol=5e-2)


def test_the_published_loop_stops_with_its_batch():
    a, c = torch.linspace(0, 0.9, 64), torch.randn(5, 64, generator=torch.Generator().manual_seed(1))
    f, z0, options = lambda z: a * z + c, torch.zeros(5, 64), {"max_iter": 12, "tol": 1e-3, **PUBLISHED}
    fused = anderson(f, z0, **options)
    with ldeq.ops.use_backend("torch"):
        loop = anderson(f, z0, **options)
    assert torch.equal(fused.iterations, loop.iterations) and torch.equal(fused.status, loop.status)
    assert len(set(fused.iterations.tolist())) == 1
    torch.testing.assert_close(fused.value, loop.value, rtol=1e-4, atol=1e-4)


def test_the_best_value_survives_the_ring():
    # The residual is lowest at the second evaluation and grows from then on, far longer than the ring is.
    step = 0

    def f(z):
        nonlocal step
        step += 1
        return z + {1: 1.0, 2: 0.001}.get(step, 0.5 + step)

    for dtype, size in ((torch.float32, 10), (torch.float64, 3), (torch.bfloat16, 4100)):
        for options in ({}, {"returns": "x"}):
            step = 0
            sol = anderson(f, torch.zeros(2, size, dtype=dtype), m=2, max_iter=9, stop="absolute", safeguards=False, **options)
            step = 0
            with ldeq.ops.use_backend("torch"):
                wanted = anderson(
                    f, torch.zeros(2, size, dtype=dtype), m=2, max_iter=9, stop="absolute", safeguards=False, **options
                )
            torch.testing.assert_close(sol.value, wanted.value, rtol=1e-5, atol=1e-5)


def test_a_stopped_sample_is_left_where_it_is():
    f, x = problem(50)
    state = poison(SolveState.new(x, 3, x.dtype, None))
    state.flags[0, ACTIVE] = 0
    x_next = torch.full_like(x, math.nan)
    fx = f(x)
    anderson_step(state, x, fx, fx, x_next, None, stop=StopRule(0.0, True, False))
    assert torch.equal(x_next[0], x[0]) and not torch.equal(x_next[1], x[1])
    assert state.flags[:2, ITERATIONS].tolist() == [0, 1] and state.flags[:2, BEST].tolist() == [-2, 0]
    assert state.flags[:2, STATUS].tolist() == [Status.MAX_ITER] * 2


def test_a_sample_does_not_depend_on_its_batch_and_runs_repeat():
    f, z0 = problem(4100)
    together = anderson(f, z0, max_iter=7, m=3, trace=True)
    f, z0 = problem(4100)
    again = anderson(f, z0, max_iter=7, m=3, trace=True)
    assert torch.equal(together.value, again.value) and torch.equal(together.residual, again.residual)
    f, z0 = problem(4100)
    # Sample 1 alone, the others replaced by copies of it.
    alone = anderson(lambda z: f(z.expand(6, -1).clone())[1:2].contiguous(), z0[1:2].clone(), max_iter=7, m=3, trace=True)
    assert torch.equal(together.value[1:2], alone.value) and torch.equal(together.trace[:, 1:2], alone.trace)


def test_parallel_residuals_get_finite_weights():
    """Dependent history: the pivot floor keeps the weights finite, the cap takes a plain step where they are absurd."""
    direction = torch.randn(1, 64, generator=torch.Generator().manual_seed(5))
    sol = anderson(lambda z: z + direction, torch.zeros(1, 64), m=4, max_iter=6, ridge=0.0, tol=0.0, trace=True)
    assert torch.isfinite(sol.value).all() and torch.isfinite(sol.trace).all()


def test_unaligned_states():
    """Rows that no vector access can take, though their length would allow it."""
    stop = StopRule(0.0, True, False)
    results = []
    for offset in (0, 1):
        rows = [torch.randn(2 * 64 + 1, generator=torch.Generator().manual_seed(i))[: 2 * 64] for i in range(2)]
        x, f = (torch.cat([torch.zeros(offset), row])[offset:].view(2, 64) for row in rows)
        assert x.data_ptr() % 16 == 4 * offset
        state = poison(SolveState.new(x.clone(), 2, x.dtype, None))
        x_next = torch.full_like(x, math.nan)
        anderson_step(state, x, f, f, x_next, None, stop=stop, beta=0.5)
        results.append(x_next)
    torch.testing.assert_close(*results, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("dtype", "size"), [(torch.float32, 8), (torch.float32, 9), (torch.float64, 3), (torch.float16, 3)])
def test_best_so_far_takes_each_value_from_its_place(dtype, size):
    ring = [torch.full((5, size), float(i), dtype=dtype) for i in range(2)]
    kept, start = torch.full((5, size), 8.0, dtype=dtype), torch.full((5, size), 9.0, dtype=dtype)
    flags = torch.zeros(5, 7, dtype=torch.int64)
    flags[:, BEST] = torch.tensor([1, -1, 0, -2, 2])  # the last names a slot that the ring does not have
    best = torch.ops.ldeq.best_so_far(ring, kept, start, flags)
    assert best.dtype == dtype and best[:4].tolist() == [[v] * size for v in (1.0, 8.0, 0.0, 9.0)] and best[4, 0] == 9


@pytest.mark.parametrize("shape", [(0, 4), (3, 0)], ids=str)
def test_no_samples_and_no_elements(shape):
    x = torch.zeros(shape)
    state = SolveState.new(x, 2, x.dtype, None)
    anderson_step(state, x, x, x, torch.empty_like(x), None, stop=StopRule(1e-3, True, False))
    assert state.flags[:, ITERATIONS].tolist() == [1] * shape[0] and state.best().shape == shape


@pytest.mark.parametrize(
    "changes",
    [
        {"x": torch.zeros(2, 8)},
        {"x": torch.zeros(2, 9, dtype=torch.float64)},
        {"f_ring": [torch.zeros(9, 2).T]},
        {"f_ring": []},
        {"slot": 1},
        {"g_ring": torch.zeros(17, 2, 9)},
        {"g_ring": torch.zeros(3, 2, 9, dtype=torch.float16)},
        {"x_next": torch.zeros(2, 1)},
        {"x_cast": torch.zeros(2, 9, dtype=torch.float16)},
        {"leaving": torch.zeros(2, 9, dtype=torch.float16)},
        {"kept": torch.zeros(2, 9, dtype=torch.int32)},
        {"flags": torch.zeros(2, 3, dtype=torch.int64)},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_errors_are_those_of_the_cpu_operator(changes, cpu_operators):
    said = []
    for operators in (torch.ops.ldeq, cpu_operators):
        with pytest.raises(RuntimeError) as error:
            operators.anderson_step(*step_arguments(**changes))
        said.append(re.sub(r"^.*?\.h:\d+, ", "", str(error.value).splitlines()[0]))
    assert said[0] == said[1] and any(f"{name} " in said[0] for name in (*changes, "f_ring", "m"))
