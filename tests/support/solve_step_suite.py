"""What a step of a solve must do, written once for every backend.

A test module imports these tests and has a fixture `target` that says which backend runs. tests/device runs them on plain
PyTorch, the C++ kernels, Triton (in its interpreter or on a GPU) and CUDA on a GPU; tests/host runs them on the CUDA kernels
built for the CPU.

Steps are held against their formula in float64, and solves against the loop on the reference. The fixture has PyTorch fill new
memory with NaN, so that an element that no kernel writes is seen.
"""

from __future__ import annotations

import math

import pytest
import torch
from native import Calls, step_arguments
from problems import name_of
from torch import Tensor

import ldeq
from ldeq.ops.layout import ACTIVE, BEST, FLAGS, IN_SAVED, IN_START, ITERATIONS, LAST, LIMIT, RESIDUAL, STATUS
from ldeq.ops.solve_step import Next, SolveState, Step, StopRule, best_so_far
from ldeq.ops.solve_step.mixing import mixing_weights
from ldeq.solvers import PUBLISHED, Anderson, FixedPoint, Status, anderson, fixed_point

FOREVER = StopRule(tol=0.0, relative=True, batch=False)
ABSOLUTE = StopRule(tol=0.0, relative=False, batch=False)
HALF = (torch.bfloat16, torch.float16)
# One unit in the last place: Triton's interpreter breaks ties of bfloat16 in its own way.
ROUNDING = {torch.float32: 1e-7, torch.float64: 1e-15, torch.bfloat16: 2**-7, torch.float16: 2**-10}
# x is at least float32 whatever the state, and its inputs are taken as they are: rounding of that is all there is.
TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-5, torch.bfloat16: 1e-5, torch.float16: 1e-5}
ALL_TYPES = pytest.mark.parametrize("dtype", list(TOLERANCE), ids=str)


def work(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)


def begin(solver: Anderson | FixedPoint, x: Tensor, dtype: torch.dtype) -> tuple[Step, SolveState]:
    """A step and its state for f of this dtype; memory that no step has written yet is NaN."""
    step = solver.step(x.to(dtype), None)
    state = solver.state(x, dtype if solver.returns == "f" else x.dtype, dtype, step.compiled)
    for memory in (state.g_ring, state.saved_best, state.gram):
        if isinstance(memory, Tensor):
            memory.fill_(math.nan)
    return step, state


def take(step: Step, state: SolveState, x: Tensor, f: Tensor, stop: StopRule, advance: bool = True) -> Next:
    return step(state, x, f, f, stop, advance, f.dtype != x.dtype)


# --- one step against its formula ---------------------------------------------------------------------------------------


