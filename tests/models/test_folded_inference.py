"""Inference runs a folded copy of the weights: it gives the modules' answers, and never those of weights that are gone."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from ldeq import Landmarker
from ldeq.engine.settings import SettingsError
from ldeq.models import LDEQ, LDEQConfig
from ldeq.models.inference import engine as engines
from ldeq.models.inference.onnxruntime_engine import onnxruntime_missing
from ldeq.models.inference.packed import packing_missing
from ldeq.video.tracking import Tracker, TrackingSettings

pytestmark = pytest.mark.skipif(packing_missing() is not None, reason=str(packing_missing()))

ENGINES = [
    "torch",
    pytest.param(
        "onnxruntime", marks=pytest.mark.skipif(onnxruntime_missing() is not None, reason="onnxruntime is not installed")
    ),
]


def make(engine: str = "torch", **overrides: Any) -> LDEQ:
    """A model whose norms have seen something: as initialised, folding them would be the identity."""
    torch.manual_seed(0)
    model = LDEQ(LDEQConfig.tiny(**{"landmarks": 7, "image_size": 32, "width": 16, "depth": 1, "groups": 4, **overrides}))
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d | nn.GroupNorm):
            nn.init.normal_(module.weight, 1.0, 0.7)
            nn.init.normal_(module.bias, 0.0, 0.5)
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, 0.0, 0.5)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
    model.engine = engine
    return model.eval()


def pictures(batch: int = 2, size: int = 32) -> Tensor:
    return torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(1))


def by_modules(model: LDEQ, images: Tensor) -> Tensor:
    """z of a solve whose evaluations call the modules: autograd records."""
    with torch.enable_grad():
        return model(images).z.detach()


def is_folded(model: LDEQ, images: Tensor) -> bool:
    with torch.no_grad():
        return engines.fold_injection(model, images) is not None


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("solver", ["fixed_point", "anderson", "broyden"])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_the_folded_copy_gives_the_modules_answer(engine: str, solver: str, layout: torch.memory_format) -> None:
    model, images = make(engine, solver=solver, tol=0.0), pictures(3).contiguous(memory_format=layout)
    with torch.no_grad():
        assert is_folded(model, images)
        out = model(images)
    wanted = by_modules(model, images)
    torch.testing.assert_close(out.z, wanted, rtol=1e-4, atol=1e-4)
    assert out.z.is_contiguous()


@pytest.mark.parametrize("side", [0, 8])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_small_and_large_maps_read_the_state_in_any_layout(
    side: int, layout: torch.memory_format, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Small maps go through matrix products, larger ones through convolutions; these are of 8 x 8."""
    monkeypatch.setattr("ldeq.models.inference.packed.SIDE", side)
    model, images = make(), pictures(3)
    nn.init.normal_(model.cell.head.bias)
    z0 = torch.rand(3, 7, 8, 8).contiguous(memory_format=layout)
    with torch.no_grad():
        out = model(images, z0, 0)
        assert (engines._engine(model)._run._first is not None) == (side == 8)  # type: ignore[union-attr]
    with torch.enable_grad():
        wanted = model(images, z0, 0).z.detach()
    torch.testing.assert_close(out.z, wanted, rtol=1e-4, atol=1e-4)
    assert out.z.is_contiguous()


@pytest.mark.parametrize("engine", ENGINES)
def test_samples_that_stop_early_are_let_go_as_in_the_modules(engine: str) -> None:
    model, images = make(engine, max_iter=12, tol=1e-2, compact=0.9), pictures(5)
    with torch.no_grad():
        out = model(images)
        alone = model(images[2:3])
    torch.testing.assert_close(out.z[2:3], alone.z, rtol=1e-3, atol=1e-3)
    assert out.solution.iterations.tolist() == model(images).solution.iterations.tolist()


def step(model: LDEQ) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    model(pictures()).landmarks.square().sum().backward()
    optimizer.step()


def load(model: LDEQ) -> None:
    other = make()
    with torch.no_grad():
        for p in other.parameters():
            p.add_(0.1)
    model.load_state_dict(other.state_dict())


def average_by_data(model: LDEQ) -> None:
    for p in model.parameters():
        p.data.mul_(0.9).add_(0.01)


def replace_data(model: LDEQ) -> None:
    model.cell.head.weight.data = model.cell.head.weight.data * 2


def replace_module(model: LDEQ) -> None:
    model.stem.layers[3][0] = nn.Conv2d(8, 16, 3, padding=1)  # type: ignore[index,operator]


def statistics(model: LDEQ) -> None:
    model.stem.train()
    with torch.no_grad():
        model.stem(pictures(8) * 3 + 1)
    model.stem.eval()


