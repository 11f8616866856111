"""TensorBoard is told what the log says, once, also after a resume."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ldeq.engine import SettingsError, Trainer, TrainSettings, tensorboard
from ldeq.engine.console import Console

Make = Callable[..., TrainSettings]


def scalars(run: Path) -> dict[str, dict[int, float]]:
    """Tag -> step -> value, as TensorBoard shows them."""
    module = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    found = module.EventAccumulator(str(run / tensorboard.FOLDER), size_guidance={"scalars": 0})
    found.Reload()
    for tag in found.Tags()["scalars"]:
        steps = [event.step for event in found.Scalars(tag)]
        assert len(steps) == len(set(steps)), f"{tag} is shown twice"
    return {tag: {event.step: event.value for event in found.Scalars(tag)} for tag in found.Tags()["scalars"]}


def logged(run: Path) -> dict[str, dict[int, float]]:
    found: dict[str, dict[int, float]] = {}
    for line in (run / "log.jsonl").read_text().splitlines():
        row: dict[str, Any] = json.loads(line)
        group = f"val/{row['val']}" if "val" in row else "train"
        for name, value in row.items():
            if isinstance(value, int | float) and name not in ("step", "epoch") and value == value:
                found.setdefault(f"{group}/{name}".replace(" ", "_"), {})[row["step"]] = value
    return found


def test_every_number_of_the_log_is_shown_once_also_after_a_resume(make_settings: Make, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    run = tmp_path / "run"
    settings = make_settings(epochs=3, tensorboard=True, validate_every=1, keep=3)
    Trainer(settings, Console(False)).fit()
    first = min(run.glob("step-*.safetensors"))
    for path in run.glob("step-*.safetensors"):
        if path != first:
            path.unlink()
    Trainer(settings, Console(False)).fit("auto")  # does the last two epochs again
    expected = logged(run)
    found = {tag.replace(" ", "_"): values for tag, values in scalars(run).items()}
    assert set(found) == set(expected) and len(expected) > 10
    for tag, values in expected.items():
        assert set(found[tag]) == set(values)
        if "images_per_s" not in tag:
            assert found[tag] == pytest.approx(values, rel=1e-4, abs=1e-5)


def test_a_missing_package_is_a_sentence(make_settings: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensorboard, "find_spec", lambda name: None)
    with pytest.raises(SettingsError, match=r"run.tensorboard needs the package tensorboard: pip install .ldeq\[tensorboard\]"):
        Trainer(make_settings(tensorboard=True), Console(False))
    Trainer(make_settings(), Console(False))