# Below one block of numbers, one, and several, the last of them cut; with and without 16-byte accesses; each history length.
@pytest.mark.parametrize(
    ("d", "m", "beta", "dtype", "history"),
    [
        *((37 + 5 * m, m, 0.7 if m % 3 == 0 else 1.0, list(TOLERANCE)[m % 4], None) for m in range(1, 17)),
        *((d, 3, 0.7, dtype, None) for d in (2056, 2100) for dtype in TOLERANCE),
        (1024, 8, 1.0, torch.bfloat16, torch.bfloat16),
        (1100, 9, 0.6, torch.float16, torch.bfloat16),
        (4100, 3, 0.7, torch.float32, torch.bfloat16),
        (20_001, 5, 1.0, torch.float32, None),
        (1, 3, 1.0, torch.float32, None),
    ],
    ids=name_of,
)
def test_every_anderson_step_equals_the_float64_formula(target, d, m, beta, dtype, history):
    target.needs(dtype, d)
    batch, generator = 2 if m < 9 else 1, torch.Generator().manual_seed(d + m)
    # A single number has parallel residuals: weights that blow up are checked elsewhere.
    ridge = 1e-6 if d > m else 1.0
    x = torch.randn(batch, d, generator=generator).to(work(dtype))
    solver = Anderson(m=m, beta=beta, ridge=ridge, safeguards=False, history_dtype=history)
    step, state = begin(solver, x.to(target.device), dtype)
    pairs: list[tuple[Tensor, Tensor]] = []
    for i in range(m + 2):
        f = torch.randn(batch, d, generator=generator).to(dtype)
        x_next, x_cast = take(step, state, x.to(target.device), f.to(target.device), ABSOLUTE)
        # The ring holds f - x of this step, in its own type.
        stored, exact = state.g_ring[i % m].cpu().double(), (f.to(x.dtype) - x).double()
        torch.testing.assert_close(stored, exact, rtol=ROUNDING[history or x.dtype], atol=1e-6 if history else 0)
        torch.testing.assert_close(state.measurements[:, LAST].cpu(), exact.norm(dim=1), rtol=1e-6, atol=0)
        # The weights are those of the residuals as they are stored.
        pairs = [*pairs, (stored, f.double())][-m:]
        g = torch.stack([g for g, _ in pairs], 1)
        alpha = mixing_weights(g @ g.mT, torch.ones(g.shape[:2], dtype=torch.bool), ridge)
        wanted = (alpha.unsqueeze(-1) * (torch.stack([f for _, f in pairs], 1) - (1 - beta) * g)).sum(1)
        assert x_next is not None and (x_next.cpu() - wanted).abs().max() <= TOLERANCE[dtype] * wanted.abs().max()
        if x_cast is not None:
            torch.testing.assert_close(x_cast.to(x_next.dtype), x_next, rtol=ROUNDING[dtype], atol=1e-6)
        x = torch.randn(batch, d, generator=generator).to(x.dtype)


@ALL_TYPES
@pytest.mark.parametrize("d", [3, 1003, 2049])
@pytest.mark.parametrize("beta", [1.0, 0.3])
def test_one_fixed_point_step_writes_every_element(target, dtype, d, beta):
    target.needs(dtype, d)
    generator = torch.Generator().manual_seed(d)
    x = torch.randn(3, d, generator=generator).to(work(dtype))
    f = torch.randn(3, d, generator=generator).to(dtype)
    step, state = begin(FixedPoint(beta=beta), x.to(target.device), dtype)
    x_next, x_cast = take(step, state, x.to(target.device), f.to(target.device), ABSOLUTE)
    expected = x.double() + beta * (f.double() - x.double())
    assert x_next is not None
    assert (x_next.cpu() - expected).abs().max() <= (1e-14 if dtype == torch.float64 else 1e-6) * expected.abs().max()
    if x_cast is not None:
        torch.testing.assert_close(x_cast.to(x.dtype), x_next, rtol=ROUNDING[dtype], atol=1e-6)
    norm = (f.double() - x.double()).norm(dim=1)
    torch.testing.assert_close(state.measurements[:, RESIDUAL].cpu(), norm, rtol=1e-6, atol=0)


# --- what a step decides ------------------------------------------------------------------------------------------------


