"""An f that changes what the solve still holds is told so; it used to be a wrong answer with residual 0."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from ldeq.errors import LdeqError
from ldeq.ops import use_backend
from ldeq.solvers import SOLVERS, Solution, fixed_point
from ldeq.solvers.evaluation import WHOLE

Solver = Callable[..., Solution]
Map = Callable[[Tensor], Tensor]

each_solver = pytest.mark.parametrize("solver", SOLVERS.values(), ids=list(SOLVERS))
each_backend = pytest.mark.parametrize("backend", ["auto", "torch"])
each_mode = pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad], ids=lambda m: m.__name__)

SHIFT = 0.3 * torch.arange(5.0)


def g(z: Tensor) -> Tensor:
    return 0.5 * z.cos() + SHIFT


def in_place(z: Tensor) -> Tensor:
    return z.mul_(0.3).add_(1)


def in_place_and_cloned(z: Tensor) -> Tensor:
    z.mul_(0.3).add_(1)
    return z.clone()


def in_place_on_a_view(z: Tensor) -> Tensor:
    z.view(-1).mul_(0.3)
    return z + 1


def zeroes_its_argument_in_the_end(z: Tensor) -> Tensor:
    out = g(z)
    z.zero_()
    return out


def writes_that_no_tensor_counts(z: Tensor) -> Tensor:
    return z.data.mul_(0.3).add_(1)


def writes_through_numpy(z: Tensor) -> Tensor:
    z.detach().numpy()[:] *= 0.3
    return z + 1


@each_solver
@each_backend
@pytest.mark.parametrize("f", [writes_that_no_tensor_counts, writes_through_numpy], ids=lambda f: f.__name__)
def test_an_argument_changed_behind_the_count_of_writes_is_refused(f: Map, solver: Solver, backend: str) -> None:
    with use_backend(backend), pytest.raises(ValueError, match="f changed its argument in place") as found:
        solver(f, torch.ones(2, 5))
    assert isinstance(found.value, LdeqError)  # which what catches errors of the package catches


@pytest.mark.parametrize(("rows", "changed"), [(4, (2, 777)), (64, slice(None))], ids=["one number", "a large tensor"])
def test_a_small_argument_is_compared_whole_and_of_a_large_one_some_numbers(rows: int, changed: Any) -> None:
    def f(z: Tensor) -> Tensor:
        z.data[changed] += 1
        return 0.5 * z

    z0 = torch.ones(rows, 1000)
    assert (z0.nbytes <= WHOLE) == (rows == 4)
    with pytest.raises(ValueError, match="f changed its argument in place"):
        fixed_point(f, z0)


@each_solver
@each_backend
def test_a_change_that_a_start_of_zeros_hides_is_seen_at_the_next_call(solver: Solver, backend: str) -> None:
    with use_backend(backend), pytest.raises(ValueError, match="f changed"):
        solver(writes_through_numpy, torch.zeros(2, 5))


@each_solver
@each_backend
@each_mode
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(
    "f", [in_place, in_place_and_cloned, in_place_on_a_view, zeroes_its_argument_in_the_end], ids=lambda f: f.__name__
)
def test_an_f_that_changes_its_argument_is_refused(
    f: Map, solver: Solver, backend: str, mode: type, dtype: torch.dtype
) -> None:
    """anderson(lambda z: z.mul_(.3).add_(1), zeros) said CONVERGED with residual 0 at 1.0, where the answer is 1.43."""
    if f in (in_place_on_a_view, zeroes_its_argument_in_the_end) and dtype == torch.bfloat16:
        pytest.skip("one type is enough")
    with use_backend(backend), mode():
        start = torch.ones(2, 5, dtype=dtype)
        with pytest.raises(ValueError, match=r"f changed its argument in place; let it work on a copy, z = z\.clone\(\)"):
            solver(f, start)


def one_buffer() -> Map:
    buffer = torch.empty(2, 5)
    return lambda z: buffer.copy_(g(z))


def one_buffer_detached() -> Map:
    buffer = torch.empty(2, 5)
    return lambda z: (buffer.copy_(g(z)), buffer.detach())[1]


def one_buffer_written_past_the_count() -> Map:
    """As a replayed CUDA graph writes: no tensor counts it."""
    buffer = torch.empty(2, 5)

    def f(z: Tensor) -> Tensor:
        buffer.numpy()[:] = g(z).numpy()
        return buffer.detach()

    return f


def overlapping_rows() -> Map:
    buffer = torch.empty(40, 5)
    count = 0

    def f(z: Tensor) -> Tensor:
        nonlocal count
        count += 1
        return buffer[count : count + 2].copy_(g(z))

    return f


@each_solver
@each_backend
@each_mode
@pytest.mark.parametrize("make", [one_buffer, one_buffer_detached, one_buffer_written_past_the_count, overlapping_rows])
def test_an_f_that_fills_one_buffer_is_refused(make: Callable[[], Map], solver: Solver, backend: str, mode: type) -> None:
    """Graphed callables return their outputs so: CONVERGED after 2 evaluations, the true residual 0.19."""
    with use_backend(backend), mode():
        f = make()
        with pytest.raises(ValueError, match=r"f must return a new tensor at each call|f changed its argument in place"):
            solver(f, torch.zeros(2, 5), tol=1e-6)


@pytest.mark.parametrize("backend", ["auto", "torch"])
@pytest.mark.parametrize("buffers", [2, 3, 5])
def test_buffers_filled_in_turn_are_refused_while_the_history_holds_them(backend: str, buffers: int) -> None:
    """They cost half as many evaluations again, and nobody was told."""
    turn = [torch.empty(2, 5) for _ in range(buffers)]
    count = 0

    def f(z: Tensor) -> Tensor:
        nonlocal count
        count += 1
        return turn[count % buffers].copy_(g(z))

    with use_backend(backend):
        with pytest.raises(ValueError, match="f must return a new tensor at each call"):
            SOLVERS["anderson"](f, torch.zeros(2, 5), m=5, tol=0.0, max_iter=12)
        # A history that is shorter than the turn holds none of them.
        count = 0
        SOLVERS["anderson"](f, torch.zeros(2, 5), m=buffers - 1, tol=0.0, max_iter=12)


@each_backend
def test_an_f_that_changes_an_earlier_answer_and_returns_a_new_tensor_is_refused(backend: str) -> None:
    answers: list[Tensor] = []

    def f(z: Tensor) -> Tensor:
        if len(answers) >= 2:
            answers[-2].zero_()
        answers.append(g(z))
        return answers[-1]

    with use_backend(backend), pytest.raises(ValueError, match=r"f changed a tensor that it returned before"):
        SOLVERS["anderson"](f, torch.zeros(2, 5), tol=0.0)


@each_solver
@each_backend
@each_mode
def test_what_is_no_harm_is_allowed(solver: Solver, backend: str, mode: type) -> None:
    with use_backend(backend), mode():
        constant = torch.ones(2, 5)
        whole = torch.empty(60, 2, 5)
        rows = iter(whole)
        start = torch.zeros(2, 5)
        wanted = solver(g, start, tol=1e-6).value

        def rows_of_one_buffer(z: Tensor) -> Tensor:
            return next(rows).copy_(g(z))

        assert torch.equal(solver(lambda z: z, constant, max_iter=4).value, constant)
        assert torch.equal(solver(lambda z: z.view(2, 5), constant, max_iter=4).value, constant)
        assert torch.equal(solver(lambda z: constant, start, max_iter=4, tol=0.0).value, constant)
        assert torch.equal(solver(rows_of_one_buffer, start, tol=1e-6).value, wanted)
        assert torch.equal(solver(lambda z: g(z).clone(), start, tol=1e-6).value, wanted)