def slope(model: LDEQ) -> None:
    model.cell.mix[1].negative_slope = 0.5  # type: ignore[union-attr,assignment]


def padding(model: LDEQ) -> None:
    model.stem.layers[1][0].padding_mode = "circular"  # type: ignore[index,union-attr]
    model.stem.layers[1][0]._reversed_padding_repeated_twice = [1, 1, 1, 1]  # type: ignore[index,union-attr]


def temperature(model: LDEQ) -> None:
    model.cell.beta = 0.2


CHANGES = [step, load, average_by_data, replace_data, replace_module, statistics, slope, padding, temperature]


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("change", CHANGES)
def test_weights_that_changed_are_not_answered_from_the_old_copy(engine: str, change: Callable[[LDEQ], None]) -> None:
    model, images = make(engine), pictures()
    with torch.no_grad():
        before = model(images).z
    change(model)
    with torch.no_grad():
        after = model(images).z
    torch.testing.assert_close(after, by_modules(model, images), rtol=1e-4, atol=1e-4)
    assert (after - before).abs().max() > 1e-2, "the change has no effect: the test would pass without noticing it"


def test_unchanged_weights_are_folded_once() -> None:
    model = make()
    with torch.no_grad():
        model(pictures())
        first = engines._copies[model.cell]
        model(pictures(4))
        assert engines._copies[model.cell] is first


@pytest.mark.parametrize("where", ["cell", "cell.head", "stem.layers.0.0", "cell.hourglass.skip"])
def test_hooks_see_what_they_are_registered_on(where: str) -> None:
    model, seen = make(), []
    with torch.no_grad():
        model(pictures())
        handle = model.get_submodule(where if where.startswith("stem") else f"deq.{where}").register_forward_hook(
            lambda module, arguments, output: seen.append(output)
        )
        model(pictures())
        assert seen
        handle.remove()
    assert is_folded(model, pictures())


def test_an_observer_of_operations_sees_those_of_the_modules() -> None:
    model = make()
    counts = []
    for _ in range(2):
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            model(pictures())
        counts.append(counter.get_total_flops())
    assert counts[0] == counts[1] > 1e6


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_precisions_are_left_to_the_modules(dtype: torch.dtype) -> None:
    model = make().to(dtype)
    with torch.no_grad():
        assert engines.fold_injection(model, pictures().to(dtype)) is None
        assert torch.isfinite(model(pictures().to(dtype)).landmarks).all()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert engines.fold_injection(make(), pictures()) is None


def test_training_mode_uses_the_statistics_of_the_batch() -> None:
    model, images = make(), pictures(4)
    with torch.no_grad():
        model(images)
        model.train()
        assert engines.fold_injection(model, images) is None


def test_a_copy_folded_in_inference_mode_serves_outside_of_it() -> None:
    model, images = make(), pictures()
    with torch.inference_mode():
        inside = model(images).z
    with torch.no_grad():
        torch.testing.assert_close(model(images).z, inside.clone())
    with torch.inference_mode():
        other = make()  # its weights have no version counter: the modules run
        torch.testing.assert_close(other(images).z, inside, rtol=1e-4, atol=1e-4)


def test_a_used_model_can_be_copied_and_saved(tmp_path) -> None:  # type: ignore[no-untyped-def]
    model, images = make(), pictures()
    with torch.no_grad():
        wanted = model(images).z
        again = copy.deepcopy(model)
        torch.save(model, tmp_path / "m.pt")
        loaded = torch.load(tmp_path / "m.pt", weights_only=False)
        assert torch.equal(again(images).z, wanted)
        assert torch.equal(loaded(images).z, wanted)


@pytest.mark.skipif(onnxruntime_missing() is not None, reason="onnxruntime is not installed")
def test_both_engines_draw_the_same_landmarks_and_auto_takes_onnxruntime(drawn: np.ndarray) -> None:
    found = {}
    for engine in ("torch", "onnxruntime", "auto"):
        landmarker = Landmarker.load("small-68", "cpu", engine=engine)
        (face,) = landmarker(drawn, [[60, 60, 190, 200]])
        found[engine] = face.points
        if engine == "auto":
            assert landmarker.model.engine == "onnxruntime"
    # The crop is 168 pixels wide.
    np.testing.assert_allclose(found["torch"], found["onnxruntime"], rtol=0, atol=1e-4 * 168)
    assert np.array_equal(found["auto"], found["onnxruntime"])


