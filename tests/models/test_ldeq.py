from __future__ import annotations

import copy
import dataclasses
import io
import itertools
from functools import cache
from typing import Any

import pytest
import torch
from plain_cell import block, plain_cell
from seeded_models import images, seeded
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from ldeq import LDEQ, LDEQConfig
from ldeq.ops import softargmax
from ldeq.solvers import SOLVERS


@cache
def paper() -> LDEQ:
    return seeded("paper", max_iter=1)


def parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


# --- the published model ------------------------------------------------------------------------------------------------


def test_the_paper_model_has_its_21_8_million_parameters() -> None:
    model = paper()
    assert (parameters(model.stem), parameters(model.deq), parameters(model)) == (403_128, 21_422_018, 21_825_146)


def test_one_cell_evaluation_of_the_paper_takes_17_gmac_and_ours_less() -> None:
    model = paper()
    cell = model.cell
    z0 = model.initial_state(1)
    with torch.no_grad():
        with FlopCounterMode(display=False) as stem:
            x = model.stem(images(1, 256))
        with FlopCounterMode(display=False) as published:
            plain_cell(dict(cell.named_parameters()), z0, x, model.config.depth, model.config.beta)
        with FlopCounterMode(display=False) as once:
            injection = cell.prepare(x)
        with FlopCounterMode(display=False) as each:
            z = cell(z0, injection)
    assert x.shape == (1, 264, 64, 64)
    assert z.shape == (1, 98, 64, 64)
    # Two floating-point operations a MAC; the figures are given to two decimals.
    assert stem.get_total_flops() / 2e9 == pytest.approx(2.73, abs=0.005)
    assert published.get_total_flops() / 2e9 == pytest.approx(16.98, abs=0.005)
    # 264 x 264 x 64 x 64 once a solve; of four fuse convolutions three quarters of one half.
    assert once.get_total_flops() / 2e9 == pytest.approx(264**2 * 64**2 / 1e9, abs=1e-6)
    low_halves = sum((264 + 24 * level) ** 2 * (64 // 2**level) ** 2 for level in range(4)) / 1e9
    saved = (published.get_total_flops() - each.get_total_flops()) / 2e9
    assert saved == pytest.approx(264**2 * 64**2 / 1e9 + 0.75 * low_halves, abs=1e-6)


def test_the_paper_model_runs_at_its_own_size() -> None:
    with torch.inference_mode():
        out = paper()(images(1, 256))
    assert (out.landmarks.shape, out.std.shape, out.z.shape) == ((1, 98, 2), (1, 98), (1, 98, 64, 64))
    assert (out.z.amax((-2, -1)) == 1).all()


def test_layers_come_in_the_published_order() -> None:
    """Convolution with bias, LeakyReLU(0.01), norm; GroupNorm of 8 in the cell, BatchNorm in the stem; a bare head."""
    model = seeded("small")
    blocks = [m for m in model.modules() if isinstance(m, nn.Sequential) and isinstance(m[0], nn.Conv2d)]
    assert len(blocks) == 3 + 1 + 3 * 5 + 1
    for layers in blocks:
        convolution, activation, norm = layers
        assert isinstance(convolution, nn.Conv2d)
        assert convolution.bias is not None
        assert isinstance(activation, nn.LeakyReLU)
        assert activation.negative_slope == 0.01
        assert isinstance(norm, nn.BatchNorm2d | nn.GroupNorm)
        if isinstance(norm, nn.GroupNorm):
            assert norm.num_groups == 8
    in_stem = [m for m in model.stem.modules() if isinstance(m, nn.GroupNorm | nn.BatchNorm2d)]
    assert len(in_stem) == 3
    assert all(isinstance(m, nn.BatchNorm2d) for m in in_stem)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in model.deq.modules())


@pytest.mark.parametrize("preset", ["tiny", "small"])
def test_the_model_is_the_published_drawing(preset: str) -> None:
    """Stem and cell once more, from the table in the paper's facts and the weights alone."""
    model = seeded(preset, beta=0.3).double()
    weights = model.state_dict()
    c = model.config
    v = block(weights, "stem.layers.0", images(2, c.image_size).double(), "batch", stride=2)
    v = F.max_pool2d(block(weights, "stem.layers.1", v, "batch"), 2)
    x = block(weights, "stem.layers.3", v, "batch")
    z = torch.rand(2, 98, c.heatmap_size, c.heatmap_size, dtype=torch.float64)
    of_cell = {name.removeprefix("deq.cell."): value for name, value in weights.items() if name.startswith("deq.cell.")}
    expected = plain_cell(of_cell, z, x, c.depth, 0.3)
    with torch.no_grad():
        torch.testing.assert_close(model.stem(images(2, c.image_size).double()), x, rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(model.deq.cell(z, x), expected, rtol=1e-9, atol=1e-9)


def test_weights_start_xavier_normal_and_biases_zero() -> None:
    model = LDEQ.tiny()
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            fan_in, fan_out = (module.weight[:, 0].numel(), module.weight[0].numel())
            expected = (2 / (fan_in + fan_out)) ** 0.5
            # Of n normal numbers the deviation is known to 1 / sqrt(2 n); five of those.
            slack = 5 / (2 * module.weight.numel()) ** 0.5
            assert module.weight.std().item() == pytest.approx(expected, rel=slack)
            assert module.bias is not None
            assert (module.bias == 0).all()


# --- shapes and values --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("preset", "size", "landmarks"),
    [
        *itertools.product(["tiny"], [64, 96, 16], [98, 68, 5, 1]),
        *itertools.product(["small"], [128, 64], [98, 68, 5]),
        ("paper", 64, 68),
        ("paper", 128, 5),
        ("paper_video", 64, 98),
    ],
)
def test_shapes_follow_landmarks_and_image_size(preset: str, size: int, landmarks: int) -> None:
    model = seeded(preset, landmarks=landmarks, image_size=size, max_iter=2)
    with torch.inference_mode():
        out = model(images(2, size))
    maps = size // 4
    assert out.landmarks.shape == (2, landmarks, 2)
    assert out.std.shape == (2, landmarks)
    assert out.z.shape == (2, landmarks, maps, maps)
    assert out.solution.value.shape == out.z.shape
    assert out.landmarks.dtype == out.std.dtype == out.z.dtype == torch.float32
    assert (out.landmarks >= 0).all()
    assert (out.landmarks < 1).all()


@pytest.mark.parametrize("solver", SOLVERS)
def test_heatmaps_peak_at_one_and_landmarks_are_their_soft_argmax(solver: str) -> None:
    model = seeded(solver=solver)
    # Where autograd records, the modules themselves run; the folded copy of inference rounds differently.
    out = model(images(3, 64))
    out = out._replace(landmarks=out.landmarks.detach(), std=out.std.detach(), z=out.z.detach())
    logits = model.cell.logits(out.solution.value, model.stem(images(3, 64))).detach()
    assert (out.z.amax((-2, -1)) == 1).all()
    assert (out.z >= 0).all()
    expected = softargmax(logits, model.config.beta, coords="unit", eps=model.config.eps)
    torch.testing.assert_close(out.z, expected.heatmap, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(out.landmarks, expected.xy, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(out.std, expected.std, rtol=1e-5, atol=1e-6)
    # A distribution on [0, 1) deviates by 1/2 at most.
    assert (out.std > 0).all()
    assert (out.std < 0.5).all()


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_a_sample_alone_is_the_same_sample_in_a_batch(dtype: torch.dtype, solver: str) -> None:
    model, batch = seeded(solver=solver, max_iter=6).to(dtype), images(8, 64).to(dtype)
    batch[2] = torch.nan
    batch[5] *= 10
    with torch.inference_mode():
        together = model(batch)
        alone = [model(batch[i : i + 1]) for i in range(8)]
    # Convolutions of one and of eight images sum in another order, and exp steepens that where heatmaps fall: 2e-5 seen in
    # z and 6e-7 in the landmarks in float32, rounding in float64.
    in_z, in_landmarks = (5e-5, 1e-5) if dtype == torch.float32 else (1e-10, 1e-10)
    for i in (0, 1, 3, 4, 5, 6, 7):
        torch.testing.assert_close(alone[i].landmarks[0], together.landmarks[i], rtol=0, atol=in_landmarks)
        torch.testing.assert_close(alone[i].std[0], together.std[i], rtol=0, atol=in_landmarks)
        torch.testing.assert_close(alone[i].z[0], together.z[i], rtol=0, atol=in_z)
        assert alone[i].solution.iterations[0] == together.solution.iterations[i]
    # The state survives a broken image; the landmarks of that image say so.
    assert together.landmarks[2].isnan().all()
    assert together.solution.value.isfinite().all()


def test_the_start_of_a_video_frame_is_used() -> None:
    model = seeded(max_iter=1)
    with torch.inference_mode():
        cold = model(images(2, 64))
        warm = model(images(2, 64), cold.z)
        longer = seeded(max_iter=3)(images(2, 64))
    assert (warm.solution.residual < cold.solution.residual).all()
    # Two evaluations from zeros and two more are four from zeros.
    torch.testing.assert_close(warm.z, longer.z, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("solver", SOLVERS)
def test_the_budget_of_one_call_is_kept_to_the_evaluation(solver: str) -> None:
    model = seeded(solver=solver, max_iter=6, tol=0.0)
    assert isinstance(model.deq.cell, nn.Module)
    count = 0

    def counted(module: nn.Module, arguments: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal count
        count += 1

    model.deq.cell.register_forward_hook(counted)
    x, z0 = images(2, 64), torch.rand(2, 98, 16, 16, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        for budget in (0, 1, 3, None):
            count = 0
            out = model(x, z0, budget)
            assert count == (6 if budget is None else budget) + 1
            assert (out.solution.iterations == count - 1).all()
        out = model(x, z0, 0)
        torch.testing.assert_close(out.z, model.deq.cell(z0, model.stem(x)), rtol=0, atol=0)
    with pytest.raises(ValueError, match="max_iter must be >= 0, got -1"):
        model(x, z0, -1)
    with pytest.raises(ValueError, match="max_iter must be >= 1, got 0"):
        seeded(final_evaluation=False)(x, z0, 0)


def test_a_start_of_another_precision_is_taken() -> None:
    model = seeded(max_iter=1)
    with torch.inference_mode():
        z0 = model(images(2, 64)).z.half()
        for start in (z0, z0.double(), z0.float()):
            out = model(images(2, 64), start)
            assert out.z.dtype == torch.float32
            assert torch.equal(out.z, model(images(2, 64), z0.float()).z)


@pytest.mark.parametrize("shape", [(1, 98, 16, 16), (2, 68, 16, 16), (2, 98, 64, 64), (98, 16, 16)], ids=str)
def test_a_start_of_another_shape_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"z0 must have shape \(2, 98, 16, 16\), got") as caught:
        seeded()(images(2, 64), torch.zeros(shape))
    assert str(shape) in str(caught.value)


@pytest.mark.parametrize("shape", [(3, 64, 64), (1, 1, 64, 64), (1, 3, 64, 60), (1, 3, 128, 128)], ids=str)
def test_images_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"images must have shape \(B, 3, 64, 64\), got"):
        seeded()(torch.zeros(shape))


def test_no_faces_give_no_landmarks() -> None:
    with torch.inference_mode():
        out = seeded()(images(0, 64))
    assert out.landmarks.shape == (0, 98, 2)
    assert out.solution.iterations.shape == (0,)


def test_strides_of_images_and_weights_do_not_matter() -> None:
    model = seeded()
    last = copy.deepcopy(model).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    with torch.inference_mode():
        one = model(images(2, 64))
        other = last(images(2, 64).to(memory_format=torch.channels_last))
    # Other convolution kernels, other order of sums.
    torch.testing.assert_close(one.z, other.z, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("how", "dtype"),
    [
        ("cast", torch.bfloat16),
        ("cast", torch.float16),
        ("cast", torch.float64),
        ("autocast", torch.bfloat16),
        ("autocast", torch.float16),
    ],
    ids=str,
)
def test_other_precisions_stay_near_float32(dtype: torch.dtype, how: str) -> None:
    model = seeded()
    with torch.inference_mode():
        exact = model(images(2, 64))
        if how == "cast":
            out = copy.deepcopy(model).to(dtype)(images(2, 64).to(dtype))
        else:
            with torch.autocast("cpu", dtype=dtype):
                out = model(images(2, 64))
    state = torch.float64 if dtype == torch.float64 else torch.float32
    assert out.z.dtype == out.landmarks.dtype == out.std.dtype == state
    # In units of the crop, with heatmaps that fill it (std 0.28): twice what was seen with 8, 11 and 24 bits.
    atol = {torch.bfloat16: 0.02, torch.float16: 0.002, torch.float64: 2e-6}[dtype]
    torch.testing.assert_close(out.landmarks.float(), exact.landmarks, rtol=0, atol=atol)


# --- budgets and stops --------------------------------------------------------------------------------------------------


def landmarks_by_evaluation(model: LDEQ, batch: Tensor, evaluations: int) -> Tensor:
    """`(evaluations + 1, B, K, 2)` in pixels of the image, the start's first."""
    injection, z = model.cell.prepare(model.stem(batch)), model.initial_state(len(batch))
    rows = torch.arange(model.config.heatmap_size, dtype=z.dtype)
    points = []
    for _ in range(evaluations + 1):
        p = z / (z.sum((-2, -1), keepdim=True) + model.config.eps)
        points.append(4 * torch.stack(((p.sum(-2) * rows).sum(-1), (p.sum(-1) * rows).sum(-1)), -1))
        z = model.cell(z, injection)
    return torch.stack(points)


@pytest.mark.parametrize("solver", ["fixed_point", "anderson"])
def test_a_face_stops_when_its_landmarks_rest_to_a_tolerance_in_pixels(solver: str) -> None:
    batch = images(4, 64)
    batch[1] *= 30
    batch[2] = 0
    model = seeded(solver="fixed_point", max_iter=12, tol=0.0, final_evaluation=False).double()
    batch = batch.double()
    with torch.no_grad():
        points = landmarks_by_evaluation(model, batch, 12)
        motion = (points[1:] - points[:-1]).norm(dim=-1).mean(-1)
        # A tolerance between the motions, so that it parts the faces.
        tol = motion[2:4].flatten().sort().values[3:5].mean().item()
        first = (motion <= tol).int().argmax(0) + 1
        assert len(first.unique()) > 1
        out = model.with_solver(solver=solver, stop="landmarks", tol=tol)(batch)
    assert out.solution.converged.all()
    assert out.solution.motion is not None
    assert (out.solution.motion <= tol).all()
    if solver == "fixed_point":
        assert torch.equal(out.solution.iterations, first)
        expected = points[first, torch.arange(4)] / 64
        torch.testing.assert_close(out.landmarks, expected, rtol=0, atol=1e-10)


def test_the_tolerance_of_landmarks_is_not_that_of_the_backward_solve() -> None:
    model = LDEQ.tiny(landmarks=5, stop="landmarks", tol=64.0, max_iter=20, backward_max_iter=6)
    out = model(images(2, 64))
    out.landmarks.mean().backward()
    # Nothing moves by the whole image: one evaluation forward, and yet a backward solve.
    assert (out.solution.iterations == 1).all()
    assert out.solution.adjoint is not None
    assert (out.solution.adjoint.iterations > 1).all()


def test_another_solver_shares_the_weights_and_keeps_the_rest() -> None:
    model = seeded(landmarks=5, groups=4, beta=0.7)
    other = model.with_solver(solver="anderson", max_iter=7, tol=0.5, stop="landmarks", final_evaluation=False)
    expected = {"solver": "anderson", "max_iter": 7, "tol": 0.5, "stop": "landmarks", "final_evaluation": False}
    assert other.config == dataclasses.replace(model.config, **expected)  # type: ignore[arg-type]
    assert not other.training
    for (name, mine), (other_name, theirs) in zip(model.named_parameters(), other.named_parameters(), strict=True):
        assert name == other_name
        assert mine is theirs
    with torch.inference_mode():
        expected_landmarks = LDEQ.forward(model.with_solver(), images(2, 64)).landmarks
        assert torch.equal(model(images(2, 64)).landmarks, expected_landmarks)
    with pytest.raises(ValueError, match="stop 'pixels'.*landmarks"):
        model.with_solver(stop="pixels")


@pytest.mark.parametrize(
    ("options", "forward", "back", "without_graph"),
    [
        ({"gradient": "implicit"}, 5, 3, 5),
        ({"gradient": "implicit", "final_evaluation": False}, 5, 3, 4),
        ({"gradient": "jfb", "phantom_steps": 2}, 6, 2, 6),
        ({"gradient": "jfb", "phantom_steps": 2, "final_evaluation": False}, 6, 2, 4),
        ({"gradient": "unrolled"}, 5, 5, 5),
        ({"gradient": "unrolled", "final_evaluation": False}, 4, 4, 4),
    ],
    ids=str,
)
def test_evaluations_are_counted_as_they_are_made(options: dict[str, Any], forward: int, back: int, without_graph: int) -> None:
    model = LDEQ.tiny(landmarks=5, max_iter=4, backward_max_iter=3, tol=0.0, **options)
    made, passes = [], []

    def count(module: nn.Module, inputs: Any, output: Tensor) -> None:
        made.append(1)
        if output.requires_grad:
            output.register_hook(lambda grad: passes.append(1))

    model.cell.register_forward_hook(count)
    out = model(images(2, 64))
    out.landmarks.square().sum().backward()
    counted = model.evaluations(out.solution, recording=True)
    assert [c.tolist() for c in counted] == [[forward] * 2, [back] * 2]
    assert len(made) == forward
    # The hook of an implicit layer's evaluation sees every product of the backward solve.
    assert len(passes) == back
    made.clear()
    with torch.no_grad():
        out = model(images(2, 64))
    counted = model.evaluations(out.solution)
    assert [c.tolist() for c in counted] == [[without_graph] * 2, [0] * 2]
    assert len(made) == without_graph


# --- training -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("gradient", ["implicit", "jfb", "unrolled"])
def test_a_few_steps_on_one_batch_lower_the_loss(gradient: str) -> None:
    torch.manual_seed(0)
    model = LDEQ.tiny(landmarks=5, gradient=gradient)
    batch = images(4, 64)
    target = 0.2 + 0.6 * torch.rand(4, 5, 2, generator=torch.Generator().manual_seed(1))
    optimizer = torch.optim.AdamW(model.parameters(), 2e-3)
    losses = []
    for _ in range(15):
        optimizer.zero_grad()
        loss = (model(batch).landmarks - target).abs().mean()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0, error_if_nonfinite=True)
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]


@pytest.mark.parametrize("preset", ["tiny", "small"])
def test_every_parameter_gets_a_gradient(preset: str) -> None:
    model: LDEQ = getattr(LDEQ, preset)(landmarks=5)
    size = model.config.image_size
    out = model(images(2, size))
    (out.landmarks.square().sum() + out.std.sum()).backward()
    for name, p in model.named_parameters():
        assert p.grad is not None, name
        assert p.grad.isfinite().all(), name
        # h - max h does not change with a constant: the bias of the head is the one parameter without effect.
        assert (p.grad.abs().max() > 0) or name.endswith("head.bias"), name


def test_an_absolute_stop_does_not_stop_the_backward_solve() -> None:
    """Gradients of a mean are far below any absolute tolerance: the solve would end at once, as plain JFB."""
    model = LDEQ.tiny(landmarks=5, stop="absolute", tol=1e-2, max_iter=20, backward_max_iter=6)
    out = model(images(2, 64))
    (1e-6 * out.landmarks.mean()).backward()
    assert out.solution.adjoint is not None
    assert (out.solution.adjoint.iterations > 1).all()


def test_weights_survive_a_round_trip() -> None:
    model, buffer = seeded(landmarks=5), io.BytesIO()
    torch.save(model.state_dict(), buffer)
    buffer.seek(0)
    torch.manual_seed(1)
    other = LDEQ(LDEQConfig.tiny(landmarks=5)).eval()
    assert other.load_state_dict(torch.load(buffer, weights_only=True)) == nn.modules.module._IncompatibleKeys([], [])
    with torch.inference_mode():
        assert torch.equal(other(images(2, 64)).landmarks, model(images(2, 64)).landmarks)


def test_a_copy_is_independent() -> None:
    model = seeded(landmarks=5)
    other = copy.deepcopy(model)
    with torch.no_grad():
        for p in other.parameters():
            p.zero_()
    with torch.inference_mode():
        a, b = model(images(1, 64)), other(images(1, 64))
    assert not torch.equal(a.landmarks, b.landmarks)


def test_weights_of_another_number_of_landmarks_do_not_load() -> None:
    with pytest.raises(RuntimeError, match=r"head\.weight"):
        LDEQ.tiny(landmarks=68).load_state_dict(LDEQ.tiny(landmarks=5).state_dict())
