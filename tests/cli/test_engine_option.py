"""``--engine`` reaches the model, gives the same landmarks, and is refused in a sentence where it cannot run."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from ldeq.cli import main
from ldeq.cli.following import Pipeline
from ldeq.engine.settings import SettingsError
from ldeq.models import LDEQ
from ldeq.models.inference.engine import fold_injection
from ldeq.models.inference.onnxruntime_engine import OnnxRuntimeEngine, onnxruntime_missing

needs_onnxruntime = pytest.mark.skipif(onnxruntime_missing() is not None, reason="onnxruntime is not installed")


@pytest.fixture
def engines_that_ran(monkeypatch: pytest.MonkeyPatch) -> set[bool]:
    """Whether onnxruntime ran, for each call of the model."""
    seen: set[bool] = set()

    def watched(model: LDEQ, images):  # type: ignore[no-untyped-def]
        injection = fold_injection(model, images)
        assert injection is not None
        seen.add(isinstance(injection._engine, OnnxRuntimeEngine))
        return injection

    monkeypatch.setattr("ldeq.models.ldeq.fold_injection", watched)
    return seen


@needs_onnxruntime
def test_predict_gives_the_same_points_by_each_engine(face: Path, tmp_path: Path, engines_that_ran: set[bool]) -> None:
    found = {}
    for engine, expected in (("torch", False), ("onnxruntime", True), ("auto", True)):
        engines_that_ran.clear()
        out = tmp_path / f"{engine}.json"
        command = ["predict", str(face), "--json", str(out), "--box", "60,60,190,200", "--device", "cpu", "--engine", engine]
        assert main(command) == 0
        assert engines_that_ran == {expected}
        (image,) = json.loads(out.read_text())["images"]
        found[engine] = np.array(image["faces"][0]["points"])
    assert len(found["torch"]) == 68
    # The crop is 168 pixels wide.
    np.testing.assert_allclose(found["torch"], found["onnxruntime"], rtol=0, atol=1e-4 * 168)
    assert np.array_equal(found["auto"], found["onnxruntime"])


@needs_onnxruntime
@pytest.mark.parametrize(("engine", "expected"), [("torch", False), ("onnxruntime", True)])
def test_labels_line_by_line_come_from_the_engine_asked_for(
    engine: str, expected: bool, face: Path, weights: Path, tmp_path: Path, engines_that_ran: set[bool]
) -> None:
    options = ["--cropped", "--model", str(weights), "--device", "cpu", "--engine", engine]
    assert main(["predict", str(face), *options, "--jsonl", str(tmp_path / "labels.jsonl")]) == 0
    assert engines_that_ran == {expected}


@needs_onnxruntime
@pytest.mark.parametrize(("engine", "expected"), [("torch", False), ("onnxruntime", True)])
def test_eval_scores_by_the_engine_asked_for(
    engine: str, expected: bool, weights: Path, engines_that_ran: set[bool], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["eval", str(weights), "--data", "synthetic:3", "--device", "cpu", "--engine", engine]) == 0
    assert "NME" in capsys.readouterr().out
    assert engines_that_ran == {expected}


@pytest.mark.parametrize("command", [["predict", "FACE", "--cropped"], ["eval", "small-68", "--data", "synthetic:2"]])
def test_an_unknown_engine_is_refused(command: list[str], face: Path, refused: Callable[..., str]) -> None:
    arguments = [str(face) if word == "FACE" else word for word in command]
    assert "unknown engine 'tensorrt'; choose auto, torch or onnxruntime" in refused(*arguments, "--engine", "tensorrt")


@pytest.mark.parametrize("engine", ["torch", pytest.param("onnxruntime", marks=needs_onnxruntime)])
def test_videos_and_cameras_follow_with_the_engine_asked_for(engine: str, weights: Path) -> None:
    assert Pipeline(model=str(weights), device="cpu", engine=engine).load().model.engine == engine
    with pytest.raises(SettingsError, match="unknown engine 'tensorrt'"):
        Pipeline(model=str(weights), engine="tensorrt").load()


def test_doctor_names_the_engine_and_the_reason(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--json"]) == 0
    engine = json.loads(capsys.readouterr().out)["engine"]
    name, reason = engine["used"].split(": ", 1)
    assert name in ("torch", "onnxruntime")
    assert reason
    if onnxruntime_missing():
        assert "pip install 'ldeq[onnxruntime]'" in engine["onnxruntime"]