def mixed_crowd(d: int, dtype: torch.dtype = torch.float32, ties: bool = True):
    """Samples that converge, converge slowly, become NaN, blow up, start at the answer, and mix badly (a jump).

    Without `ties` no two residuals of a sample are alike, and none is rounding alone.
    """
    slope = torch.linspace(0, 0.8, d, dtype=torch.float64)
    rates = torch.tensor([0.5, 1.0, 0.9, 1.0, 0.3, 1.0], dtype=torch.float64).unsqueeze(1)
    count = 0

    def f(z: Tensor) -> Tensor:
        nonlocal count
        count += 1
        assert torch.isfinite(z).all()  # a sample that became NaN stays where it was
        out = z.cpu().double() * slope * rates + 1
        out[2] = torch.where(torch.tensor(count >= 4), math.nan, out[2])
        out[3] = 10.0 ** (min(3 * count, 15) if ties else min(count * (count + 1) // 2, 11))
        if count == 5:
            out[5] = 1e4 * out[5]
        return out.to(z.device, dtype)

    z0 = torch.zeros(6, d, dtype=torch.float64)
    z0[4] = 1 / (1 - slope * rates[4]) + (0 if ties else 0.1)
    return f, z0.to(dtype)


@pytest.mark.parametrize("stop", [{}, {"relative": True}, {"batch": True, "tol": 5.0}], ids=str)
@pytest.mark.parametrize(("dtype", "d"), [(torch.float32, 24), (torch.float32, 2056), (torch.float64, 37)], ids=str)
@pytest.mark.parametrize("solver", [Anderson(m=3, beta=0.9), FixedPoint(beta=0.9)], ids=lambda s: type(s).__name__)
def test_each_step_leaves_what_the_reference_leaves(target, solver, dtype, d, stop):
    """All of the state, after every step of six very different samples."""
    target.needs(dtype, d)

    def outcomes(device: str) -> list[Tensor]:
        f, z0 = mixed_crowd(d, dtype, ties=False)
        x = z0.to(device)
        step, state = begin(solver, x, dtype)
        seen, largest = [], torch.ones(len(x), 1, dtype=torch.float64)
        for i in range(7):
            rule = StopRule(**{"tol": 5e-3, "relative": False, "batch": False} | stop)
            fx = f(x)
            x_next, _ = take(step, state, x, fx, rule, advance=i < 6)
            x = x if x_next is None else x_next
            saved = torch.where(state.flags[:, BEST : BEST + 1] == IN_SAVED, state.saved_best.double(), 0)
            # Whether a pair of a sample that has stopped takes part is nobody's question.
            going = state.flags.clone()
            going[:, 4:] *= state.flags[:, ACTIVE : ACTIVE + 1]
            measurements = state.measurements.clone()
            # A limit 1e8 times the norm would hide the other columns.
            measurements[:, LIMIT] *= 1e-8
            # Mixing rounds at the size of what it mixes, which may be much larger than the result.
            largest = torch.maximum(largest, fx.cpu().double().nan_to_num(posinf=0, neginf=0).abs().amax(1, keepdim=True))
            seen += [t.cpu() for t in (x.cpu().double() / largest, measurements, going, saved)]
        return [*seen, best_so_far(state).cpu()]

    got = outcomes(target.device)
    with ldeq.ops.use_backend("torch"):
        wanted = outcomes("cpu")
    for ours, reference in zip(got, wanted, strict=True):
        if reference.dtype == torch.int64:
            assert torch.equal(ours, reference)
            continue
        scale = reference.nan_to_num(posinf=0, neginf=0).abs().amax(dim=-1, keepdim=True)
        # At the answer the residual is what rounding leaves of states of size one.
        tolerance, noise = (1e-9, 1e-14) if dtype == torch.float64 else (2e-4, 1e-6)
        assert torch.equal(ours.isnan(), reference.isnan()) and torch.equal(ours.isinf(), reference.isinf())
        assert ((ours - reference).nan_to_num(posinf=0, neginf=0).abs() <= tolerance * scale + noise * d**0.5).all()


@pytest.mark.parametrize("solver", [Anderson(m=3), FixedPoint(beta=0.5)], ids=lambda s: type(s).__name__)
def test_a_stopped_sample_is_left_where_it_is(target, solver):
    x = torch.randn(2, 50, device=target.device)
    step, state = begin(solver, x, x.dtype)
    state.flags[0, ACTIVE] = 0
    x_next, _ = take(step, state, x, 0.5 * x, FOREVER)
    assert x_next is not None
    assert torch.equal(x_next[0], x[0]) and not torch.equal(x_next[1], x[1])
    assert state.flags[:, ITERATIONS].tolist() == [0, 1] and state.flags[:, BEST].tolist() == [IN_START, 0]
    assert state.flags[:, STATUS].tolist() == [Status.MAX_ITER] * 2
    best = best_so_far(state)
    assert torch.equal(best[0], x[0]) and torch.equal(best[1], 0.5 * x[1])


def test_parallel_residuals_get_finite_weights(target):
    """Dependent history: the weights stay finite, and the cap takes a plain step if they are absurd."""
    direction = torch.randn(1, 64, generator=torch.Generator().manual_seed(5)).to(target.device)
    start = torch.zeros(1, 64, device=target.device)
    sol = anderson(lambda z: z + direction, start, m=4, max_iter=6, ridge=0.0, tol=0.0, trace=True)
    assert torch.isfinite(sol.value).all() and sol.trace is not None and torch.isfinite(sol.trace).all()


def test_rows_that_no_vector_access_can_take(target):
    """Unaligned memory, though its length would allow vectors."""
    results = []
    for offset in (0, 1):
        rows = [torch.randn(2 * 64 + 1, generator=torch.Generator().manual_seed(i))[: 2 * 64] for i in range(2)]
        x, f = (torch.cat([torch.zeros(offset), row]).to(target.device)[offset:].view(2, 64) for row in rows)
        assert x.data_ptr() % 16 == 4 * offset
        step, state = begin(Anderson(m=2, beta=0.5), x.clone(), x.dtype)
        results.append(take(step, state, x, f, FOREVER).x)
    torch.testing.assert_close(*results, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("shape", [(0, 4), (3, 0)], ids=str)
def test_no_samples_and_no_elements(target, shape):
    x = torch.zeros(shape, device=target.device)
    step, state = begin(Anderson(m=2), x, x.dtype)
    take(step, state, x, x, StopRule(1e-3, True, False))
    assert best_so_far(state).shape == shape
    if target.records_empty_samples:
        assert state.flags[:, ITERATIONS].tolist() == [1] * shape[0]


@pytest.mark.parametrize(("dtype", "d"), [(torch.float32, 8), (torch.float32, 9), (torch.float64, 3), (torch.float16, 3)])
def test_best_so_far_takes_each_value_from_its_place(target, dtype, d):
    target.needs(dtype, d)
    ring = [torch.full((4, d), float(i), dtype=dtype, device=target.device) for i in range(2)]
    start = torch.full((4, d), 9.0, dtype=dtype, device=target.device)
    state = SolveState.new(start, 2)
    state.values, state.saved_best = ring, torch.full_like(start, 8.0)
    state.flags[:, BEST] = torch.tensor([1, IN_SAVED, 0, IN_START], device=target.device)
    best = best_so_far(state)
    assert best.dtype == dtype and best.tolist() == [[v] * d for v in (1.0, 8.0, 0.0, 9.0)]


# --- whole solves -------------------------------------------------------------------------------------------------------


def problem(d: int, dtype: torch.dtype = torch.float32):
    """Five samples of very different scale, the last near its answer."""
    a = torch.linspace(0, 0.9, d, dtype=torch.float64)
    c = torch.randn(5, d, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    c = c * torch.tensor([1e-3, 1.0, 30.0, 1.0, 0.0], dtype=torch.float64)[:, None]

    def f(z: Tensor) -> Tensor:
        return (a.to(z.device) * z.double() + c.to(z.device) + 0.05 * torch.sin(z.double())).to(z.dtype)

    return f, torch.zeros(5, d, dtype=dtype)


@pytest.mark.parametrize(("d", "dtype"), [(1, torch.float32), (33, torch.float32), (1501, torch.float32), (33, torch.float64)])
@pytest.mark.parametrize(
    ("solver", "options"),
    [
        (anderson, {"m": 5, "max_iter": 12, "tol": 1e-3}),
        (anderson, {"m": 1, "max_iter": 6, "tol": 1e-3}),
        (anderson, {"m": 3, "max_iter": 9, "tol": 1e-2, "beta": 0.7, "returns": "x", "stop": "absolute"}),
        (anderson, {"m": 4, "max_iter": 8, "tol": 1e-2, "stop_scope": "batch"}),
        (anderson, {"m": 4, "max_iter": 1}),
        (anderson, {"max_iter": 7, "tol": 1e-3, **PUBLISHED}),
        (fixed_point, {"max_iter": 9, "tol": 1e-2}),
        (fixed_point, {"max_iter": 9, "tol": 1e-2, "beta": 0.7}),
        (fixed_point, {"max_iter": 8, "tol": 1e-2, "stop_scope": "batch", "returns": "x"}),
    ],
    ids=name_of,
)
def test_solves_equal_those_on_the_reference(target, solver, options, d, dtype):
    target.needs(dtype, d)
    f, z0 = problem(d, dtype)
    with Calls() as calls:
        fused = solver(f, z0.to(target.device), trace=True, **options)
    step = ("anderson_step" if solver is anderson else "fixed_point_step") + target.suffix
    expected = [step] * len(fused.trace) + ["best_so_far" + target.suffix]
    assert calls.names == ([] if target.backend == "torch" else expected)
    with ldeq.ops.use_backend("torch"):
        loop = solver(f, z0, trace=True, **options)
    assert torch.equal(fused.iterations.cpu(), loop.iterations) and torch.equal(fused.status.cpu(), loop.status)
    assert fused.residual.dtype == loop.residual.dtype
    # Rounding differs by the order of sums; mixing weights magnify it.
    tolerance = 1e-9 if dtype == torch.float64 else 1e-4
    torch.testing.assert_close(fused.value.cpu(), loop.value, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(fused.trace.cpu(), loop.trace, rtol=1e-2, atol=tolerance)


@pytest.mark.parametrize("dtype", HALF, ids=str)
@pytest.mark.parametrize("solver", [anderson, fixed_point], ids=lambda s: s.__name__)
def test_half_states_reach_the_fixed_point(target, solver, dtype):
    slope = torch.linspace(0, 0.5, 333)
    z0 = torch.linspace(-3, 3, 4)[:, None].expand(4, 333)
    solution = solver(lambda z: (z.float() * slope.to(z.device) + 1).to(z.dtype), z0.to(target.device, dtype), tol=1e-2)
    assert solution.value.dtype == dtype and (solution.status == Status.CONVERGED).all()
    # A residual of 1e-2 of f is an error of at most twice that where the slope is a half; rounding adds 2^-8 of bfloat16.
    exact = (1 / (1 - slope)).expand(4, -1)
    assert ((solution.value.cpu().float() - exact).norm(dim=1) <= 0.03 * exact.norm(dim=1)).all()


@pytest.mark.parametrize("returns", ["f", "x"])
@pytest.mark.parametrize("d", [24, 2056])
@pytest.mark.parametrize("solver", [anderson, fixed_point], ids=lambda s: s.__name__)
def test_a_solve_ends_as_it_should_for_each_kind_of_sample(target, solver, d, returns):
    target.needs(torch.float32, d)
    options = {"max_iter": 9, "tol": 5e-3, "stop": "absolute", "returns": returns, "beta": 0.9, "trace": True}
    if solver is anderson:
        options["m"] = 3
    f, z0 = mixed_crowd(d)
    got = solver(f, z0.to(target.device), **options)
    f, z0 = mixed_crowd(d)
    with ldeq.ops.use_backend("torch"):
        wanted = solver(f, z0, **options)
    assert got.status.tolist() == wanted.status.tolist() and got.iterations.tolist() == wanted.iterations.tolist()
    assert {Status.MAX_ITER, Status.CONVERGED, Status.DIVERGED, Status.NONFINITE} <= set(got.status.tolist())
    torch.testing.assert_close(got.residual.cpu(), wanted.residual, rtol=2e-3, atol=1e-7)
    torch.testing.assert_close(got.trace.cpu(), wanted.trace, rtol=2e-3, atol=1e-7, equal_nan=True)
    for ours, theirs in zip(got.value.cpu(), wanted.value, strict=True):
        assert torch.isfinite(ours).all()
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4 * float(theirs.abs().max()))


@pytest.mark.parametrize(("dtype", "d"), [(torch.float32, 10), (torch.float64, 3), (torch.bfloat16, 4100)], ids=str)
@pytest.mark.parametrize("returns", ["f", "x"])
def test_the_best_value_survives_the_ring(target, dtype, d, returns):
    """The residual is lowest at the second evaluation and grows from then on, far longer than the ring is."""
    target.needs(dtype, d)

    def solve(device: str):
        count = 0

        def f(z: Tensor) -> Tensor:
            nonlocal count
            count += 1
            return z + {1: 1.0, 2: 0.001}.get(count, 0.5 + count)

        start = torch.zeros(2, d, device=device, dtype=dtype)
        return anderson(f, start, m=2, max_iter=9, stop="absolute", safeguards=False, returns=returns)

    fused = solve(target.device)
    with ldeq.ops.use_backend("torch"):
        loop = solve("cpu")
    torch.testing.assert_close(fused.value.cpu(), loop.value, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(fused.residual.cpu(), loop.residual, rtol=1e-3, atol=0)


def test_a_broken_sample_stays_alone(target):
    bad = torch.tensor([False, True, False], device=target.device)[:, None]

    def whole(z: Tensor) -> Tensor:
        return 0.5 * torch.tanh(z) + 1

    z0 = torch.ones(3, 77, device=target.device)
    for solver in (anderson, fixed_point):
        sol = solver(lambda z: torch.where(bad, torch.log(z - 3), whole(z)), z0, tol=1e-5)
        alone = solver(whole, z0[:1], tol=1e-5)
        assert sol.status.tolist() == [Status.CONVERGED, Status.NONFINITE, Status.CONVERGED]
        assert torch.equal(sol.value[1], z0[1]) and sol.residual[1] == torch.inf
        assert torch.equal(sol.value[0], alone.value[0]) and torch.equal(sol.value[2], alone.value[0])


@pytest.mark.parametrize("solver", [anderson, fixed_point], ids=lambda s: s.__name__)
def test_runs_repeat_bit_for_bit_and_neighbours_do_not_matter(target, solver):
    f, z0 = problem(1200)
    z0 = z0.to(target.device) + 0.1
    first, again = (solver(f, z0, max_iter=7, tol=1e-6, trace=True) for _ in range(2))
    assert torch.equal(first.value, again.value) and torch.equal(first.residual, again.residual)

    def alone(z: Tensor) -> Tensor:
        return f(z.expand(5, -1))[1:2].contiguous()

    one = solver(alone, z0[1:2].clone(), max_iter=7, tol=1e-6, trace=True)
    assert torch.equal(one.value, first.value[1:2]) and torch.equal(one.residual, first.residual[1:2])
    assert torch.equal(one.trace, first.trace[: len(one.trace), 1:2])


# --- the operators as PyTorch sees them ---------------------------------------------------------------------------------


def test_opcheck(target):
    target.needs_operators()
    torch.library.opcheck(target.operator("anderson_step"), step_arguments(target.device), test_utils=target.opchecks)
    x, f_ring, _, _, _, measurements, _, saved_best, x_next, *_ = step_arguments(target.device)
    flags = torch.tensor([[0, 1, 1, 0, 0, 0], [0, 1, 1, IN_SAVED, 0, 0]], device=target.device)
    torch.library.opcheck(target.operator("best_so_far"), ([f_ring[0]], saved_best, x, flags), test_utils=target.opchecks)
    flags = torch.tensor([[0, 0, 1, IN_START, 0, 0]] * 2, device=target.device)
    step = (x, f_ring[0], None, measurements, flags, saved_best, x_next, None, 0, 0.9, 1e-4, True, False)
    torch.library.opcheck(target.operator("fixed_point_step"), step, test_utils=target.opchecks)


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
        ({"x_cast": torch.zeros(2, 9, dtype=torch.float16)}, "x_cast has another dtype"),
        ({"evicted": torch.zeros(2, 9, dtype=torch.float16)}, "evicted has another dtype"),
        ({"saved_best": torch.zeros(2, 9, dtype=torch.int32)}, "saved_best must be float"),
        ({"flags": torch.zeros(2, 3, dtype=torch.int64)}, "flags has another shape"),
    ],
    ids=name_of,
)
def test_errors_name_the_argument(target, changes, message):
    target.needs_operators()
    if target.device == "cuda" and changes.get("f_ring"):
        changes = {"f_ring": [torch.zeros(9, 2, device="cuda").T]}
    with pytest.raises(RuntimeError, match=message):
        target.operator("anderson_step")(*step_arguments(target.device, **changes))


@pytest.mark.parametrize("name", ["anderson_step", "fixed_point_step"])
def test_a_best_value_whose_slot_is_taken_without_it_is_an_error_or_stays_harmless(target, name):
    """The second call of an operator with no `evicted` and a NaN read a null pointer."""
    target.needs_operators()
    x, f_ring, _, g_ring, gram, measurements, flags, saved_best, x_next, *_ = step_arguments(target.device)

    def call(f: Tensor) -> None:
        if name == "anderson_step":
            options: tuple[float, ...] = (1.0, 1e-8, 1e-4, True, False, True)
            target.operator(name)(x, [f], None, g_ring, gram, measurements, flags, saved_best, x_next, None, 0, *options)
        else:
            options = (1.0, 1e-4, True, False)
            target.operator(name)(
                x, f, None, measurements, flags[:, :FLAGS].contiguous(), saved_best, x_next, None, 0, *options
            )

    if name == "fixed_point_step":
        flags = flags[:, :FLAGS].contiguous()
    call(f_ring[0])
    if target.checks_on_the_host:
        with pytest.raises(RuntimeError, match="evicted must hold the values"):
            call(torch.full_like(f_ring[0], math.nan))
    else:
        call(torch.full_like(f_ring[0], math.nan))
        assert torch.isfinite(x_next).all()


# --- numbers that float32 cannot square ---------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [1e-35, 1e-23, 1.0, 1e19, 1e34])
@pytest.mark.parametrize("solver", [anderson, fixed_point])
def test_states_of_any_size_are_solved_alike(target, solver, scale):
    """Squares of 1e-23 vanish in float32 and those of 1e19 overflow: half an answer was CONVERGED, or none NONFINITE."""
    slope = torch.linspace(0, 0.8, 1500, device=target.device)

    def solve(scale: float):
        return solver(lambda z: slope * z + scale, torch.zeros(2, 1500, device=target.device), tol=1e-5, max_iter=80)

    sol, usual = solve(scale), solve(1.0)
    assert (sol.status == Status.CONVERGED).all()
    assert (sol.iterations - usual.iterations).abs().max() <= 1
    torch.testing.assert_close(sol.value / scale, usual.value, rtol=1e-3, atol=0)


def test_a_small_first_residual_is_not_taken_for_a_scale(target):
    """tanh(3 z) + 1e-10 from 0 grows by ten decades and converges; 3 z + 1e-10 goes on growing; 30 z + 1 diverges."""
    z0 = torch.zeros(1, 6, device=target.device)
    grows = fixed_point(lambda z: torch.tanh(3 * z) + 1e-10, z0, max_iter=80)
    assert grows.status.item() == Status.CONVERGED
    torch.testing.assert_close(grows.value.cpu(), torch.full((1, 6), 0.99505), rtol=1e-3, atol=0)
    assert fixed_point(lambda z: 3 * z + 1e-10, z0, max_iter=50).status.item() == Status.MAX_ITER
    for solve in (fixed_point, lambda f, z0, **options: anderson(f, z0, m=1, **options)):
        leaves = solve(lambda z: 30 * z + 1, z0, max_iter=80)
        assert leaves.status.item() == Status.DIVERGED
        assert leaves.iterations.item() < 20
        explodes = solve(lambda z: z * z + 2 * z + 10, z0, max_iter=80)
        assert explodes.status.item() == Status.DIVERGED
