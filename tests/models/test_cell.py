"""The cell's cheap form against the plain one of `plain_cell`: same function, same gradients, less work."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import plain_cell as plain_cell_module
import pytest
import torch
from plain_cell import plain_cell, plain_logits
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ldeq import DEQ, LDEQ, LDEQConfig
from ldeq.data import normalise, open_faces
from ldeq.engine import load_pretrained
from ldeq.models.cell import Cell
from ldeq.solvers import fixed_point
from ldeq.solvers.compaction import Injected

PRECISIONS = [(torch.float32, 1e-5), (torch.float64, 1e-12)]


def cell_of(config: LDEQConfig, dtype: torch.dtype = torch.float32) -> Cell:
    """A cell that contracts, as a trained one does, and whose norms are not the identity."""
    torch.manual_seed(0)
    c = config
    cell = Cell(c.landmarks, c.width, c.width_increment, c.depth, c.groups, c.beta)
    with torch.no_grad():
        for module in cell.modules():
            if isinstance(module, nn.GroupNorm):
                module.weight += 0.1 * torch.randn_like(module.weight)
                module.bias += 0.1 * torch.randn_like(module.bias)
            if isinstance(module, nn.Conv2d) and module.bias is not None:
                module.bias += 0.1 * torch.randn_like(module.bias)
        cell.get_submodule("mix.0").get_parameter("weight")[:, : c.landmarks] *= 0.03
    return cell.to(dtype)


def state_and_features(config: LDEQConfig, batch: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    h = config.heatmap_size
    z = torch.rand(batch, config.landmarks, h, h, generator=generator, dtype=torch.float64)
    x = torch.randn(batch, config.width, h, h, generator=generator, dtype=torch.float64)
    return z.to(dtype), x.to(dtype)


def assert_same(actual: list[Tensor], expected: list[Tensor], tolerance: float) -> None:
    """Within `tolerance` of the largest entry of each tensor."""
    for a, e in zip(actual, expected, strict=True):
        assert a.dtype == e.dtype
        torch.testing.assert_close(a, e, rtol=0, atol=tolerance * max(1.0, e.abs().max().item()))


@pytest.mark.parametrize(("dtype", "tolerance"), PRECISIONS, ids=str)
@pytest.mark.parametrize("prepared", [False, True])
@pytest.mark.parametrize(
    ("config", "batch"),
    [
        (LDEQConfig.tiny(landmarks=5, image_size=48), 3),
        (LDEQConfig.tiny(landmarks=1, image_size=16, depth=0), 1),
        (LDEQConfig.small(landmarks=68, image_size=96), 2),
    ],
    ids=["odd maps", "one landmark, no level", "small"],
)
def test_the_cell_is_the_plain_one_in_value_and_in_every_gradient(
    config: LDEQConfig, batch: int, prepared: bool, dtype: torch.dtype, tolerance: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    cell = cell_of(config, dtype)
    z, x = (t.requires_grad_() for t in state_and_features(config, batch, dtype))
    weights = dict(cell.named_parameters())
    injection = cell.prepare(x) if prepared else x
    logits = plain_logits(weights, z, x, config.depth)
    assert_same([cell.logits(z, injection)], [logits], tolerance)
    expected = plain_cell(weights, z, x, config.depth, config.beta)
    actual = cell(z, injection)
    # |dz| <= beta |d(h - max h)|, and beta is 1 here.
    torch.testing.assert_close(actual, expected, rtol=0, atol=2 * tolerance * max(1.0, logits.abs().max().item()))
    if dtype == torch.float32:
        # A unit within rounding of LeakyReLU's kink (one of a million is) has either slope, and another gradient:
        # float64 judges the kink, float32 all else.
        for module in cell.modules():
            if isinstance(module, nn.LeakyReLU):
                module.negative_slope = 1.0
        monkeypatch.setattr(plain_cell_module, "SLOPE", 1.0)
        expected, actual = plain_cell(weights, z, x, config.depth, config.beta), cell(z, injection)
    cotangent = torch.randn(expected.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64).to(dtype)
    inputs = [z, x, *weights.values()]
    # Sums over thousands of pixels: the gradients carry ten times the rounding of the values.
    assert_same(
        list(torch.autograd.grad(actual, inputs, cotangent)),
        list(torch.autograd.grad(expected, inputs, cotangent)),
        10 * tolerance,
    )


@pytest.mark.parametrize("gradient", ["implicit", "jfb", "unrolled"])
def test_gradients_through_the_solve_are_those_of_the_plain_cell(gradient: str) -> None:
    """Of x and of the x-half of the first kernel above all: the prepared term is part of the tracked evaluation."""
    config = LDEQConfig.tiny(landmarks=5, image_size=32, gradient=gradient, max_iter=6, backward_max_iter=8, tol=0.0)
    model = LDEQ(config)
    model.cell.load_state_dict(cell_of(config).state_dict())
    model = model.double().eval()
    cell = model.cell
    weights = dict(cell.named_parameters())
    plain = DEQ(
        lambda z, x: plain_cell(weights, z, x, config.depth, config.beta),
        model.deq.solver,
        gradient=gradient,
        backward_solver=model.deq.backward_solver,
    )
    z0, x = state_and_features(config, 2, torch.float64)
    inputs = [x.requires_grad_(), *weights.values()]
    cotangent = torch.randn(z0.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    expected, _ = plain(z0, x)
    actual, _ = model.deq(z0, cell.prepare(x))
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-12)
    assert_same(
        list(torch.autograd.grad(actual, inputs, cotangent)), list(torch.autograd.grad(expected, inputs, cotangent)), 1e-10
    )


def test_the_shipped_weights_give_the_landmarks_of_the_plain_cell() -> None:
    model = load_pretrained("small-68").model
    c, cell = model.config, model.cell
    faces = open_faces(f"synthetic:3#size={c.image_size}")
    images = normalise(torch.stack([torch.from_numpy(faces.read(i)).permute(2, 0, 1) for i in range(3)]))
    weights = dict(cell.named_parameters())
    plain = copy.deepcopy(model)
    plain.deq.cell = _Plain(lambda z, x: plain_cell(weights, z, x, c.depth, c.beta))
    with torch.inference_mode():
        torch.testing.assert_close(model(images).landmarks, plain(images).landmarks, rtol=0, atol=1e-5)


class _Plain(nn.Module):
    def __init__(self, f: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.f = f

    def prepare(self, x: Tensor) -> Tensor:
        return x

    def forward(self, z: Tensor, x: Tensor) -> Tensor:
        return self.f(z, x)


class Counter(TorchDispatchMode):
    """Counts how often each of `tensors` is cast, and concatenations of anything."""

    def __init__(self, tensors: list[Tensor]) -> None:
        super().__init__()
        self.tensors = {t.data_ptr() for t in tensors}
        self.casts = self.concatenations = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = function.name()
        if name == "aten::_to_copy" and args[0].data_ptr() in self.tensors:
            self.casts += 1
        if name == "aten::cat":
            self.concatenations += 1
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("recording", [False, True])
def test_autocast_casts_each_weight_once_a_solve(frozen: bool, recording: bool) -> None:
    """Autocast's own cache keeps only weights that require a gradient: a model for inference paid for every evaluation."""
    counts = []
    for max_iter in (1, 5):
        model = LDEQ.tiny(landmarks=5, image_size=32, max_iter=max_iter, tol=0.0).requires_grad_(not frozen)
        cell = model.cell
        parameters = [p for name, p in cell.named_parameters() if not name.startswith("head.")]
        with Counter(parameters) as counter, torch.set_grad_enabled(recording), torch.autocast("cpu", torch.bfloat16):
            model(torch.zeros(2, 3, 32, 32))
        assert counter.concatenations == 0
        counts.append((counter.casts, len(parameters)))
    assert counts[0] == counts[1]
    assert counts[0][0] == counts[0][1]


