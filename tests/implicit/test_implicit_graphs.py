"""Whole solves captured and replayed, on a stand-in for CUDA graphs that runs on a CPU; tests/device runs them on real ones."""

from __future__ import annotations

import copy
import gc
import pickle
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ldeq import DEQ, LDEQ
from ldeq.implicit.recorder import Outputs
from ldeq.solvers import SOLVERS, Solution, anderson, fixed_point

N = 6


class Recording:
    """Records by keeping the function, replays by running it again into the outputs of the capture: static memory, as in a
    graph. A replay must not see other inputs than the static ones, so that any address that it uses is known to be right.
    """

    captures = 0
    replays = 0

    def __init__(self, device: torch.device) -> None:
        pass

    def warm_up(self, run: Callable[[], Outputs]) -> None:
        run()

    def capture(self, run: Callable[[], Outputs]) -> tuple[Outputs, Callable[[], None]]:
        Recording.captures += 1
        static = [None if t is None else t.detach().clone() for t in run()]
        # What a capture computes is not there before the first replay.
        for t in static:
            if t is not None:
                t.fill_(torch.nan if t.is_floating_point() else -7)
        addresses = [None if t is None else t.data_ptr() for t in static]

        def replay() -> None:
            Recording.replays += 1
            for place, result in zip(static, run(), strict=True):
                assert (place is None) == (result is None)
                if place is not None and result is not None:
                    assert place.shape == result.shape
                    place.copy_(result.detach())
            assert addresses == [None if t is None else t.data_ptr() for t in static]

        return static, replay


class Prepared(NamedTuple):
    term: Tensor
    weight: Tensor


class Cell(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        w = torch.randn(N, N, generator=generator, dtype=torch.float64)
        self.w = nn.Parameter(0.7 * w / torch.linalg.matrix_norm(w, 2))
        self.b = nn.Parameter(torch.randn(N, generator=generator, dtype=torch.float64))
        self.unused = nn.Parameter(torch.zeros(2, dtype=torch.float64))

    def forward(self, z: Tensor, x: Prepared) -> Tensor:
        return torch.tanh(z @ self.w.T + self.b + x.weight * x.term)


def injection(seed: int = 0, batch: int = 3) -> Prepared:
    generator = torch.Generator().manual_seed(seed)
    term, weight = (torch.randn(s, generator=generator, dtype=torch.float64) for s in ((batch, N), (N,)))
    return Prepared(term.requires_grad_(), weight.requires_grad_())


@pytest.fixture(autouse=True)
def no_warnings() -> Iterator[None]:
    Recording.captures = Recording.replays = 0
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        yield


def layer(cell: Any, *, graphs: bool = True, solver: Any = None, **options: Any) -> DEQ:
    solver = solver or partial(anderson, tol=1e-9, max_iter=30, check_every=0)
    deq = DEQ(cell, solver, cuda_graphs=graphs, **options)
    if deq.graphs is not None:
        deq.graphs.recorder_for = Recording
    return deq


def step(deq: DEQ, x: Prepared, z0: Tensor | None = None) -> tuple[Tensor, Solution, list[Tensor | None]]:
    z, sol = deq(torch.zeros(len(x.term), N, dtype=torch.float64) if z0 is None else z0, x)
    inputs = [*deq.cell.parameters(), *x]  # type: ignore[attr-defined]
    grads = torch.autograd.grad(z.square().sum(), inputs, allow_unused=True)
    return z.detach(), sol, list(grads)


def assert_same(one: Any, other: Any) -> None:
    torch.testing.assert_close(one[0], other[0], rtol=0, atol=0)
    for a, b in zip(one[2], other[2], strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            torch.testing.assert_close(a, b, rtol=1e-13, atol=1e-15)
    for a, b in ((one[1], other[1]), (one[1].adjoint, other[1].adjoint)):
        assert (a is None) == (b is None)
        if a is not None:
            for name in ("residual", "iterations", "status", "trace", "motion", "trajectory"):
                x, y = getattr(a, name), getattr(b, name)
                assert (x is None) == (y is None)
                assert x is None or torch.equal(x, y)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("gradient", ["implicit", "jfb"])
@pytest.mark.parametrize("keeps", [False, True], ids=["plain", "trace"])
def test_replays_equal_the_solves_that_they_replace(solver: str, gradient: str, keeps: bool) -> None:
    cell = Cell()
    chosen = partial(SOLVERS[solver], tol=1e-9, max_iter=25, check_every=0, trace=keeps, trajectory=keeps)
    eager, graphed = (layer(cell, graphs=g, solver=chosen, gradient=gradient) for g in (False, True))
    for seed in range(4):  # other inputs each time
        assert_same(step(graphed, injection(seed)), step(eager, injection(seed)))
        with torch.no_grad():  # what an optimizer does
            cell.w.mul_(0.9)
    assert graphed.graphs is not None
    assert graphed.graphs.reason is None
    # Forward and backward, once each; then replays alone.
    assert (Recording.captures, Recording.replays, len(graphed.graphs)) == (2, 8, 1)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode], ids=["no_grad", "inference_mode"])
