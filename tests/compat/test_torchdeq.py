"""The drop-in for torchdeq: what its cores expect, and its known faults, each in a test of that name."""

from __future__ import annotations

import itertools
import re
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from torchdeq import get_deq
from torchdeq.solver import get_solver, register_solver
from torchdeq.solver.stat import SolverStat

from ldeq import solvers
from ldeq.compat import torchdeq as compat

SLOPE = torch.linspace(0, 0.9, 24)
SHIFT = torch.randn(3, 24, generator=torch.Generator().manual_seed(0))
ANSWER = SHIFT / (1 - SLOPE)
BOTH = pytest.mark.parametrize("solve", [compat.anderson, compat.fixed_point])


@pytest.fixture(autouse=True)
def registered() -> None:
    compat.register()


def affine(z: torch.Tensor) -> torch.Tensor:
    return SLOPE.to(z.dtype) * z + SHIFT.to(z.dtype)


def start(dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.zeros(3, 24, dtype=dtype)


# Inside torchdeq


@pytest.mark.parametrize("core", ["sliced", "indexing"])
@pytest.mark.parametrize("name", ["ldeq_anderson", "ldeq_fixed_point"])
def test_readme_example_of_a_system_of_three_tensors(core: str, name: str) -> None:
    weight = torch.full((), 0.4, requires_grad=True)

    def fn(a: torch.Tensor, b: torch.Tensor, c: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return weight * b.mean(-1, keepdim=True) + a / 4, torch.cos(b) * 0.5, weight * c + 1

    a0, b0, c0 = torch.zeros(2, 5), torch.zeros(2, 3), torch.zeros(2, 2, 4)
    deq = get_deq(core=core, f_solver=name, b_solver=name, ift=True, f_max_iter=80, f_tol=1e-6, b_tol=1e-7, b_max_iter=80)
    z_out, info = deq(fn, (a0, b0, c0))
    a, b, c = z_out[-1]
    assert (a.shape, b.shape, c.shape) == (a0.shape, b0.shape, c0.shape)
    torch.testing.assert_close(b, 0.5 * torch.cos(b), atol=1e-5, rtol=0)
    torch.testing.assert_close(c, torch.full_like(c, 1 / 0.6), atol=1e-5, rtol=0)
    torch.testing.assert_close(a, weight * b.mean(-1, keepdim=True).expand_as(a) / 0.75, atol=1e-5, rtol=0)
    assert isinstance(info, SolverStat)
    c.mean().backward()
    assert weight.grad is not None
    torch.testing.assert_close(weight.grad, torch.tensor(1 / 0.6**2), rtol=1e-4, atol=0)  # d/dw of 1 / (1 - w)


@pytest.mark.parametrize("core", ["sliced", "indexing"])
@pytest.mark.parametrize("hook", [False, True])
def test_implicit_gradient_of_a_mean_reduced_loss(core: str, hook: bool) -> None:
    """Residuals of the backward solve are near 1e-5 here: the default ridge must not be absolute."""
    matrix = (0.9 * torch.linalg.qr(torch.randn(24, 24, generator=torch.Generator().manual_seed(1)))[0]).requires_grad_()

    def gradient(solver: str) -> torch.Tensor:
        deq = get_deq(
            core=core, f_solver=solver, b_solver=solver, ift=True, hook_ift=hook, f_max_iter=60, f_tol=1e-6,
            b_max_iter=60, b_tol=1e-6, b_stop_mode="rel",
        )  # fmt: skip
        z_out, _ = deq(lambda z: torch.tanh(z @ matrix.T) * 0.9 + SHIFT, start())
        return torch.autograd.grad(1e-3 * z_out[-1].pow(2).mean(), matrix)[0]

    z = start()
    for _ in range(400):
        z = torch.tanh(z @ matrix.T) * 0.9 + SHIFT
    (expected,) = torch.autograd.grad(1e-3 * z.pow(2).mean(), matrix)
    error = (gradient("ldeq_anderson") - expected).norm() / expected.norm()
    assert error < 1e-3
    if not hook:
        assert (gradient("anderson") - expected).norm() / expected.norm() > 10 * error


def test_spectral_radius_at_evaluation() -> None:
    deq = get_deq(f_solver="ldeq_anderson", f_max_iter=40).eval()
    _, info = deq(affine, start(), sradius_mode=True)
    torch.testing.assert_close(info["sradius"].flatten()[0].item(), 0.9, atol=0.02, rtol=0)


def test_solver_kwargs_reach_the_forward_solve() -> None:
    deq = get_deq(f_solver="ldeq_anderson", f_tol=0.0).eval()
    _, info = deq(affine, start(), solver_kwargs={"f_max_iter": 7, "m": 2})
    assert info["abs_trace"].shape == (3, 8)
    expected = solvers.anderson(affine, start(), m=2, max_iter=7, tol=0, stop="absolute", trace=True)
    assert expected.trace is not None
    torch.testing.assert_close(info["abs_trace"][:, 1:], expected.trace.T)


def test_options_of_register_reach_the_backward_solve(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    original = solvers.anderson

    def spy(f, z0, **options):
        seen.append((options["m"], options["beta"], options["ridge"]))
        return original(f, z0, **options)

    monkeypatch.setattr(solvers, "anderson", spy)
    compat.register(m=3, lam=1e-2, tau=0.5)
    shift = SHIFT.clone().requires_grad_()
    deq = get_deq(f_solver="ldeq_anderson", b_solver="ldeq_anderson", ift=True)
    z_out, _ = deq(lambda z: SLOPE * z + shift, start())
    z_out[-1].sum().backward()
    assert seen == [(3, 0.5, -1e-2)] * 2


def test_a_second_name_has_its_own_options() -> None:
    register_solver("deep", partial(compat.anderson, m=12))
    _, _, stat = get_solver("deep")(affine, start(), max_iter=30, tol=1e-4)
    assert stat["abs_lowest"].max() <= 1e-4


def test_backward_writer_receives_the_statistics_of_the_backward_solve() -> None:
    shift = SHIFT.clone().requires_grad_()
    deq = get_deq(f_solver="ldeq_anderson", b_solver="ldeq_anderson", ift=True, b_tol=1e-5)
    received: list[SolverStat] = []
    z_out, _ = deq(lambda z: SLOPE * z + shift, start(), backward_writer=received.append)
    z_out[-1].sum().backward()
    assert received[0]["abs_lowest"].max() <= 1e-5
    assert shift.grad is not None
    torch.testing.assert_close(shift.grad, (1 / (1 - SLOPE)).expand(3, -1), rtol=1e-4, atol=1e-4)


def test_the_indexing_core_trains_on_inner_states() -> None:
    deq = get_deq(core="indexing", f_solver="ldeq_fixed_point", n_states=3, f_max_iter=12, f_tol=0.0)
    z_out, _ = deq(affine, start())
    plain = [start()]
    for _ in range(13):
        plain.append(affine(plain[-1]))
    assert len(z_out) == 3
    for state, k in zip(z_out, (4, 8, 12), strict=True):  # and one evaluation of the phantom gradient
        torch.testing.assert_close(state, plain[k + 1])


# The solver's contract


def test_anderson_gives_torchdeqs_answer_to_its_tolerance() -> None:
    theirs, _, stat = get_solver("anderson")(affine, start(), max_iter=100, tol=1e-3)
    ours, _, mine = compat.anderson(affine, start(), max_iter=100, tol=1e-3)
    assert stat["abs_lowest"].max() < 1e-3
    assert mine["abs_lowest"].max() <= 1e-3
    amplification = 1 / (1 - 0.9)
    assert (ours - theirs).norm(dim=1).max() <= 2e-3 * amplification
    assert (ours - ANSWER).norm(dim=1).max() <= 1e-3 * amplification


def test_lam_is_absolute_as_in_torchdeq() -> None:
    """Its first mixing follows two plain evaluations, ours follows one, which is the same point: iterates agree."""
    options = {"max_iter": 10, "tol": 0.0, "lam": 1e-4, "return_final": True}
    theirs, _, stat = get_solver("anderson")(affine, start(), **options)
    ours, _, mine = compat.anderson(affine, start(), **options)
    assert mine["abs_trace"].shape == (3, 11)
    assert stat["abs_trace"].shape == (3, 9)  # without its two start-up evaluations
    # One history entry gives a plain step, so evaluations 1 and 2 agree too; from then on the same formula.
    torch.testing.assert_close(mine["abs_trace"][:, 3:], stat["abs_trace"][:, 1:], rtol=1e-2, atol=1e-5)
    torch.testing.assert_close(mine["rel_trace"][:, 3:], stat["rel_trace"][:, 1:], rtol=1e-2, atol=1e-5)
    torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("mode", ["abs", "rel"])
def test_statistics_of_the_fixed_point_are_torchdeqs(mode: str) -> None:
    theirs = get_solver("fixed_point_iter")(affine, start(), max_iter=15, tol=0.0, stop_mode=mode)
    ours = compat.fixed_point(affine, start(), max_iter=15, tol=0.0, stop_mode=mode)
    torch.testing.assert_close(ours[0], theirs[0])
    assert set(ours[2]) == set(theirs[2])
    for key, value in theirs[2].items():
        torch.testing.assert_close(ours[2][key], value, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("mode", ["abs", "rel"])
def test_traces_are_the_residuals_in_both_measures(mode: str) -> None:
    points = []

    def f(z: torch.Tensor) -> torch.Tensor:
        points.append(z.clone())
        return affine(z)

    _, _, stat = compat.anderson(f, start(), max_iter=8, tol=0.0, stop_mode=mode)
    for k, x in enumerate(points, 1):
        norm = (affine(x) - x).norm(dim=1)
        torch.testing.assert_close(stat["abs_trace"][:, k], norm, rtol=1e-3, atol=1e-6)
        torch.testing.assert_close(stat["rel_trace"][:, k], norm / affine(x).norm(dim=1), rtol=1e-3, atol=1e-6)
    assert (stat["abs_trace"][:, 0] == 1e8).all()
    torch.testing.assert_close(stat["abs_lowest"], stat["abs_trace"].amin(1))
    torch.testing.assert_close(stat["rel_lowest"], stat["rel_trace"].amin(1))
    torch.testing.assert_close(stat["nstep"], stat[f"{mode}_trace"].argmin(1).float())


@BOTH
def test_a_sample_that_stopped_is_padded_with_its_lowest_residual(solve) -> None:
    slopes = torch.tensor([[0.1], [0.9]])
    _, _, stat = solve(lambda z: slopes * z.cos(), torch.zeros(2, 5), max_iter=30, tol=1e-3)
    early, late = stat["nstep"].int().tolist()
    assert early < late
    assert (stat["abs_trace"][0, early:] == stat["abs_lowest"][0]).all()
    assert stat["abs_trace"].shape == stat["rel_trace"].shape == (2, 31)


@BOTH
def test_states_of_indexing_are_the_best_so_far(solve) -> None:
    calls = itertools.count(1)

    def grows_once(z: torch.Tensor) -> torch.Tensor:  # the residual of evaluation 3 is worse than that of 2
        return affine(z) + (5.0 if next(calls) == 3 else 0.0)

    value, states, stat = solve(grows_once, start(), max_iter=30, tol=0.0, indexing=[30, 2, 3])
    assert len(states) == 3
    torch.testing.assert_close(states[0], states[1])
    torch.testing.assert_close(states[2], value)
    assert (stat["nstep"] > 3).all()


@BOTH
def test_a_state_beyond_the_end_of_the_solve_is_the_final_one(solve) -> None:
    value, states, _ = solve(lambda z: 0.1 * z + 1, torch.zeros(2, 4), max_iter=40, tol=1e-4, indexing=[2, 20, 40])
    assert len(states) == 3
    assert not torch.equal(states[0], value)
    assert torch.equal(states[1], value)
    assert torch.equal(states[2], value)


@BOTH
def test_return_final_returns_the_last_f_after_the_whole_budget(solve) -> None:
    seen: list[torch.Tensor] = []

    def f(z: torch.Tensor) -> torch.Tensor:
        seen.append(affine(z) + 0.1 * len(seen))
        return seen[-1]

    value, states, stat = solve(f, start(), max_iter=5, tol=1e9, return_final=True, indexing=[2, 5])
    assert len(seen) == 5
    torch.testing.assert_close(value, seen[-1])
    torch.testing.assert_close(states[0], seen[1])
    torch.testing.assert_close(states[1], seen[-1])
    assert stat["nstep"].tolist() == [5.0] * 3
    torch.testing.assert_close(stat["abs_lowest"], stat["abs_trace"][:, -1])


def test_max_iter_counts_every_call() -> None:
    calls = 0

    def f(z: torch.Tensor) -> torch.Tensor:
        nonlocal calls
        calls += 1
        return affine(z)

    for budget in (1, 2, 3, 9):
        calls = 0
        compat.anderson(f, start(), max_iter=budget, tol=0.0)
        assert calls == budget


@BOTH
@pytest.mark.parametrize("shape", [(), (4,), (3, 1), (2, 3, 5)])
def test_states_of_any_shape(solve, shape: tuple[int, ...]) -> None:
    value, _, stat = solve(torch.cos, torch.zeros(shape), max_iter=60, tol=1e-5)
    torch.testing.assert_close(value, torch.full(shape, 0.739085), atol=1e-4, rtol=0)
    assert stat["abs_lowest"].shape == (shape[0] if shape else 1,)


@BOTH
def test_no_evaluations_return_the_start(solve) -> None:
    value, states, stat = solve(affine, start() + 2, max_iter=0, indexing=[0])
    theirs = get_solver("fixed_point_iter")(affine, start() + 2, max_iter=0, indexing=[0])
    assert torch.equal(value, start() + 2)
    assert len(states) == len(theirs[1]) == 1
    for key in theirs[2]:
        torch.testing.assert_close(stat[key], theirs[2][key])


def test_a_result_has_no_graph_and_does_not_depend_on_the_grad_mode() -> None:
    weight = torch.tensor(0.5, requires_grad=True)
    value, states, _ = compat.anderson(lambda z: weight * z + 1, start(), indexing=[1, 50])
    assert not value.requires_grad
    assert not any(s.requires_grad for s in states)


def test_an_answer_does_not_depend_on_who_shares_the_batch() -> None:
    slopes = torch.tensor([[0.1], [0.5], [0.99]])
    together, _, _ = compat.anderson(lambda z: slopes * z.cos() + SHIFT, start(), tol=1e-3)
    for i in range(3):
        alone, _, _ = compat.anderson(lambda z, i=i: slopes[i] * z.cos() + SHIFT[i], start()[:1], tol=1e-3)
        torch.testing.assert_close(together[i : i + 1], alone, atol=1e-6, rtol=0)


# Its known faults


@BOTH
@pytest.mark.parametrize("budget", [1, 2])
def test_max_iter_1_or_2_does_not_return_x0(solve, budget: int) -> None:
    value, _, stat = solve(affine, start(), max_iter=budget, tol=0.0)
    plain = affine(start())
    torch.testing.assert_close(value, plain if budget == 1 else affine(plain))
    assert stat["nstep"].tolist() == [float(budget)] * 3
    theirs, _, _ = get_solver("anderson")(affine, start(), max_iter=budget if budget > 1 else 2, tol=0.0)
    assert torch.equal(theirs, start())  # what is beaten


@BOTH
def test_nan_does_not_poison_the_kept_best(solve) -> None:
    calls = []

    def breaks(z: torch.Tensor) -> torch.Tensor:
        calls.append(z)
        out = affine(z)
        if len(calls) >= 4:
            out[1] = float("nan")
        return out

    value, states, stat = solve(breaks, start(), max_iter=10, tol=0.0, indexing=[3, 6, 10])
    assert value.isfinite().all()
    assert all(s.isfinite().all() for s in states)
    assert stat["nstep"][1] == 3
    assert stat["abs_lowest"].isfinite().all()
    torch.testing.assert_close(states[0][1], states[2][1])
    alone, _, _ = solve(lambda z: SLOPE * z + SHIFT[:1], start()[:1], max_iter=10, tol=0.0)
    torch.testing.assert_close(value[:1], alone, atol=1e-6, rtol=0)


@BOTH
def test_a_sample_that_is_never_finite_keeps_its_start(solve) -> None:
    value, states, stat = solve(lambda z: z + float("nan"), start() + 3, max_iter=5, indexing=[1, 5])
    assert torch.equal(value, start() + 3)
    assert torch.equal(states[0], start() + 3)
    assert stat["nstep"].tolist() == [0.0] * 3
    assert stat["abs_lowest"].tolist() == [1e8] * 3


@pytest.mark.parametrize(
    ("solve", "option", "words"),
    [
        (compat.anderson, "lambda_", "ldeq_anderson has no option 'lambda_' (did you mean lam?)"),
        (compat.anderson, "return_last", "did you mean return_final?"),
        (compat.anderson, "zzz", "it takes func, x0, max_iter"),
        (compat.fixed_point, "m", "ldeq_fixed_point has no option 'm'"),
    ],
)
def test_unknown_keys_are_not_ignored(solve, option: str, words: str) -> None:
    with pytest.raises(TypeError, match=re.escape(words)):
        solve(affine, start(), **{option: 1})


def test_the_gram_matrix_is_not_bf16_under_autocast() -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value, _, stat = compat.anderson(affine, start(), max_iter=60, tol=1e-5)
        _, _, theirs = get_solver("anderson")(affine, start(), max_iter=60, tol=1e-5)
    plain, _, reference = compat.anderson(affine, start(), max_iter=60, tol=1e-5)
    assert torch.equal(stat["nstep"], reference["nstep"])
    assert torch.equal(value, plain)
    assert (theirs["abs_lowest"] > 1e-5).any()  # what is beaten


@BOTH
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_states_of_every_precision(solve, dtype: torch.dtype) -> None:
    value, states, stat = solve(affine, start(dtype), max_iter=80, tol=1e-3, stop_mode="rel", indexing=[2, 80])
    assert value.dtype == states[0].dtype == dtype
    # f is evaluated in the dtype of the state; (I - J)^-1 amplifies its rounding and the residual by 10.
    error = (value.float() - ANSWER).norm(dim=1) / ANSWER.norm(dim=1)
    assert error.max() < 10 * (torch.finfo(dtype).eps + 1e-3)
    assert stat["abs_trace"].dtype == (torch.float64 if dtype == torch.float64 else torch.float32)


# Bad input


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"m": 0}, "m must lie in 1..16, got 0"),
        ({"lam": -1.0}, "lam must be None or a finite number >= 0, got -1.0"),
        ({"tau": 1.5}, r"tau must lie in \(0, 1\], got 1.5"),
        ({"stop_mode": "relative"}, "unknown stop_mode 'relative'; choose one of abs, rel"),
        ({"indexing": [0]}, "indexing counts evaluations from 1, got 0"),
        ({"max_iter": -1}, "max_iter must be >= 1, got -1"),
    ],
)
def test_arguments_out_of_range(options: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        compat.anderson(affine, start(), **options)  # type: ignore[arg-type]


def test_register_checks_its_options_at_once() -> None:
    with pytest.raises(ValueError, match="m must lie in"):
        compat.register(m=40)


def test_a_list_of_tensors_is_explained() -> None:
    with pytest.raises(TypeError, match="leave no_stat=False"):
        compat.anderson(lambda states: states, [start(), start()])  # type: ignore[arg-type]


def test_func_that_changes_the_shape() -> None:
    with pytest.raises(ValueError, match="func must keep the shape"):
        compat.anderson(lambda z: z[:, :3], start())


@BOTH
def test_a_func_that_fills_one_buffer_is_refused_and_not_solved_wrongly(solve) -> None:
    """The history refers to what func returned, where torchdeq copies it: every entry would be the newest one."""
    buffer = torch.empty(3, 24)
    with pytest.raises(ValueError, match=r"it filled the one that it returned before; end it with \.clone"):
        solve(lambda z: torch.add(SLOPE * z, SHIFT, out=buffer), start())
    value, _, _ = solve(lambda z: torch.add(SLOPE * z, SHIFT, out=buffer).clone(), start(), tol=1e-4, max_iter=300)
    torch.testing.assert_close(value, ANSWER, atol=1e-3, rtol=0)
    constant, _, _ = solve(lambda z: SHIFT, start())
    assert torch.equal(constant, SHIFT)


def test_without_torchdeq_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchdeq.solver", None)
    with pytest.raises(ImportError, match=r"pip install 'ldeq\[torchdeq\]'"):
        compat.register()


def test_the_example_of_the_document() -> None:
    page = (Path(__file__).parents[2] / "docs" / "coming-from-torchdeq.md").read_text()
    document = page.split("# ldeq's solvers in torchdeq")[1]
    space: dict[str, object] = {}
    blocks = re.findall(r"```python\n(.*?)```", document, flags=re.DOTALL)
    assert len(blocks) == 2
    for block in blocks:
        exec(block, space)
    z_out, info, layer = space["z_out"], space["info"], space["layer"]
    assert z_out[-1].shape == (4, 8)  # type: ignore[index]
    assert info["abs_lowest"].max() <= 1e-3  # type: ignore[index]
    assert layer.weight.grad.abs().sum() > 0  # type: ignore[attr-defined]