@pytest.mark.parametrize("amp", [torch.bfloat16, torch.float16], ids=str)
def test_autocast_evaluates_in_its_precision_and_keeps_the_states(amp: torch.dtype) -> None:
    config = LDEQConfig.tiny(landmarks=5)
    cell = cell_of(config)
    z, x = state_and_features(config, 2, torch.float32)
    exact = cell(z, x)
    with torch.autocast("cpu", amp):
        injection = cell.prepare(x)
        rounded = cell(z, injection)
    assert {t.dtype for t in tree_leaves(injection)} == {amp}
    assert rounded.dtype == torch.float32
    # Peaks of one, thirteen blocks deep in 8 or 11 bits.
    torch.testing.assert_close(rounded, exact, rtol=0, atol=0.2 if amp == torch.bfloat16 else 0.02)
    # What was prepared under autocast is evaluated alike outside of it, as the backward of a checkpoint would.
    assert torch.equal(cell(z, injection), rounded)


def test_autocast_leaves_float64_alone() -> None:
    config = LDEQConfig.tiny(landmarks=5, image_size=32)
    cell = cell_of(config, torch.float64)
    z, x = state_and_features(config, 1, torch.float64)
    with torch.autocast("cpu", torch.bfloat16):
        assert cell.prepare(x).term.dtype == torch.float64
        assert torch.equal(cell(z, x), cell(z, x))