def test_an_engine_that_cannot_run_is_refused_in_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SettingsError, match="unknown engine 'tensorrt'; choose auto, torch or onnxruntime"):
        Landmarker.load("small-68", "cpu", engine="tensorrt")
    monkeypatch.setattr("ldeq.landmarker.onnxruntime_missing", lambda: "onnx cannot be imported; run: pip install X")
    monkeypatch.setattr("ldeq.models.inference.engine.onnxruntime_missing", lambda: "onnx cannot be imported")
    with pytest.raises(SettingsError, match=r"engine 'onnxruntime' cannot run: .* run: pip install X"):
        Landmarker.load("small-68", "cpu", engine="onnxruntime")
    assert Landmarker.load("small-68", "cpu").model.engine == "torch"


def test_changes_that_move_no_weight_are_seen_as_well() -> None:
    """The question whether a copy still holds looks at few things: each of these must be among them."""
    model, images = make(), pictures()

    def held() -> bool:
        with torch.no_grad():
            model(images)
            return engines._copies[model.cell].snapshot.holds()  # type: ignore[union-attr]

    conv: Any = model.cell.hourglass.skip[0]  # type: ignore[union-attr,index]
    assert held()
    snapshot = engines._copies[model.cell].snapshot
    conv.forward = lambda v: v
    assert not snapshot.holds()
    del conv.forward
    assert snapshot.holds()
    handle = conv.register_forward_pre_hook(lambda module, arguments: None)
    assert not snapshot.holds()
    handle.remove()
    assert snapshot.holds()
    conv.bias.data[len(conv.bias) // 2] += 0  # no change of value
    assert snapshot.holds()
    nn.utils.parametrize.register_parametrization(conv, "weight", nn.Identity())
    assert not snapshot.holds()
    nn.utils.parametrize.remove_parametrizations(conv, "weight")
    assert held()
    snapshot = engines._copies[model.cell].snapshot
    conv.stride = (2, 2)
    assert not snapshot.holds()
    conv.stride = (1, 1)
    assert snapshot.holds()
    first, second = model.stem.layers[0], model.stem.layers[1]  # type: ignore[index]
    model.stem.layers[0], model.stem.layers[1] = second, first  # type: ignore[index]
    assert not snapshot.holds()
    model.stem.layers[0], model.stem.layers[1] = first, second  # type: ignore[index]
    assert snapshot.holds()


def test_a_folded_solve_asks_no_module_for_its_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    model, images = make(), pictures()
    with torch.no_grad():
        model(images)
        wanted = model(images).z
        monkeypatch.setattr(model.deq, "modules", lambda: pytest.fail("walked through all modules for one picture"))
        assert torch.equal(model(images).z, wanted)


@pytest.mark.skipif(onnxruntime_missing() is not None, reason="onnxruntime is not installed")
def test_a_model_that_onnxruntime_cannot_run_says_so_and_answers_rightly() -> None:
    model, images = make("onnxruntime"), pictures()
    nn.utils.parametrizations.weight_norm(model.cell.head)
    sentence = "engine 'onnxruntime' is not used, since cell.head is a .* that the model did not come with; the model's own"
    with torch.no_grad(), pytest.warns(RuntimeWarning, match=sentence):
        found = model(images).z
    torch.testing.assert_close(found, by_modules(model, images), rtol=1e-4, atol=1e-4)


@pytest.mark.skipif(onnxruntime_missing() is not None, reason="onnxruntime is not installed")
def test_tracked_landmarks_are_the_same_by_both_engines(drawn: np.ndarray) -> None:
    """RwR with views and moved crops: the state of one frame goes through the engine into the next."""
    tracks = []
    for engine in ("torch", "onnxruntime"):
        landmarker = Landmarker.load("small-68", "cpu", engine=engine)
        tracker = Tracker(landmarker.model, settings=TrackingSettings(iters=2, views=4, register=True, check_every=3))
        states, points = [tracker.start([60, 60, 190, 200])], []
        for shift in range(5):
            (estimate,) = tracker.step([np.roll(drawn, 2 * shift, axis=1)], states)
            points.append((estimate.points, estimate.std, estimate.residual, estimate.evaluations, estimate.score))
        tracks.append(points)
    for a, b in zip(*tracks, strict=True):
        np.testing.assert_allclose(a[0], b[0], rtol=0, atol=1e-4 * 168)
        np.testing.assert_allclose(a[1], b[1], rtol=0, atol=1e-4 * 168)
        assert a[3] == b[3]
        assert (a[2], a[4]) == pytest.approx((b[2], b[4]), abs=1e-3)


@pytest.fixture
def drawn() -> np.ndarray:
    from ldeq.data import open_faces

    return open_faces("synthetic:1#seed=5,size=256").read(0)
