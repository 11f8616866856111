"""What a user of the layer meets: what it keeps, what it draws once, what it computes once, and what it says."""

from __future__ import annotations

import warnings
from functools import partial
from typing import Any

import pytest
import torch
from saved_memory import Meter
from tanh_cell import N, TanhCell, injection, start
from torch import Tensor, nn
from torch.nn.utils import parametrizations
from torch.utils.checkpoint import checkpoint

from ldeq import DEQ, LDEQ
from ldeq.implicit import VariationalDropout
from ldeq.implicit.watch import WINDOW
from ldeq.solvers import Anderson, FixedPoint, anderson


class Counting(TanhCell):
    calls = 0

    def forward(self, z: Tensor, x: Tensor) -> Tensor:
        self.calls += 1
        return super().forward(z, x)


# --- what is kept ----------------------------------------------------------------------------------------------------------


def test_a_frozen_model_keeps_no_graph() -> None:
    """Its output required a gradient, and the whole evaluation stayed in memory for it."""
    model = LDEQ.tiny(landmarks=5, image_size=16, depth=1).requires_grad_(False)
    out = model(torch.zeros(1, 3, 16, 16))
    assert not out.z.requires_grad
    assert not out.landmarks.requires_grad
    meter = Meter()
    with torch.autograd.graph.saved_tensors_hooks(meter.pack, meter.unpack):
        model(torch.zeros(1, 3, 16, 16))
    assert meter.peak == 0
    assert model(torch.zeros(1, 3, 16, 16, requires_grad=True)).landmarks.requires_grad


def test_a_function_over_a_frozen_module_keeps_no_graph_and_one_that_trains_does() -> None:
    cell = TanhCell().requires_grad_(False)
    deq = DEQ(lambda z, x: cell(z, x), Anderson(), params=())
    assert not deq(start(), injection())[0].requires_grad
    cell.requires_grad_()
    assert deq(start(), injection())[0].requires_grad


def test_checkpointing_around_the_layer_evaluates_it_once_more_and_not_once_a_product() -> None:
    """Backward makes a call of autograd for each product, and checkpointing evaluated the layer anew for each: 168 times."""
    cell = Counting()
    deq = DEQ(cell, Anderson(tol=0.0, max_iter=10))
    x = injection().requires_grad_()
    checkpoint(lambda x: deq(start(), x)[0], x, use_reentrant=False).square().sum().backward()
    # The solve and the tracked evaluation twice, and one evaluation for the products.
    assert cell.calls == 2 * 11 + 1


# --- functions as cells ----------------------------------------------------------------------------------------------------


def test_a_function_that_closes_over_parameters_is_told_once() -> None:
    """An optimizer over deq.parameters() had nothing to train, and nobody said so."""
    cell = TanhCell()
    deq = DEQ(lambda z, x: cell(z, x), Anderson())
    with pytest.warns(UserWarning, match=r"uses 3 tensors .*DEQ\(params=\.\.\.\)"):
        deq(start(), injection())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        deq(start(), injection())
        DEQ(lambda z, x: cell(z, x), Anderson(), params=())(start(), injection())
        DEQ(lambda z, x: torch.tanh(0.5 * z + x), Anderson())(start(), torch.zeros(4, N, dtype=torch.float64).requires_grad_())
        # What x was computed from is not the cell's.
        scale = nn.Parameter(torch.ones(N, dtype=torch.float64))
        DEQ(lambda z, x: torch.tanh(0.5 * z + x), Anderson())(start(), scale * torch.ones(4, N, dtype=torch.float64))