def test_a_prepared_injection_can_be_narrowed_to_some_samples() -> None:
    """What a solve needs that goes on with some of its batch: the weights in it have no batch."""
    config = LDEQConfig.tiny(landmarks=5, image_size=32)
    cell = cell_of(config, torch.float64)
    z, x = state_and_features(config, 4, torch.float64)
    rows = torch.tensor([3, 1])
    narrowed = Injected(cell, cell.prepare(x))
    expected = narrowed(z)[rows]
    torch.testing.assert_close(narrowed.select(rows)(z[rows]), expected, rtol=0, atol=1e-12)
    solution = fixed_point(Injected(cell, cell.prepare(x)), z, max_iter=30, tol=1e-3, compact=0.9)
    whole = fixed_point(Injected(cell, cell.prepare(x)), z, max_iter=30, tol=1e-3)
    torch.testing.assert_close(solution.value, whole.value, rtol=0, atol=1e-10)


def test_the_tracked_evaluation_keeps_fewer_tensors_than_the_plain_one() -> None:
    """Training memory is that evaluation: the convolutions' outputs are overwritten, and no concatenation is kept."""
    config = LDEQConfig.small(landmarks=68, image_size=64)
    cell = cell_of(config)
    z, x = state_and_features(config, 2, torch.float32)
    z.requires_grad_()
    weights = dict(cell.named_parameters())

    injection = cell.prepare(x)
    constant = {t.untyped_storage().data_ptr() for t in tree_leaves((weights, injection))}

    def kept(evaluate: Callable[[], Tensor]) -> int:
        sizes: dict[int, int] = {}
        alive = []

        def pack(t: Tensor) -> Tensor:
            alive.append(t)  # an address may not be used again while it is counted
            sizes[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
            return t

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            evaluate()
        return sum(size for address, size in sizes.items() if address not in constant)

    plain = kept(lambda: plain_cell(weights, z, x, config.depth, config.beta))
    ours = kept(lambda: cell(z, injection))
    assert ours < 0.7 * plain


def test_forward_mode_and_vmap_go_through_a_prepared_evaluation() -> None:
    config = LDEQConfig.tiny(landmarks=5, image_size=32)
    cell = cell_of(config, torch.float64).requires_grad_(False)
    z, x = state_and_features(config, 2, torch.float64)
    injection = cell.prepare(x)
    tangent = torch.randn(z.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    _, directional = torch.func.jvp(lambda z: cell(z, injection), (z,), (tangent,))
    step = 1e-6
    difference = (cell(z + step * tangent, injection) - cell(z - step * tangent, injection)) / (2 * step)
    torch.testing.assert_close(directional, difference, rtol=0, atol=1e-6)
    many = torch.stack([z, 0.5 * z])
    torch.testing.assert_close(torch.func.vmap(lambda z: cell(z, injection))(many)[1], cell(0.5 * z, injection))


def test_the_cell_has_second_derivatives_as_jacobian_regularisation_needs_them() -> None:
    """||J^T v||^2 / N, differentiated by the weights (Bai et al., ICML 2021, section 4)."""
    config = LDEQConfig.tiny(landmarks=2)
    cell, (z, x) = cell_of(config, torch.float64), state_and_features(config, 2, torch.float64)
    direction = torch.randn(z.shape, dtype=z.dtype, generator=torch.Generator().manual_seed(2))
    found = []
    weights = dict(cell.named_parameters())
    for evaluate in (cell, lambda z, x: plain_cell(weights, z, x, config.depth, config.beta)):
        state = z.clone().requires_grad_()
        (product,) = torch.autograd.grad(evaluate(state, x), state, direction, create_graph=True)
        found.append(torch.autograd.grad(product.square().mean(), list(cell.parameters()), allow_unused=True))
    assert_same([g for g in found[0] if g is not None], [g for g in found[1] if g is not None], 1e-12)


def test_a_compiled_cell_trains_as_the_eager_one() -> None:
    """In the solve without a graph, in the tracked evaluation and in the backward solve through it."""
    config = LDEQConfig.tiny(landmarks=5, image_size=16, depth=1, max_iter=2, backward_max_iter=3)
    torch.manual_seed(0)
    eager = LDEQ(config)
    eager.cell.load_state_dict(cell_of(config).state_dict())
    compiled = copy.deepcopy(eager)
    # Without code generation: what is traced, and how it is differentiated, is what can go wrong here.
    compiled.cell.compile(backend="aot_eager")
    images = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    gradients = []
    for model in (eager, compiled):
        model(images).landmarks.square().sum().backward()
        gradients.append([p.grad for p in model.parameters() if p.grad is not None])
    assert_same(gradients[1], gradients[0], 1e-5)
    with torch.inference_mode():
        torch.testing.assert_close(compiled(images).landmarks, eager(images).landmarks, rtol=0, atol=1e-5)
