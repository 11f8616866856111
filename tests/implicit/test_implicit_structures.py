"""States of several tensors: solved as one, with the gradients of unrolling, and refused where they cannot be one."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest
import torch
from tanh_cell import relative_error
from torch import Tensor, nn
from torch.nn import functional as F

from ldeq import DEQ
from ldeq.implicit import jacobian_loss, spectral_radius
from ldeq.solvers import Anderson, Broyden, FixedPoint, Solution

State = dict[str, Tensor]


class TwoResolutions(nn.Module):
    """As in a multiscale DEQ: each resolution takes the other one in, at its own size, and norms follow."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.high, self.low = nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(5, 5, 3, padding=1)
        self.down, self.up = nn.Conv2d(3, 5, 3, stride=2, padding=1), nn.Conv2d(5, 3, 1)
        self.norms = nn.ModuleDict({"high": nn.GroupNorm(1, 3), "low": nn.GroupNorm(1, 5)})
        self.double()
        for conv in (self.high, self.low, self.down, self.up):
            nn.init.normal_(conv.weight, std=0.05)

    def forward(self, z: State, x: State) -> State:
        high = self.high(z["high"]) + F.interpolate(self.up(z["low"]), scale_factor=2.0) + x["high"]
        low = self.low(z["low"]) + self.down(z["high"]) + x["low"]
        return {"high": self.norms["high"](torch.tanh(high)), "low": self.norms["low"](torch.tanh(low))}


def state(seed: int | None = None) -> State:
    generator = torch.Generator().manual_seed(seed or 0)
    shapes = {"high": (2, 3, 8, 8), "low": (2, 5, 4, 4)}
    make = torch.zeros if seed is None else partial(torch.randn, generator=generator)
    return {name: make(shape, dtype=torch.float64) for name, shape in shapes.items()}


def loss(z: State) -> Tensor:
    return z["high"].square().sum() + (z["low"] * torch.arange(4.0, dtype=torch.float64)).sum()


def gradients(solve: Callable[[nn.Module, State], State]) -> list[Tensor]:
    cell, x = TwoResolutions(), {name: t.requires_grad_() for name, t in state(1).items()}
    return list(torch.autograd.grad(loss(solve(cell, x)), [*cell.parameters(), *x.values()]))


def unrolled(cell: nn.Module, x: State) -> State:
    z = state()
    for _ in range(120):
        z = cell(z, x)
    return z


@pytest.mark.parametrize("solver", [Anderson, FixedPoint, Broyden])
@pytest.mark.parametrize("gradient", ["implicit", "unrolled"])
def test_two_resolutions_get_the_gradients_of_unrolling(solver: Any, gradient: str) -> None:
    solves = solver(tol=1e-10, max_iter=60)
    found = gradients(lambda cell, x: DEQ(cell, solves, gradient=gradient)(state(), x)[0])
    for got, want in zip(found, gradients(unrolled), strict=True):
        assert relative_error(got, want) < 1e-5


def test_a_solution_has_the_structure_of_the_state() -> None:
    cell, x = TwoResolutions(), state(1)
    deq = DEQ(cell, Anderson(tol=1e-8, trajectory=True, trace=True))
    z, sol = deq(state(), x)
    assert isinstance(sol.value, dict)
    assert isinstance(sol.trajectory, dict)
    assert sol.trajectory["low"].shape[1:] == (2, 5, 4, 4)  # type: ignore[unreachable]
    assert sol.residual.shape == (2,)
    torch.testing.assert_close(sol.value["high"], z["high"], rtol=0, atol=1e-6)
    loss(z).backward()
    assert sol.adjoint is not None
    assert sol.adjoint.converged.all()


def test_a_sample_of_several_tensors_stops_on_its_own() -> None:
    cell, x = TwoResolutions(), state(1)
    solver = Anderson(tol=1e-6, compact=0.75)
    together, _ = DEQ(cell, solver)(state(), x)
    alone, _ = DEQ(cell, solver)({k: t[:1] for k, t in state().items()}, {k: t[:1] for k, t in x.items()})
    torch.testing.assert_close(together["low"][:1], alone["low"], rtol=0, atol=1e-10)


def test_motion_is_observed_on_the_structure() -> None:
    def low(z: Any) -> Tensor:
        return z["low"].flatten(1)

    solver = FixedPoint(stop="motion", tol=1e-3, observe=low)
    _, sol = DEQ(TwoResolutions(), solver, backward_solver=FixedPoint())(state(), state(1))
    assert sol.converged.all()
    assert sol.motion is not None
    assert (sol.motion <= 1e-3).all()


@dataclass
class Pair:
    a: Tensor
    b: Tensor


torch.export.register_dataclass(Pair)


@pytest.mark.parametrize("kind", ["tuple", "list", "dataclass", "nested", "one tensor in a tuple"])
def test_any_structure_is_a_state(kind: str) -> None:
    a, b = torch.zeros(3, 4), torch.zeros(3)
    z0: Any = {
        "tuple": (a, b),
        "list": [a, b],
        "dataclass": Pair(a, b),
        "nested": {"in": (a, [b])},
        "one tensor in a tuple": (a,),
    }[kind]
    z, _ = DEQ(lambda z, x: torch.utils._pytree.tree_map(lambda t: 0.5 * torch.cos(t) + x, z), Anderson(tol=1e-6))(z0, 0.1)
    assert type(z) is type(z0)
    leaves = torch.utils._pytree.tree_leaves(z)
    assert [t.shape for t in leaves] == [t.shape for t in torch.utils._pytree.tree_leaves(z0)]
    for t in leaves:
        torch.testing.assert_close(t, 0.5 * torch.cos(t) + 0.1, rtol=0, atol=1e-5)


