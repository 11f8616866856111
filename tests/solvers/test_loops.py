"""What the loop around a solver does: polls of the host, compaction, stopping by motion, what it keeps, mixed precision."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from problems import PROBLEMS, Problem, conditioned, linear, name_of, noise, tanh_network
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from ldeq.ops import use_backend
from ldeq.solvers import SOLVERS, Injected, Solution, Status, anderson, fixed_point, polling
from ldeq.solvers.polling import Poll

Solver = Callable[..., Solution]

each_solver = pytest.mark.parametrize("solver", SOLVERS.values(), ids=list(SOLVERS))
each_backend = pytest.mark.parametrize("backend", ["auto", "torch"])


def same(one: Solution, other: Solution, tol: float = 1e-6) -> None:
    torch.testing.assert_close(one.value, other.value, rtol=tol, atol=tol)
    torch.testing.assert_close(one.residual, other.residual, rtol=tol, atol=tol)
    assert torch.equal(one.iterations, other.iterations)
    assert torch.equal(one.status, other.status)


def crowd() -> tuple[Injected, Tensor]:
    """Eight samples of different conditioning: 3 returns NaN, 5 has no fixed point and runs away."""
    n = 24
    top = torch.tensor([0.1, 0.5, 0.8, 0.5, 0.85, 1.0, 0.3, -0.7], dtype=torch.float64)[:, None]
    x = {
        "slope": top * torch.linspace(0.2, 1, n, dtype=torch.float64),
        "shift": noise(8, n, seed=5),
        "square": torch.zeros(8, 1, dtype=torch.float64),
        "one": torch.ones((), dtype=torch.float64),
    }
    x["shift"][3, 7] = torch.nan
    x["shift"][5], x["slope"][5], x["square"][5] = 2.0, 1.0, 1.0
    return Injected(lambda z, x: x["slope"] * z + x["shift"] + x["square"] * z * z * x["one"], x), torch.zeros_like(x["shift"])


# --- polls --------------------------------------------------------------------------------------------------------------


def host_reads(run: Callable[[], object]) -> int:
    run()
    with profile(activities=[ProfilerActivity.CPU]) as recorded:
        run()
    return sum(event.count for event in recorded.key_averages() if event.key == "aten::_local_scalar_dense")


@each_solver
@each_backend
@pytest.mark.parametrize("motion", [False, True], ids=["residual", "motion"])
def test_a_solve_without_polls_reads_nothing_on_the_host(
    monkeypatch: pytest.MonkeyPatch, solver: Solver, backend: str, motion: bool
) -> None:
    monkeypatch.setattr(polling, "LISTED", 0)  # the meter does not see lists
    problem = tanh_network()
    options: dict[str, Any] = {"stop": "motion", "observe": lambda z: z.flatten(1)} if motion else {}

    def solve(every: int) -> Solution:
        return solver(problem.map(), problem.start(), max_iter=7, tol=0.0, check_every=every, **options)

    with use_backend(backend):
        assert host_reads(lambda: solve(0)) <= 1
        # One every three evaluations, none after the last; the count shows that the meter counts.
        assert host_reads(lambda: solve(3)) == 2


@each_solver
@each_backend
@pytest.mark.parametrize("every", [0, 2, 7])
def test_polling_less_often_costs_evaluations_and_nothing_else(solver: Solver, backend: str, every: int) -> None:
    f, start = crowd()
    calls = 0

    def counted(z: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return f(z)

    options: dict[str, Any] = {"tol": 1e-6, "max_iter": 150, "trace": True, "trajectory": True}
    if solver is not fixed_point:  # sample 5 wanders through the whole budget otherwise
        options["max_iter"] = 40
    with use_backend(backend):
        each = solver(f, start, **options)
        rare = solver(counted, start, check_every=every, **options)
    same(each, rare, tol=0.0)
    stopped = int(each.iterations.max())
    assert calls == (options["max_iter"] if every == 0 else min(options["max_iter"], -(-stopped // every) * every))
    for name in ("trace", "trajectory"):
        kept, more = getattr(each, name), getattr(rare, name)
        assert len(more) == calls
        assert torch.equal(kept.nan_to_num(-1.0), more[:stopped].nan_to_num(-1.0))
        assert torch.equal(
            more[stopped:].nan_to_num(-1.0), more[stopped - 1 : stopped].expand_as(more[stopped:]).nan_to_num(-1.0)
        )


@pytest.fixture
def late_polls(monkeypatch: pytest.MonkeyPatch) -> None:
    """Polls as a CUDA device has them: each tells what the one before saw."""
    plain = Poll.__init__

    def lagging(self: Poll, every: int, device: torch.device) -> None:
        plain(self, every, device)
        self.lags = True

    def read_later(total: Tensor) -> Callable[[], int]:
        copy = total.clone()
        return lambda: int(copy)

    monkeypatch.setattr(Poll, "__init__", lagging)
    monkeypatch.setattr(Poll, "_read_later", staticmethod(read_later))


@each_solver
@each_backend
def test_a_poll_that_comes_late_ends_the_solve_one_poll_late(solver: Solver, backend: str, late_polls: None) -> None:
    problem = conditioned()
    x = {"rows": torch.arange(6)}
    calls: list[int] = []

    def cell(z: Tensor, x: dict[str, Tensor]) -> Tensor:
        calls.append(len(z))
        return (problem.map()(z.new_zeros(6, 32).index_copy(0, x["rows"], z)))[x["rows"]]

    with use_backend(backend):
        plain = solver(problem.map(), problem.start(), tol=1e-7, max_iter=900)
        assert plain.converged.all()
        for every in (1, 4):
            late = solver(Injected(cell, x), problem.start(), tol=1e-7, max_iter=900, check_every=every)
            same(plain, late, tol=0.0)
            assert len(calls) == min(900, (-(-int(plain.iterations.max()) // every) + 1) * every)
            calls.clear()
        compacted = solver(Injected(cell, x), problem.start(), tol=1e-7, max_iter=900, compact=0.8)
    same(plain, compacted, tol=1e-12)
    assert calls == sorted(calls, reverse=True)
    assert calls[-1] <= 2


# --- compaction ---------------------------------------------------------------------------------------------------------


@each_solver
@each_backend
@pytest.mark.parametrize("stop", ["relative", "absolute", "motion"])
@pytest.mark.parametrize(("every", "share"), [(1, 0.9), (1, 0.5), (3, 0.3)])
def test_a_shrinking_batch_gives_every_sample_the_same(
    solver: Solver, backend: str, stop: str, every: int, share: float
) -> None:
    f, start = crowd()
    options: dict[str, Any] = {"tol": 1e-6, "max_iter": 40, "stop": stop, "trace": True, "trajectory": True}
    if stop == "motion":
        options["observe"] = lambda z: z.reshape(len(z), 12, 2)
    sizes: list[int] = []
    inner = f.cell

    def watched(z: Tensor, x: Any) -> Tensor:
        sizes.append(len(z))
        return inner(z, x)

    with use_backend(backend):
        whole = solver(f, start, check_every=every, **options)
        f.cell = watched
        shrunk = solver(f, start, check_every=every, compact=share, **options)
    same(whole, shrunk)
    assert sizes[0] == 8
    if share >= 0.5:
        assert sizes[-1] <= 4
        assert sum(sizes) < 0.8 * 8 * len(sizes)
    for name in ("trace", "trajectory", "motion"):
        kept, less = getattr(whole, name), getattr(shrunk, name)
        assert (kept is None) == (less is None)
        if kept is not None:
            torch.testing.assert_close(kept, less, rtol=1e-6, atol=1e-6, equal_nan=True)


@each_solver
@each_backend
@pytest.mark.parametrize("share", [0.0, 0.9])
def test_every_sample_of_a_crowd_equals_its_solo_solve(solver: Solver, backend: str, share: float) -> None:
    f, start = crowd()
    options: dict[str, Any] = {"tol": 1e-6, "max_iter": 90}
    f(start)
    with use_backend(backend):
        together = solver(f, start, compact=share, **options)
        for i in range(8):
            alone = solver(f.select(torch.tensor([i])), start[i : i + 1], **options)
            same(alone, Solution(*(getattr(together, n)[i : i + 1] for n in ("value", "residual", "iterations", "status"))))
        # Neighbours do not notice, to the last bit, whether 3 and 5 are bad.
        shift, square = f.x["shift"].clone(), torch.zeros_like(f.x["square"])
        shift[3] = shift[5] = 0.1
        healthy = solver(Injected(f.cell, f.x | {"shift": shift, "square": square}), start, compact=share, **options)
    assert together.status[3] == Status.NONFINITE
    assert together.status[5] == (Status.DIVERGED if solver is fixed_point else Status.MAX_ITER)
    others = [0, 1, 2, 4, 6, 7]
    assert together.converged[others].all()
    assert torch.equal(together.value[others], healthy.value[others])


def test_an_injection_may_know_itself_what_belongs_to_a_sample() -> None:
    class Prepared:
        """Weights that have no batch, and a term that has one."""

        def __init__(self, weight: Tensor, term: Tensor) -> None:
            self.weight, self.term = weight, term

        def select(self, rows: Tensor) -> Prepared:
            return Prepared(self.weight, self.term[rows])

    f, start = crowd()
    x = Prepared(0.5 * torch.linspace(0, 1, 24, dtype=torch.float64), f.x["shift"].nan_to_num())
    cell = lambda z, inputs: inputs["it"].weight * z + inputs["it"].term  # noqa: E731
    whole = anderson(Injected(cell, {"it": x}), start, tol=1e-8)
    same(whole, anderson(Injected(cell, {"it": x}), start, tol=1e-8, compact=0.9))


def test_what_cannot_be_narrowed_is_refused() -> None:
    f, start = crowd()
    with pytest.raises(ValueError, match=r"compact=0.5 .*select\(rows\).*Injected"):
        anderson(lambda z: f(z), start, compact=0.5)
    f.x["bias"] = torch.zeros(24)
    with pytest.raises(ValueError, match=r"batch of 8, got one of shape \(24,\).*compact=0"):
        anderson(f, start, compact=0.9)


# --- motion -------------------------------------------------------------------------------------------------------------


def points(z: Tensor) -> Tensor:
    return z[:, :20].reshape(len(z), 10, 2)


@each_solver
@each_backend
@pytest.mark.parametrize("returns", ["f", "x"])
def test_a_sample_stops_once_its_points_have_come_to_rest(solver: Solver, backend: str, returns: str) -> None:
    """The definition, from the values of a solve that runs on: the first evaluation that moves the points by tol or less."""
    problem, tol = conditioned(), 1e-3
    f = problem.map()
    with use_backend(backend):
        path = solver(f, problem.start(), tol=0.0, max_iter=40, trajectory=True).trajectory
        assert path is not None
        sol = solver(f, problem.start(), tol=tol, max_iter=40, stop="motion", observe=points, returns=returns, trajectory=True)
    read = torch.stack([points(z) for z in (problem.start(), *path)])
    moved = (read[1:] - read[:-1]).norm(dim=-1).mean(-1)
    assert sol.motion is not None
    assert sol.trajectory is not None
    for i in range(6):
        rests = (moved[:, i] <= tol).nonzero()
        last = int(rests[0]) if len(rests) else 39
        assert sol.iterations[i] == last + 1
        assert sol.status[i] == (Status.CONVERGED if len(rests) else Status.MAX_ITER)
        torch.testing.assert_close(sol.motion[i], moved[last, i], rtol=1e-9, atol=1e-15)
        if len(rests):
            # What came to rest is returned, with its residual.
            assert torch.equal(sol.value[i], sol.trajectory[-1, i])
            x = sol.value[i : i + 1] if returns == "x" else None
            if x is not None:
                residual = (f(sol.value) - sol.value).norm(dim=1) / f(sol.value).norm(dim=1)
                torch.testing.assert_close(sol.residual[i], residual[i], rtol=1e-6, atol=0)
            else:
                torch.testing.assert_close(sol.value[i], path[last, i], rtol=1e-12, atol=1e-14)
    assert len(set(sol.iterations.tolist())) > 2


@each_solver
@each_backend
def test_points_without_coordinates_move_by_their_absolute_difference(solver: Solver, backend: str) -> None:
    problem = linear(1.0)
    options: dict[str, Any] = {"tol": 1e-2, "stop": "motion", "max_iter": 200}
    with use_backend(backend):
        flat = solver(problem.map(), problem.start(), observe=lambda z: z[:, :7], **options)
        deep = solver(problem.map(), problem.start(), observe=lambda z: z[:, :7, None], **options)
    same(flat, deep, tol=0.0)
    assert flat.converged.all()
    assert flat.motion is not None
    assert (flat.motion <= 1e-2).all()


@each_solver
@each_backend
def test_points_that_become_nan_or_run_away_never_rest(solver: Solver, backend: str) -> None:
    f, start = crowd()
    with use_backend(backend):
        sol = solver(f, start, stop="motion", tol=1e-4, max_iter=60, observe=lambda z: z)
        # Sample 5 moves by an ever larger step; the mean over the batch is NaN or large.
        batch = solver(f, start, stop="motion", stop_scope="batch", tol=1e-4, max_iter=9, observe=lambda z: z)
    assert sol.status[3] == Status.NONFINITE
    assert sol.status[5] != Status.CONVERGED
    assert sol.converged[[0, 1, 2, 4, 6, 7]].all()
    assert not batch.converged.any()


@each_solver
@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"check_every": -1}, "check_every .*-1"),
        ({"compact": 1.0}, "compact .*1.0"),
        ({"compact": -0.1}, "compact .*-0.1"),
        ({"compact": 0.5, "check_every": 0}, "compact=0.5 needs check_every"),
        ({"compact": 0.5, "stop_scope": "batch"}, "compact=0.5 needs stop_scope"),
        ({"stop": "motion"}, "observe"),
        ({"observe": points}, "observe"),
        ({"stop": "motion", "observe": lambda z: z.sum()}, r"observe .*\(\)"),
        ({"stop": "motion", "observe": lambda z: z.flatten()}, r"observe .*\(192,\)"),
        ({"stop": "motion", "observe": lambda z: z.argmax(1, keepdim=True)}, "observe .*int64"),
    ],
    ids=name_of,
)
def test_bad_options_of_the_loop_are_refused(solver: Solver, options: dict[str, Any], says: str) -> None:
    problem = linear(1.0)
    with pytest.raises(ValueError, match=says) as caught:
        solver(problem.map(), problem.start(), **options)
    assert "\n" not in str(caught.value)


# --- what is kept -------------------------------------------------------------------------------------------------------


@each_solver
@each_backend
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("returns", ["f", "x"])
def test_a_trajectory_holds_every_point_and_the_best(solver: Solver, backend: str, dtype: torch.dtype, returns: str) -> None:
    problem = tanh_network()
    f = problem.map(dtype)
    visited: list[Tensor] = []

    def watched(z: Tensor) -> Tensor:
        visited.append(z.clone())
        return f(z)

    with use_backend(backend):
        sol = solver(watched, problem.start(dtype), tol=0.0, max_iter=9, returns=returns, trace=True, trajectory=True)
    assert sol.trajectory is not None
    assert sol.trace is not None
    assert sol.trajectory.shape == (len(visited), 3, 2, 3, 5)
    assert sol.trajectory.dtype == dtype
    for i, stopped in enumerate(sol.iterations.tolist()):
        for step, z in enumerate(visited[:stopped]):
            assert torch.equal(sol.trajectory[step, i], (z if returns == "x" else f(z))[i])
        assert torch.equal(sol.value[i], sol.trajectory[int(sol.trace[:, i].argmin()), i])


# --- precision ----------------------------------------------------------------------------------------------------------


@each_backend
@pytest.mark.parametrize("problem", PROBLEMS, ids=str)
def test_a_bfloat16_history_reaches_the_residual_of_a_float32_one(problem: Problem, backend: str) -> None:
    """Naive bfloat16 histories stall at 1.3e-3."""
    with use_backend(backend):
        full, half = (
            anderson(problem.map(torch.float32), problem.start(torch.float32), tol=0.0, max_iter=400, history_dtype=dtype)
            for dtype in (None, torch.bfloat16)
        )
    # Both end at the rounding of float32 evaluations, which the conditioning of I - J does not enter.
    assert (half.residual <= 2 * full.residual + 4 * torch.finfo(torch.float32).eps).all()
    assert (half.residual < 1e-5).all()


@each_solver
@each_backend
@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16], ids=str)
def test_a_float32_state_is_kept_around_a_half_precision_cell(solver: Solver, backend: str, half: torch.dtype) -> None:
    """The iterate keeps what a bfloat16 state would round away: residuals fall below the rounding of the cell's type."""
    n = 256
    slope, shift = torch.linspace(-0.5, 0.5, n), noise(2, n).float()
    seen = set()

    def f(z: Tensor) -> Tensor:
        seen.add(z.dtype)
        return slope.to(half) * z.to(half) + shift.to(half)

    with use_backend(backend):
        sol = solver(f, torch.zeros(2, n), tol=0.0, max_iter=30)
    assert seen == {torch.float32}
    assert sol.value.dtype == sol.residual.dtype == torch.float32
    exact = shift.to(half).double() / (1 - slope.to(half).double())
    eps = torch.finfo(half).eps
    # Argument, product and sum are rounded by half an eps each, amplified by 1 / (1 - .5) = 2.
    assert ((sol.value.double() - exact).norm(dim=1) <= 3 * eps * exact.norm(dim=1)).all()