@pytest.mark.parametrize("final", [True, False])
def test_inference_is_one_graph_and_its_results_are_kept(mode: Any, final: bool) -> None:
    cell = Cell()
    eager, graphed = (layer(cell, graphs=g, final_evaluation=final) for g in (False, True))
    z0, wanted, got = torch.zeros(3, N, dtype=torch.float64), [], []
    for seed in range(3):
        with mode():
            wanted.append(eager(z0, injection(seed)))
            got.append(graphed(z0, injection(seed)))
            z0 = got[-1][0]  # the carried state of a video
    # A result that lay in static memory would have been overwritten by the later ones.
    for (z, sol), (z_, sol_) in zip(got, wanted, strict=True):
        assert torch.equal(z, z_)
        assert torch.equal(sol.value, sol_.value)
        assert torch.equal(sol.iterations, sol_.iterations)
    assert (Recording.captures, Recording.replays) == (1, 3)
    # A state from inference mode can start a training step.
    assert_same(step(graphed, injection(), z0), step(eager, injection(), z0))


def test_gradients_are_added_up_and_not_overwritten() -> None:
    """A gradient that becomes `p.grad` without a copy is static memory, which the next replay writes."""
    results = []
    for graphs in (False, True):
        cell = Cell()
        deq = layer(cell, graphs=graphs)
        for seed in range(3):
            deq(torch.zeros(3, N, dtype=torch.float64), injection(seed))[0].square().sum().backward()
        results.append((cell.w.grad, cell.b.grad))
        assert cell.unused.grad is None
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-13, atol=0)


def test_two_forwards_before_a_backward_take_two_captures() -> None:
    results = []
    for graphs in (False, True):
        cell = Cell()
        deq = layer(cell, graphs=graphs)
        for _ in range(3):
            one, two = (deq(torch.zeros(3, N, dtype=torch.float64), injection(seed))[0] for seed in (0, 1))
            (one * two).sum().backward()
        results.append(cell.w.grad)
    torch.testing.assert_close(results[0], results[1], rtol=1e-13, atol=0)
    assert deq.graphs is not None
    assert (len(deq.graphs), Recording.captures) == (2, 4)


def test_a_forward_whose_backward_never_runs_gives_its_graph_back() -> None:
    deq = layer(Cell())
    gc.disable()
    try:
        for seed in range(5):
            z, _ = deq(torch.zeros(3, N, dtype=torch.float64), injection(seed))
            del z
    finally:
        gc.enable()
    assert deq.graphs is not None
    assert len(deq.graphs) == 1


def test_a_second_backward_of_the_same_step_works_until_the_next_forward() -> None:
    cell = Cell()
    deq = layer(cell)
    z, _ = deq(torch.zeros(3, N, dtype=torch.float64), injection())
    loss = z.square().sum()
    first, again = (torch.autograd.grad(loss, cell.w, retain_graph=True)[0] for _ in range(2))
    assert torch.equal(first, again)
    deq(torch.zeros(3, N, dtype=torch.float64), injection(1))
    with pytest.raises(RuntimeError, match=r"cuda_graphs: a second backward .*before the next forward"):
        loss.backward()


def test_other_shapes_modes_and_addresses_are_captured_anew() -> None:
    cell = Cell()
    eager, deq = layer(cell, graphs=False), layer(cell)
    assert deq.graphs is not None
    deq.graphs.size = 3
    for batch in (3, 2, 3, 1, 4, 3):
        assert_same(step(deq, injection(batch, batch)), step(eager, injection(batch, batch)))
        assert len(deq.graphs) <= 3
    # The least recently used went: of 3, 2, 1, 4 the batch of 2.
    assert Recording.captures == 2 * 4
    with torch.autocast("cpu", torch.bfloat16):
        assert_same(step(deq, injection()), step(eager, injection()))
    assert Recording.captures == 2 * 5
    cell.w = nn.Parameter(cell.w.detach() * 0.5)
    assert_same(step(deq, injection()), step(eager, injection()))
    assert Recording.captures == 2 * 6
    assert len(deq.graphs) == 1
    cell.w.requires_grad_(False)
    z, _ = deq(torch.zeros(3, N, dtype=torch.float64), injection())
    z.sum().backward()
    assert cell.b.grad is not None
    assert Recording.captures == 2 * 7


