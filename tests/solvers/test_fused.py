"""The fused loop: what it hands to f, the memory it keeps, and what it leaves to the reference."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
import torch
from problems import noise
from torch import Tensor
from torch.autograd import forward_ad

from ldeq.ops import library, use_backend
from ldeq.solvers import SOLVERS, Solution, Status, anderson, buffer_reuse, fixed_point

pytestmark = pytest.mark.skipif(library.MISSING is not None, reason=f"native library: {library.MISSING}")

Solver = Callable[..., Solution]
each_solver = pytest.mark.parametrize("solver", SOLVERS.values(), ids=list(SOLVERS))


def same(one: Solution, other: Solution) -> None:
    for name in ("value", "residual", "iterations", "status"):
        assert torch.equal(getattr(one, name), getattr(other, name)), name


# --- undamped iteration -------------------------------------------------------------------------------------------------


def test_an_undamped_step_copies_nothing() -> None:
    """Where all samples go on, f is given what it returned: a copy of it would be a third of the bytes of a step."""
    seen, given = [], []

    def f(z: Tensor) -> Tensor:
        seen.append(z)
        given.append(0.5 * z + 1)
        return given[-1]

    fixed_point(f, torch.zeros(2, 40), max_iter=5, tol=0)
    assert [z.data_ptr() for z in seen[1:]] == [fx.data_ptr() for fx in given[:-1]]
    seen.clear()
    given.clear()
    fixed_point(f, torch.zeros(2, 40), max_iter=5, tol=0, beta=0.5)
    assert not {z.data_ptr() for z in seen} & {fx.data_ptr() for fx in given}


@pytest.mark.parametrize("every", [0, 1, 3])
@pytest.mark.parametrize("returns", ["f", "x"])
@pytest.mark.parametrize("stop", ["relative", "motion"])
def test_a_sample_that_stops_alone_is_frozen_and_f_keeps_its_answers(every: int, returns: str, stop: str) -> None:
    """The samples stop one after another, one by a NaN; what f returned is nobody else's to write to."""
    rate = torch.tensor([0.0, 0.3, 0.6, 0.9])[:, None]
    calls: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []

    def f(z: Tensor) -> Tensor:
        out = rate * z + 1
        if len(calls) == 4:
            out[3, 2] = torch.nan
        calls.append((z, z.clone(), out, out.clone()))
        return out

    options = {"max_iter": 30, "tol": 1e-3, "returns": returns, "check_every": every, "stop": stop}
    if stop == "motion":
        options["observe"] = lambda z: z.nan_to_num(1e3)
    fused = fixed_point(f, torch.zeros(4, 9), **options)
    for z, before, out, then in calls:
        assert torch.equal(z, before)
        assert torch.equal(out.nan_to_num(), then.nan_to_num())
    for i, stopped in enumerate(fused.iterations.tolist()):
        frozen = [z[i] for z, *_ in calls[stopped:]]
        assert all(torch.equal(z, frozen[0]) for z in frozen)
        assert all(z.isfinite().all() for z in frozen)
    calls.clear()
    with use_backend("torch"):
        loop = fixed_point(f, torch.zeros(4, 9), **options)
    assert fused.status.tolist() == [Status.CONVERGED] * 3 + [Status.NONFINITE]
    assert torch.equal(fused.value, loop.value)
    assert torch.equal(fused.iterations, loop.iterations)
    torch.testing.assert_close(fused.residual, loop.residual)


# --- memory that is kept ------------------------------------------------------------------------------------------------


@pytest.fixture
def nothing_left() -> None:
    buffer_reuse._released.__dict__.clear()


def crooked(b: int, n: int) -> tuple[Callable[[Tensor], Tensor], Tensor]:
    slope, shift = torch.linspace(-0.8, 0.9, n), noise(b, n).float()
    return lambda z: slope * torch.tanh(z) + shift, torch.zeros(b, n)