def test_named_parameters_are_parts_of_the_layer() -> None:
    cell, bias = TanhCell(), nn.Parameter(torch.zeros(N, dtype=torch.float64))
    deq = DEQ(lambda z, x: cell(z, x) + bias, Anderson(), params={"cell": cell, "bias": bias})
    assert {id(p) for p in deq.parameters()} == {id(p) for p in (*cell.parameters(), bias)}
    assert len(list(DEQ(lambda z, x: cell(z, x), params=cell.parameters()).parameters())) == 3
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        deq(start(), injection())[0].sum().backward()
    assert bias.grad is not None
    deq.float()
    assert bias.dtype == cell.w.dtype == torch.float32
    with pytest.raises(TypeError, match=r"got a Tensor; make a tensor a torch\.nn\.Parameter"):
        DEQ(lambda z, x: z, params=[torch.zeros(3)])


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"solver": partial(anderson, m=-4)}, "m must lie in"),
        ({"backward_solver": partial(anderson, tol=-1.0)}, "tol must be"),
        ({"solver": Anderson}, r"not its class; write Anderson\(...\)"),
        ({"solver": partial(Anderson, m=4)}, r"not its class; write Anderson\(...\)"),
        ({"backward_solver": Anderson}, "backward_solver must be a solver and not its class"),
        ({"solver": "anderson"}, "or a function of f and z0, got 'anderson'"),
        ({"solver": None}, "got None"),
        ({"tau": 0.0}, r"tau must lie in \(0, 1\]"),
        ({"tau": 0.5}, "tau = 0.5 has no effect"),
        ({"n_states": 0}, "n_states must be >= 1"),
        ({"n_states": 60}, "at most max_iter = 50"),
        ({"n_states": 2, "gradient": "unrolled"}, "trajectory=True"),
        ({"n_states": 2, "solver": Anderson(compact=0.5)}, "needs compact = 0"),
        ({"n_states": 2, "cuda_graphs": True}, "needs cuda_graphs = False"),
        ({"n_states": 2, "solver": lambda f, z0: None}, "needs a solver of ldeq.solvers"),
    ],
)
def test_a_misuse_is_told_at_construction(options: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        DEQ(TanhCell(), **options)


def test_a_cell_that_cannot_be_called_is_told_at_construction() -> None:
    with pytest.raises(ValueError, match="cell must be a module or a function of z and x, got NoneType"):
        DEQ(None)  # type: ignore[arg-type]


# --- once a solve ----------------------------------------------------------------------------------------------------------


class Dropping(TanhCell):
    def __init__(self, dropout: nn.Module) -> None:
        super().__init__(norm=0.5)
        self.dropout = dropout

    def forward(self, z: Tensor, x: Tensor) -> Tensor:
        return self.dropout(super().forward(z, x))


def test_one_dropout_mask_a_solve_has_a_fixed_point() -> None:
    torch.manual_seed(0)
    deq = DEQ(Dropping(VariationalDropout(0.3)), Anderson(tol=1e-10))
    z, sol = deq(start(), injection())
    assert sol.converged.all()
    zeros = z == 0
    assert 0 < zeros.sum() < zeros.numel()
    assert not torch.equal(zeros, deq(start(), injection())[0] == 0)
    first = deq(start(), injection())[0]
    first.sum().backward()
    _, plain = DEQ(Dropping(nn.Dropout(0.3)), Anderson(tol=1e-10))(start(), injection())
    assert not plain.converged.any()
    deq.eval()
    assert not (deq(start(), injection())[0] == 0).any()


def test_a_mask_can_drop_whole_channels_and_refuses_another_shape() -> None:
    dropout = VariationalDropout(0.5, shared=(-2, -1))
    torch.manual_seed(0)
    out = dropout(torch.ones(4, 8, 3, 3))
    assert set(out.flatten(2).mean(2).unique().tolist()) == {0.0, 2.0}
    assert torch.equal(dropout(torch.ones(4, 8, 3, 3)), out)
    with pytest.raises(ValueError, match=r"compact=0, and call new_mask\(\)"):
        dropout(torch.ones(2, 8, 3, 3))
    dropout.new_mask()
    dropout(torch.ones(2, 8, 3, 3))
    with pytest.raises(ValueError, match=r"p must lie in \[0, 1\)"):
        VariationalDropout(1.0)


@pytest.mark.parametrize("norm", [parametrizations.weight_norm, parametrizations.spectral_norm])
def test_a_normed_weight_is_computed_once_a_solve_and_trained(norm: Any) -> None:
    """In the solve alone it would be computed without a graph, and the tracked evaluation would get no gradient for it."""

    class Linear(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.map = norm(nn.Linear(N, N, dtype=torch.float64))

        def forward(self, z: Tensor, x: Tensor) -> Tensor:
            return torch.tanh(0.5 * self.map(z) + x)

    cell = Linear()
    calls = []
    cell.map.parametrizations.weight[0].register_forward_hook(lambda *_: calls.append(1))
    calls.clear()
    x = torch.randn(4, N, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    deq = DEQ(cell, Anderson(tol=1e-10))
    deq(start(), x)[0].square().sum().backward()
    assert len(calls) == 1
    grads = [p.grad for p in cell.parameters()]
    assert all(g is not None and g.norm() > 0 for g in grads)
    cell.eval()
    cell.zero_grad()
    deq(start(), x)[0].square().sum().backward()
    implicit = [p.grad.clone() for p in cell.parameters() if p.grad is not None]
    cell.zero_grad()
    z = start()
    for _ in range(100):
        z = cell(z, x)
    z.square().sum().backward()
    for got, want in zip(implicit, [p.grad for p in cell.parameters()], strict=True):
        torch.testing.assert_close(got, want, rtol=1e-6, atol=1e-9)


# --- phantom steps and states on the way -------------------------------------------------------------------------------------


def test_damped_phantom_steps_are_those_of_the_formula() -> None:
    cell, x = TanhCell(), injection()
    z, sol = DEQ(cell, FixedPoint(max_iter=3, tol=0.0), gradient="jfb", phantom_steps=2, tau=0.6)(start(), x)
    expected = sol.value
    for _ in range(2):
        expected = 0.4 * expected + 0.6 * cell(expected, x)
    torch.testing.assert_close(z, expected, rtol=1e-14, atol=0)
    got, want = (torch.autograd.grad(t.square().sum(), cell.w)[0] for t in (z, expected))
    torch.testing.assert_close(got, want, rtol=1e-12, atol=0)


@pytest.mark.parametrize("gradient", ["implicit", "jfb"])
def test_states_on_the_way_have_gradients_of_their_own(gradient: str) -> None:
    cell, x = TanhCell(), injection()
    z, sol = DEQ(cell, FixedPoint(max_iter=9, tol=0.0), gradient=gradient, n_states=3)(start(), x)
    plain = [start()]
    for _ in range(9):
        plain.append(cell(plain[-1], x).detach())
    assert sol.states is not None
    assert len(sol.states) == 2
    for state, k in zip(sol.states, (3, 6), strict=True):
        expected = cell(plain[k], x)
        torch.testing.assert_close(state, expected, rtol=1e-12, atol=1e-14)
        got, want = (torch.autograd.grad(t.square().sum(), cell.w, retain_graph=True)[0] for t in (state, expected))
        torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-14)
    (sum(s.square().sum() for s in sol.states) + z.square().sum()).backward()
    with torch.no_grad():
        assert DEQ(cell, FixedPoint(), n_states=3)(start(), x)[1].states is None


def test_a_state_beyond_the_end_of_the_solve_is_the_solution() -> None:
    cell = TanhCell(norm=0.2)
    _, sol = DEQ(cell, Anderson(max_iter=40, tol=1e-3), n_states=2)(start(), injection())
    assert sol.states is not None
    torch.testing.assert_close(sol.states[0], cell(sol.value, injection()))


# --- a training without a fixed point -------------------------------------------------------------------------------------


class Expanding(TanhCell):
    def forward(self, z: Tensor, x: Tensor) -> Tensor:
        return z.roll(1, 1) * 1.01 + x.sum()


@pytest.mark.parametrize(
    ("cell", "says"),
    [
        (lambda: Dropping(nn.Dropout(0.3)), r"cell\.dropout draws a new mask .*VariationalDropout"),
        (Expanding, r"the cell may not contract: try Anderson"),
    ],
    ids=["dropout", "expanding"],
)
def test_a_training_that_never_converges_is_told_once(cell: Any, says: str) -> None:
    deq = DEQ(cell(), FixedPoint(max_iter=20))
    x = injection().requires_grad_()

    def train(steps: int) -> None:
        for _ in range(steps):
            deq(start(), x)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        train(WINDOW - 1)
    with pytest.warns(RuntimeWarning, match=r"100% of the samples of the last .* mean residual of .*" + says):
        train(1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        train(2 * WINDOW)


@pytest.mark.parametrize(
    "solver",
    [FixedPoint(tol=1e-3, max_iter=50), FixedPoint(max_iter=3), FixedPoint(max_iter=20, tol=0.0)],
    ids=["converges", "a small budget", "no tolerance"],
)
def test_a_training_that_does_as_it_should_is_left_alone(solver: FixedPoint) -> None:
    deq = DEQ(TanhCell(norm=0.5), solver)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(2 * WINDOW):
            deq(start(), injection())


def test_inference_is_not_watched() -> None:
    deq = DEQ(Expanding(), FixedPoint(max_iter=20))
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("error")
        for _ in range(2 * WINDOW):
            deq(start(), injection())