def test_settings_that_a_capture_froze_are_captured_anew() -> None:
    """A replay runs what was captured, whatever the layer was set to since."""
    cell = Cell()
    deq = layer(cell)
    step(deq, injection())

    def captured(change: Callable[[], object]) -> bool:
        before = Recording.captures
        change()
        step(deq, injection())
        return Recording.captures > before

    assert not captured(lambda: None)
    assert captured(lambda: cell.eval())
    assert not captured(lambda: cell.train())
    assert captured(lambda: setattr(deq, "solver", partial(anderson, max_iter=4, check_every=0)))
    assert captured(lambda: setattr(deq, "backward_solver", partial(anderson, max_iter=4, check_every=0)))
    assert captured(lambda: setattr(deq, "gradient", "jfb"))
    assert captured(lambda: setattr(deq, "phantom_steps", 2))
    precision = torch.backends.cuda.matmul.fp32_precision
    try:
        # Set in this way, torch.get_float32_matmul_precision() is an error.
        assert captured(lambda: setattr(torch.backends.cuda.matmul, "fp32_precision", "tf32"))
    finally:
        torch.backends.cuda.matmul.fp32_precision = precision


def test_a_parameter_in_the_memory_of_another_gets_the_gradient() -> None:
    cell = Cell()
    deq = layer(cell)
    step(deq, injection())
    old, cell.w = cell.w, nn.Parameter(cell.w.data)
    deq(torch.zeros(3, N, dtype=torch.float64), injection())[0].sum().backward()
    assert cell.w.grad is not None
    assert old.grad is None


def test_a_graph_of_the_gradient_is_refused() -> None:
    """A gradient penalty would be a constant."""
    z, _ = layer(Cell())(torch.zeros(3, N, dtype=torch.float64), injection())
    with pytest.raises(RuntimeError, match=r"create_graph=True .* cuda_graphs=False"):
        z.sum().backward(create_graph=True)


def test_checkpointing_around_the_layer_runs_without_a_graph() -> None:
    """The captured evaluation would record nothing: its tensors are to be computed again in backward."""
    results = []
    for graphs in (False, True):
        cell, x = Cell(), injection()
        deq = layer(cell, graphs=graphs)

        def solve(*x: Tensor, deq: DEQ = deq) -> Tensor:
            return deq(torch.zeros(3, N, dtype=torch.float64), Prepared(*(2 * t for t in x)))[0]

        if graphs:
            with pytest.warns(RuntimeWarning, match="hooks on saved tensors are active"):
                z = checkpoint(solve, *x, use_reentrant=False)
        else:
            z = solve(*x)
        results.append(torch.autograd.grad(z.square().sum(), (*x, cell.w)))
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-13, atol=1e-15)


def test_all_graphs_busy_is_said_and_costs_nothing_but_the_graph() -> None:
    cell = Cell()
    deq = layer(cell)
    assert deq.graphs is not None
    deq.graphs.size = 1
    held, _ = deq(torch.zeros(3, N, dtype=torch.float64), injection())
    with pytest.warns(RuntimeWarning, match="all 1 graphs hold"):
        other = step(deq, injection(1))
    held.sum().backward()
    assert_same(other, step(layer(cell, graphs=False), injection(1)))


def test_a_poisoned_gradient_is_handed_on() -> None:
    deq = layer(Cell())
    x = injection()
    z, sol = deq(torch.zeros(3, N, dtype=torch.float64), x)
    incoming = torch.ones_like(z)
    incoming[1, 2] = torch.nan
    z.backward(incoming)
    assert x.term.grad is not None
    assert x.term.grad.isfinite().all(1).tolist() == [True, False, True]
    assert sol.adjoint is not None
    assert sol.adjoint.value.numel() == 0


def test_copies_of_a_layer_capture_for_themselves() -> None:
    deq = layer(Cell())
    step(deq, injection())
    for twin in (copy.deepcopy(deq), pickle.loads(pickle.dumps(deq))):
        assert twin.graphs is not None
        assert len(twin.graphs) == 0
        twin.graphs.recorder_for = Recording
        assert_same(step(twin, injection(2)), step(deq, injection(2)))
        assert len(twin.graphs) == 1


# --- where no capture is possible ---------------------------------------------------------------------------------------