def test_a_history_finds_the_memory_of_the_last_one(nothing_left: None) -> None:
    f, start = crooked(3, 500)
    first = anderson(f, start, tol=1e-6)
    kept = buffer_reuse._released.storage
    assert kept.nbytes() == 6 * 3 * 500 * 4
    # What was left there must not matter, were it NaN.
    torch.empty(0).set_(kept).fill_(torch.nan)
    same(anderson(f, start, tol=1e-6), first)
    assert buffer_reuse._released.storage.data_ptr() == kept.data_ptr()
    # Smaller ones fit in, of another type as well; the larger memory stays.
    half = anderson(f, start, tol=1e-6, history_dtype=torch.bfloat16, m=2)
    assert half.converged.all()
    assert buffer_reuse._released.storage.data_ptr() == kept.data_ptr()
    with torch.inference_mode():
        same(anderson(f, start, tol=1e-6), first)
    same(anderson(f, start, tol=1e-6), first)


def test_solves_at_the_same_time_do_not_share_their_histories(nothing_left: None) -> None:
    f, start = crooked(2, 300)
    alone = anderson(f, start, tol=1e-6)

    def nested(z: Tensor) -> Tensor:
        same(anderson(f, start, tol=1e-6), alone)
        return f(z)

    same(anderson(nested, start, tol=1e-6), alone)
    found: list[Solution] = []
    threads = [threading.Thread(target=lambda: found.extend(anderson(f, start, tol=1e-6) for _ in range(5))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 20
    for sol in found:
        same(sol, alone)


def test_a_solve_that_fails_or_is_large_leaves_nothing(nothing_left: None, monkeypatch: pytest.MonkeyPatch) -> None:
    f, start = crooked(2, 300)
    calls = 0

    def breaks(z: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return f(z) if calls < 3 else f(z)[:, :1]

    with pytest.raises(ValueError, match="shape"):
        anderson(breaks, start)
    assert not hasattr(buffer_reuse._released, "storage")
    monkeypatch.setattr(buffer_reuse, "LIMIT", 6 * 2 * 300 * 4 - 1)
    anderson(f, start)
    assert not hasattr(buffer_reuse._released, "storage")


# --- what the reference does --------------------------------------------------------------------------------------------


@each_solver
def test_tangents_are_not_lost(solver: Solver) -> None:
    """z = a z + w has dz/dw = 1 / (1 - a). A compiled step knows no forward-mode derivative and would return none."""
    a = torch.linspace(0, 0.5, 8, dtype=torch.float64)
    w = torch.tensor(1.0, dtype=torch.float64)

    def solve(w: Tensor) -> Tensor:
        return solver(lambda z: a * z + w, torch.zeros(2, 8, dtype=torch.float64), max_iter=60, tol=1e-14).value

    expected = (1 / (1 - a)).expand(2, 8)
    _, tangent = torch.func.jvp(solve, (w,), (torch.ones_like(w),))
    # Quasi-Newton tangents follow one step behind the value.
    torch.testing.assert_close(tangent, expected, rtol=1e-6, atol=1e-6)
    with torch.no_grad(), forward_ad.dual_level():
        dual = forward_ad.unpack_dual(solve(forward_ad.make_dual(w, torch.ones_like(w))))
    torch.testing.assert_close(dual.tangent, expected, rtol=1e-6, atol=1e-6)


@each_solver
def test_a_solve_can_be_mapped_over_its_injections(solver: Solver) -> None:
    a, shifts = torch.linspace(0, 0.5, 8, dtype=torch.float64), torch.arange(1.0, 4.0, dtype=torch.float64)

    def solve(c: Tensor) -> Tensor:
        return solver(lambda z: a * z + c, torch.zeros(2, 8, dtype=torch.float64), max_iter=40, tol=1e-12, check_every=0).value

    for recording in (True, False):
        with torch.set_grad_enabled(recording):
            mapped = torch.func.vmap(solve)(shifts)
        torch.testing.assert_close(mapped, (shifts[:, None, None] / (1 - a)).expand(3, 2, 8), rtol=1e-9, atol=1e-9)
