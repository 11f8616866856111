"""Small promises of a run: what is done counts, nothing is said of faces that were used, pictures hold the batch."""

from __future__ import annotations

import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ldeq.engine import Trainer, TrainSettings
from ldeq.engine.console import Console
from ldeq.engine.evaluate import Evaluation

Make = Callable[..., TrainSettings]


def trainer_of(settings: TrainSettings) -> Trainer:
    return Trainer(settings, Console(False))


def test_a_stop_in_the_last_batch_of_a_validation_lets_it_count(make_settings: Make) -> None:
    """A stop before that gives the share up."""
    asked: Any = types.SimpleNamespace(noted=True)
    for batch, whole in ((6, True), (8, True), (5, False), (4, False)):
        trainer = trainer_of(make_settings(batch=batch, data={"train": ["synthetic:8#size=48"]}))
        found = trainer._evaluate_share(trainer.data.val_sets[0], asked)
        assert isinstance(found, Evaluation) if whole else found is None


def test_nothing_is_said_of_faces_that_could_all_be_used(
    make_settings: Make, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = Trainer(make_settings(epochs=1, data={"train": ["synthetic:4#size=48"], "val": []}), Console())
    trainer.fit()
    assert "could not be used" not in capsys.readouterr().out
    for skipped, said in (({"a": "x"}, "1 face could not be used:"), ({"a": "x", "b": "y"}, "2 faces could not be used:")):
        trainer.skipped = skipped
        trainer._report_skipped()
        lines = capsys.readouterr().out.splitlines()
        assert lines == [f"warning: {said}", *(f"  {path}: {reason}" for path, reason in skipped.items())]
    trainer.main = False
    trainer._report_skipped()
    assert capsys.readouterr().out == ""


def test_the_sheet_of_the_first_batch_shows_its_faces_where_their_labels_are(
    make_settings: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: dict[str, Any] = {}

    def sheet(images: Any, points: Any, layout: Any, columns: int) -> Any:
        shown.update(images=images, points=points, columns=columns)
        return np.zeros((2, 2, 3), np.uint8)

    monkeypatch.setattr("ldeq.engine.train.contact_sheet", sheet)
    for sequence, columns, count in ((0, 4, 4), (3, 3, 12)):
        data = {"train": ["synthetic:8#size=48"], "val": [], "sequence": sequence, "cache": False}
        trainer = trainer_of(make_settings(data=data))
        item = next(iter(trainer.data.batches(0, 0)))
        trainer._first_batch(item)
        assert (shown["columns"], len(shown["images"]), len(shown["points"])) == (columns, count, count)
        flat = item["image"].reshape(-1, 3, 32, 32)
        for i in range(count):
            np.testing.assert_array_equal(shown["images"][i], flat[i].permute(1, 2, 0).numpy())
            np.testing.assert_allclose(shown["points"][i], item["landmarks"].reshape(-1, 98, 2)[i].numpy() * 32, atol=1e-4)


def test_a_run_saves_validates_and_logs_when_its_settings_say(make_settings: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = make_settings(
        epochs=5, batch=2, validate_every=2, save_every=3, log_every=2, data={"train": ["synthetic:6#size=48"], "cache": False}
    )
    trainer = trainer_of(settings)
    events: list[tuple[str, int, int]] = []
    logged: list[tuple[int, bool]] = []
    save, validate, log = trainer._save, trainer._validate, trainer._log

    def saving() -> None:
        events.append(("save", trainer.epoch, trainer.step))
        save()

    def validating(stop: Any) -> Evaluation:
        events.append(("validate", trainer.epoch, trainer.step))
        return validate(stop)

    def logging(row: dict[str, Any]) -> None:
        logged.append((trainer.step, "val" in row))
        log(row)

    for name, noting in (("_save", saving), ("_validate", validating), ("_log", logging)):
        monkeypatch.setattr(trainer, name, noting)
    result = trainer.fit()
    assert result is not None
    # Saved before each validation, every third epoch, and at the end.
    assert events == [
        ("save", 2, 6), ("validate", 2, 6), ("save", 3, 9), ("save", 4, 12), ("validate", 4, 12), ("save", 5, 15),
        ("validate", 5, 15),
    ]  # fmt: skip
    assert [step for step, val in logged if not val] == [2, 3, 4, 6, 8, 9, 10, 12, 14, 15]
    assert [step for step, val in logged if val] == [6, 12, 15]


def test_the_newest_files_stay_and_the_document_names_the_last(make_settings: Make, tmp_path: Path) -> None:
    settings = make_settings(epochs=4, keep=2, data={"train": ["synthetic:4#size=48"], "val": [], "cache": False})
    trainer = trainer_of(settings)
    trainer.fit()
    names = sorted(p.name for p in (tmp_path / "run").glob("step-*"))
    assert names == ["step-00000003.safetensors", "step-00000004.safetensors"]
    assert f'"checkpoint": "{names[-1]}"' in (tmp_path / "run" / "last.json").read_text()
    assert trainer.saved == 4 and trainer.total_steps == 4


def test_random_numbers_go_on_after_a_resume(make_settings: Make) -> None:
    """Dropout draws from torch's own generator."""
    data = {"train": ["synthetic:4#size=48"], "val": [], "cache": False}
    trainer = trainer_of(make_settings(epochs=1, data=data))
    trainer.fit()
    expected = torch.rand(3)
    torch.manual_seed(999)
    again = trainer_of(make_settings(epochs=1, data=data))
    torch.manual_seed(555)
    again.fit("auto")
    assert torch.equal(torch.rand(3), expected)
