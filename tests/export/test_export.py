"""Models in other runtimes give the landmarks that they give in PyTorch."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from ldeq import Landmarker
from ldeq.cli import main
from ldeq.cli.export import drawn_crops
from ldeq.data import Layout, crop_box, crop_matrix, get_layout, warp
from ldeq.engine import Pretrained
from ldeq.export import (
    ExportError,
    expected,
    export_onnx,
    export_torch,
    folded_of,
    onnx_model,
    verify_onnx,
    verify_torch,
)
from ldeq.models import LDEQ, LDEQConfig

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")


def session_of(path: Path) -> Any:
    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])


def untrained(**overrides: Any) -> Pretrained:
    """A model whose BatchNorm has seen something: at its initial statistics, folding would be the identity."""
    torch.manual_seed(0)
    model = LDEQ(LDEQConfig.tiny(**{"image_size": 32, "width": 16, "depth": 1, "groups": 4, "landmarks": 98, **overrides}))
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d | nn.GroupNorm):
            nn.init.normal_(module.weight, 1.0, 0.7)
            nn.init.normal_(module.bias, 0.0, 0.5)
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, 0.0, 0.5)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
    layout: Layout = get_layout(98)
    return Pretrained(model.eval().requires_grad_(False), layout, "landmarks", 1.2, {"licence": "as you like"}, "untrained")


@pytest.fixture(scope="module")
def exported(pretrained: Pretrained, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_onnx(pretrained, tmp_path_factory.mktemp("onnx") / "full.onnx")


@pytest.fixture(scope="module")
def one_evaluation(pretrained: Pretrained, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_onnx(pretrained, tmp_path_factory.mktemp("onnx") / "one.onnx", evaluations=1)


def test_landmarks_of_real_faces_do_not_change_on_their_way_to_onnxruntime(
    pretrained: Pretrained, exported: Path, real_crops: NDArray[np.uint8], capsys: pytest.CaptureFixture[str]
) -> None:
    found = verify_onnx(exported, pretrained.model, real_crops, 4)
    with capsys.disabled():
        print(f"\nonnxruntime against PyTorch on {found.images} real faces: {found.landmarks:.1e} of the crop's side at most")
    assert found.images == 100
    assert found.landmarks <= 1e-4


def test_landmarks_of_drawn_faces_do_not_change_on_their_way(pretrained: Pretrained, tmp_path: Path, exported: Path) -> None:
    crops = drawn_crops(pretrained, 6)
    assert verify_onnx(exported, pretrained.model, crops, 4).landmarks <= 1e-4
    program = export_torch(pretrained, tmp_path / "m.pt2", evaluations=2)
    assert verify_torch(program, pretrained.model, crops, 2).landmarks <= 1e-4
    extra = {"ldeq.json": ""}
    torch.export.load(program, extra_files=extra)
    assert json.loads(extra["ldeq.json"])["layout"] == "ibug-68"


def test_memory_from_frame_to_frame_survives_export(
    pretrained: Pretrained, one_evaluation: Path, real_crops: NDArray[np.uint8]
) -> None:
    """RwR over a clip of ten frames that slide over a face: its state goes out and in again, one evaluation a frame."""
    session, model = session_of(one_evaluation), pretrained.model
    frames = [np.roll(real_crops[:4], shift, axis=2) for shift in range(10)]
    z = np.zeros((4, 68, 32, 32), np.float32)
    theirs = torch.zeros(4, 68, 32, 32)
    for frame in frames:
        landmarks, std, z, _ = session.run(None, {"images": frame, "z0": z})
        xy, deviation, theirs = expected(model, frame, theirs, 1)
        np.testing.assert_allclose(landmarks / 128, xy, rtol=0, atol=1e-4)
        np.testing.assert_allclose(std / 128, deviation, rtol=0, atol=1e-4)
    cold = session.run(None, {"images": frames[-1], "z0": np.zeros_like(z)})[0]
    assert np.abs(cold - landmarks).max() > 1, "the state has no effect: the test would pass without it"


def test_a_real_face_is_followed_alike_over_a_whole_clip(
    pretrained: Pretrained, one_evaluation: Path, real_clip: list[NDArray[np.uint8]], capsys: pytest.CaptureFixture[str]
) -> None:
    """RwR with each runtime's own state, from a full solve on; the crops of both follow onnxruntime's landmarks."""
    session, model = session_of(one_evaluation), pretrained.model
    landmarker = Landmarker(pretrained)
    frames = list(itertools.dropwhile(lambda frame: not landmarker(frame), real_clip))
    points, z, theirs = landmarker(frames[0])[0].points, np.zeros((1, 68, 32, 32), np.float32), torch.zeros(1, 68, 32, 32)
    worst = moved = 0.0
    for t, frame in enumerate(frames):
        square = crop_box("landmarks", points=points, scale=pretrained.crop_scale)
        crop = warp(frame, crop_matrix(square, 128), 128)[None]
        for _ in range(1 if t else 4):
            landmarks, _, z, _ = session.run(None, {"images": crop, "z0": z})
            xy, _, theirs = expected(model, crop, theirs, 1)
        worst = max(worst, float(np.abs(landmarks / 128 - np.asarray(xy)).max()))
        found = (landmarks[0] + 0.5) * (square.side / 128) - 0.5 + (square.x0, square.y0)
        moved, points = moved + float(np.abs(found - points).mean()), found
    with capsys.disabled():
        print(f"\nonnxruntime against PyTorch, RwR over {len(frames)} frames: {worst:.1e} of the crop's side at most")
    assert worst <= 1e-4
    assert moved > 0.1 * len(frames) and len(frames) >= 50, "the face rests: any state would do"


def test_four_runs_of_one_evaluation_are_one_run_of_four(pretrained: Pretrained, exported: Path, one_evaluation: Path) -> None:
    crops, z = drawn_crops(pretrained, 2), np.zeros((2, 68, 32, 32), np.float32)
    whole = session_of(exported).run(None, {"images": crops, "z0": z})
    session = session_of(one_evaluation)
    for _ in range(4):
        landmarks, _, z, residual = session.run(None, {"images": crops, "z0": z})
    np.testing.assert_allclose(landmarks, whole[0], rtol=0, atol=1e-3)
    np.testing.assert_allclose(residual, whole[3], rtol=1e-3)


def test_folding_is_exact_where_batchnorm_does_something() -> None:
    """Negative scales forbid to move BatchNorm behind the max-pool; a shift reaches the border of a padded convolution."""
    for seed, beta in ((0, 1.0), (1, 0.3)):
        pretrained = untrained(beta=beta)
        torch.manual_seed(seed)
        model, images = pretrained.model, np.random.default_rng(seed).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
        z = torch.rand(2, 98, 8, 8)
        document = onnx_model(folded_of(model), model.config.eps, 2)
        session = onnxruntime.InferenceSession(document.SerializeToString(), providers=["CPUExecutionProvider"])
        landmarks, std, state, _ = session.run(None, {"images": images, "z0": z.numpy()})
        xy, deviation, expected_state = expected(model, images, z, 2)
        np.testing.assert_allclose(state, expected_state, rtol=0, atol=1e-4)
        np.testing.assert_allclose(landmarks / 32, xy, rtol=0, atol=1e-5)
        np.testing.assert_allclose(std / 32, deviation, rtol=0, atol=1e-5)


def test_a_file_says_what_must_be_known_to_use_it(pretrained: Pretrained, exported: Path) -> None:
    document = onnx.load(exported)
    assert [(o.domain, o.version) for o in document.opset_import] == [("", 18)]
    said = {entry.key: entry.value for entry in document.metadata_props}
    assert said["layout"] == "ibug-68"
    assert "research" in said["licence"]
    assert json.loads(said["card"]) == pretrained.card
    assert json.loads(said["mirror_index"])[:3] == [16, 15, 14]
    assert (said["image_size"], said["crop_scale"], said["evaluations"]) == ("128", "1.2", "4")
    names = [[v.name for v in values] for values in (document.graph.input, document.graph.output)]
    assert names == [["images", "z0"], ["landmarks", "std", "z", "residual"]]


def test_evaluations_share_their_weights_and_nothing_is_left_to_compute_from_constants(
    pretrained: Pretrained, exported: Path, one_evaluation: Path
) -> None:
    assert exported.stat().st_size < 1.02 * one_evaluation.stat().st_size
    graph = onnx.load(one_evaluation).graph
    constants = {c.name for c in graph.initializer}
    for node in graph.node:
        assert not all(name in constants for name in node.input if name), f"{node.name} has only constants"
    kinds = [node.op_type for node in graph.node]
    assert "BatchNormalization" not in kinds
    assert "Concat" in kinds and kinds.count("Concat") == 1, "only x and y of the landmarks are joined"
    assert kinds.count("Transpose") == 1, "only of the images"


def test_a_hook_or_a_replaced_module_is_not_dropped_in_silence(tmp_path: Path) -> None:
    pretrained = untrained()
    handle = pretrained.model.cell.head.register_forward_hook(lambda module, args, output: output + 1)
    with pytest.raises(ExportError, match=r"cell\.head is not what its class says: it has a hook"):
        export_onnx(pretrained, tmp_path / "m.onnx")
    handle.remove()
    pretrained.model.cell.head = nn.Sequential(pretrained.model.cell.head)  # type: ignore[assignment]
    with pytest.raises(ExportError, match=r"cell\.head is a Sequential that the model did not come with"):
        export_onnx(pretrained, tmp_path / "m.onnx")
    assert not list(tmp_path.iterdir())


def test_a_file_that_gives_other_landmarks_is_not_called_verified(pretrained: Pretrained, one_evaluation: Path) -> None:
    with pytest.raises(ExportError, match="does not agree with PyTorch"):
        verify_onnx(one_evaluation, pretrained.model, drawn_crops(pretrained, 2), 2)


def test_the_command_writes_and_verifies_both_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    onnx_file, program = tmp_path / "deep" / "m.onnx", tmp_path / "m.pt2"
    arguments = ["--onnx", str(onnx_file), "--torch-export", str(program), "--evaluations", "1", "--verify"]
    assert main(["export", "small-68", *arguments]) == 0
    told = capsys.readouterr().out
    assert told.count("agrees with PyTorch") == 2
    assert "1 evaluation in each run" in told
    assert onnx_file.is_file() and program.is_file()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "nothing to write: give --onnx FILE"),
        (["--onnx", "m.onnx", "--evaluations", "0"], "evaluations must be >= 1, got 0"),
        (["--onnx", "m.onnx", "--torch-export", "m.onnx"], "choose another name"),
    ],
)
def test_mistakes_are_answered_by_a_sentence(
    arguments: list[str], sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["export", "small-68", *arguments]) == 2
    assert sentence in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_missing_package_is_named_with_the_command_that_installs_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert main(["export", "small-68", "--onnx", str(tmp_path / "m.onnx")]) == 2
    assert "pip install 'ldeq[export]'" in capsys.readouterr().err