def same(z: Any, x: Any) -> Any:
    return z


@pytest.mark.parametrize(
    ("z0", "cell", "says"),
    [
        ((torch.zeros(2, 3), torch.zeros(2, 3, dtype=torch.float64)), same, "one dtype and one device"),
        ((torch.zeros(2, 3), torch.zeros(3, 3)), same, "one batch size, got 2 and 3"),
        ((torch.zeros(2, 3), torch.zeros(2, 3, dtype=torch.int64)), same, "must be floating point"),
        ((torch.zeros(2, 3), 1.0), same, r"got a float; .*register_dataclass"),
        ((torch.zeros(2, 3), None), same, "got a NoneType"),
        ((), same, "at least one tensor"),
        ((torch.zeros(2, 3),), lambda z, x: [*z], "must return the structure of its state"),
        ((torch.zeros(2, 3),), lambda z, x: (z[0][:, :2],), "must keep the shapes of its state"),
    ],
)
def test_what_cannot_be_one_state_is_refused_in_a_sentence(z0: Any, cell: Any, says: str) -> None:
    with pytest.raises((ValueError, TypeError), match=says):
        DEQ(cell, FixedPoint())(z0, None)


def test_a_single_tensor_is_handed_to_the_cell_without_a_copy() -> None:
    seen = []
    z0 = torch.zeros(2, 3, 4)

    def cell(z: Tensor, x: None) -> Tensor:
        seen.append(z.data_ptr())
        return torch.cos(z)

    with torch.no_grad():
        DEQ(cell, FixedPoint(max_iter=2))(z0, None)
    assert seen[0] == z0.data_ptr()


def test_layers_and_results_can_be_copied_pickled_and_saved() -> None:
    deq = DEQ(TwoResolutions(), Anderson(tol=1e-8), tau=0.9, gradient="jfb")
    x = state(1)
    z, sol = deq(state(), x)
    loss(z).backward()
    buffer = io.BytesIO()
    torch.save(deq, buffer)
    buffer.seek(0)
    for twin in (copy.deepcopy(deq), pickle.loads(pickle.dumps(deq)), torch.load(buffer, weights_only=False)):
        assert torch.equal(twin(state(), x)[0]["low"], z["low"])
        assert twin.solver == deq.solver
    assert isinstance(copy.deepcopy(sol), Solution) or sol.value is not None
    leaves, spec = torch.utils._pytree.tree_flatten(sol)
    again = torch.utils._pytree.tree_unflatten(leaves, spec)
    assert isinstance(again, Solution)
    assert torch.equal(again.residual, sol.residual)


# --- the Jacobian -----------------------------------------------------------------------------------------------------------


def test_the_spectral_radius_of_a_rotation_is_found() -> None:
    """Its eigenvalues are a complex pair: a Rayleigh quotient would never settle."""
    angle = torch.tensor(1.0, dtype=torch.float64)
    rotation = 0.8 * torch.stack([torch.stack([angle.cos(), -angle.sin()]), torch.stack([angle.sin(), angle.cos()])])
    matrix = torch.block_diag(rotation, torch.tensor([[0.3]], dtype=torch.float64))
    z = torch.zeros(4, 3, dtype=torch.float64)
    found = spectral_radius(lambda z, x: z @ matrix.T + x, z, torch.ones(3, dtype=torch.float64), iterations=60)
    torch.testing.assert_close(found, torch.full((4,), 0.8, dtype=torch.float64), rtol=1e-3, atol=0)
    two = spectral_radius(lambda z, x: (0.5 * z[0], 0.2 * z[1]), (z, z), None)
    torch.testing.assert_close(two, torch.full((4,), 0.5, dtype=torch.float64), rtol=1e-3, atol=0)
    assert (spectral_radius(lambda z, x: x, z, z) == 0).all()


def test_the_jacobian_penalty_estimates_the_frobenius_norm_and_trains() -> None:
    torch.manual_seed(0)
    matrix = nn.Parameter(0.3 * torch.randn(6, 6, dtype=torch.float64))
    z = torch.zeros(5, 6, dtype=torch.float64)
    penalty = jacobian_loss(lambda z, x: z @ matrix.T, z, None, probes=4000)
    assert abs(penalty.item() / (matrix.square().sum().item() / 6) - 1) < 0.02
    (grad,) = torch.autograd.grad(penalty, matrix)
    assert relative_error(grad, 2 * matrix.detach() / 6) < 0.05
    with torch.no_grad():
        assert not jacobian_loss(lambda z, x: z @ matrix.T, z, None).requires_grad
    for call in (partial(jacobian_loss, probes=0), partial(spectral_radius, iterations=1)):
        with pytest.raises(ValueError, match="must be >="):
            call(lambda z, x: z, z, None)