class Foreign(Cell):
    def __init__(self, outside: Tensor) -> None:
        super().__init__()
        self.outside = [outside]

    def forward(self, z: Tensor, x: Prepared) -> Tensor:
        return super().forward(z, x) * self.outside[0]


def hooked() -> Cell:
    cell = Cell()
    cell.register_forward_hook(lambda *_: None)
    return cell


def with_gradient_hook() -> Cell:
    cell = Cell()
    cell.w.register_hook(lambda grad: grad)
    return cell


class Dropping(Cell):
    def __init__(self) -> None:
        super().__init__()
        self.drop = nn.Dropout(0.0)


def failing_recorder(device: torch.device) -> Any:
    class Failing(Recording):
        def capture(self, run: Callable[[], Outputs]) -> Any:
            raise RuntimeError("operation not permitted when stream is capturing")

    return Failing(device)


@pytest.mark.parametrize(
    ("build", "says"),
    [
        (lambda: layer(Cell(), solver=partial(anderson, tol=1e-9)), r"looks at the host \(check_every=1\)"),
        (
            lambda: layer(Cell(), backward_solver=partial(fixed_point, tol=1e-9, check_every=4)),
            r"looks at the host \(check_every=4\)",
        ),
        (lambda: layer(Cell(), solver=lambda f, z0: anderson(f, z0, check_every=0)), "not one of ldeq.solvers"),
        (lambda: layer(hooked()), "cell has hooks"),
        (lambda: layer(with_gradient_hook()), "cell.w has a gradient hook"),
        (lambda: layer(Dropping()), "cell.drop is Dropout in training mode"),
        (lambda: layer(Foreign(torch.full((N,), 0.9, dtype=torch.float64, requires_grad=True))), "neither a parameter"),
    ],
    ids=["looks", "backward looks", "unknown solver", "hooks", "gradient hook", "dropout", "foreign tensor"],
)
def test_an_impossible_capture_is_explained_once_and_solved_without(build: Callable[[], DEQ], says: str) -> None:
    deq = build()
    with pytest.warns(RuntimeWarning, match=says):
        first = step(deq, injection())
    again = step(deq, injection())  # a second warning would be an error
    assert deq.graphs is not None
    assert deq.graphs.reason is not None
    assert Recording.replays == 0
    plain = DEQ(deq.cell, deq.solver, backward_solver=deq.backward_solver)
    assert_same(first, step(plain, injection()))
    assert_same(again, first)


def test_a_function_a_cpu_and_a_failed_capture_are_explained_too() -> None:
    z0 = torch.zeros(3, N, dtype=torch.float64)
    solver = partial(anderson, check_every=0)
    with pytest.warns(RuntimeWarning, match="must be a torch.nn.Module"):
        DEQ(lambda z, x: torch.cos(z) + x, solver, cuda_graphs=True)(z0, z0)
    with pytest.warns(RuntimeWarning, match="the state is on cpu"):
        DEQ(Cell(), solver, cuda_graphs=True)(z0, injection())
    deq = layer(Cell())
    assert deq.graphs is not None
    deq.graphs.recorder_for = failing_recorder
    with pytest.warns(RuntimeWarning, match="capture failed: operation not permitted"):
        step(deq, injection())
    with pytest.warns(RuntimeWarning, match="capture failed: RuntimeError"), pytest.raises(RuntimeError):
        layer(Wordless())(z0, injection())
    with pytest.warns(RuntimeWarning, match="x holds a set"):
        layer(SetCell())(z0, {1})


class Wordless(Cell):
    def forward(self, z: Tensor, x: Prepared) -> Tensor:
        raise RuntimeError


class SetCell(nn.Module):
    def forward(self, z: Tensor, x: Any) -> Tensor:
        return torch.cos(z)


@pytest.mark.parametrize("solver", ["anderson", "fixed_point"])
def test_a_replayed_model_equals_itself(solver: str) -> None:
    torch.manual_seed(0)
    model = LDEQ.tiny(landmarks=5, solver=solver, check_every=0, cuda_graphs=True)
    twin = LDEQ.tiny(landmarks=5, solver=solver, check_every=0)
    twin.load_state_dict(model.state_dict())
    assert model.deq.graphs is not None
    model.deq.graphs.recorder_for = Recording
    for _ in range(2):
        images = torch.randn(2, 3, 64, 64)
        results = []
        for m in (model, twin):
            landmarks = m(images).landmarks
            m.zero_grad()
            landmarks.square().mean().backward()
            results.append([landmarks.detach(), *(p.grad for p in m.parameters() if p.grad is not None)])
        torch.testing.assert_close(*results, rtol=1e-5, atol=1e-6)
    assert len(model.deq.graphs) == 1