@each_solver
def test_autocast_inside_f_leaves_the_solver_in_float32(solver: Solver) -> None:
    weight = 0.1 * noise(32, 32).float()
    shift = noise(3, 32).float()

    def f(z: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            out = z @ weight + shift.to(torch.bfloat16)
        assert out.dtype == torch.bfloat16
        return out

    sol = solver(f, torch.zeros(3, 32), tol=4e-3, max_iter=50)
    assert sol.converged.all()
    exact = torch.linalg.solve(torch.eye(32) - weight.T, shift.T).T
    assert ((sol.value - exact).norm(dim=1) <= 0.05 * exact.norm(dim=1)).all()


# --- a function called after every evaluation ---------------------------------------------------------------------------


@each_solver
@each_backend
def test_on_step_sees_every_evaluation_of_the_samples_still_held(solver: Solver, backend: str) -> None:
    f, start = crowd()
    seen: list[tuple[int, Tensor, Tensor]] = []
    with use_backend(backend):
        sol = solver(f, start, tol=1e-6, max_iter=12, trace=True, on_step=lambda *step: seen.append(step))
        assert [step for step, _, _ in seen] == list(range(1, len(seen) + 1)) and len(seen) == int(sol.iterations.max())
        assert torch.equal(torch.stack([r for _, r, _ in seen]).nan_to_num(-1.0), sol.trace.nan_to_num(-1.0))
        for step, _, goes_on in seen[:-1]:
            assert torch.equal(goes_on, sol.iterations > step)
        seen.clear()
        solver(f, start, tol=1e-6, max_iter=60, compact=0.8, on_step=lambda *step: seen.append(step))
        assert len(seen[-1][1]) < len(start)
        with pytest.raises(ValueError, match="on_step must be a function or None, got 3"):
            solver(f, start, on_step=3)


@each_solver
def test_a_mapped_solve_that_polls_is_told_how_to_run(solver: Solver) -> None:
    def solve(z: Tensor, every: int) -> Tensor:
        return solver(torch.cos, z[None], tol=1e-6, max_iter=60, check_every=every).value

    starts = noise(3, 4)
    with pytest.raises(ValueError, match=r"check_every must be 0 under torch\.vmap, got 1"):
        torch.vmap(lambda z: solve(z, 1))(starts)
    mapped = torch.vmap(lambda z: solve(z, 0))(starts)
    torch.testing.assert_close(mapped, torch.stack([solve(z, 0) for z in starts]))
