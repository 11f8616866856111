"""The figures of a training step and of a report, number by number."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ldeq.engine import Trainer, TrainSettings, load_pretrained
from ldeq.engine.console import Console
from ldeq.engine.evaluate import Evaluation
from ldeq.engine.report import REPORT, is_report, markdown_table, to_json, worst_faces
from ldeq.engine.runlog import RunLog
from ldeq.engine.weights import save_weights

Make = Callable[..., TrainSettings]


@pytest.mark.parametrize("sequence", [0, 3])
def test_speed_and_error_of_a_step(make_settings: Make, monkeypatch: pytest.MonkeyPatch, sequence: int) -> None:
    now = [5.0]

    def clock() -> float:
        now[0] += 0.5
        return now[0]

    data: dict[str, Any] = {"train": ["synthetic:8#size=48"], "val": [], "sequence": sequence, "cache": False}
    trainer = Trainer(make_settings(data=data, batch=2), Console(False))
    item = next(iter(trainer.data.batches(0, 0)))
    seen: list[Any] = []
    trainer.train_step.parallel.register_forward_hook(lambda m, i, out: seen.append(out))
    monkeypatch.setattr("ldeq.engine.step.time.perf_counter", clock)
    row = trainer.train_step(item, 1e-3)
    # Half a second passes between two looks at the clock; a frame of a sequence is an image.
    assert row["images_per_s"] == pytest.approx(2 * max(sequence, 1) / 0.5)
    predicted, target = seen[0].landmarks.detach(), item["landmarks"]
    left, right = trainer.layout.outer_eyes
    eyes = (target[..., left, :] - target[..., right, :]).norm(dim=-1)
    nme = 100 * ((predicted - target).norm(dim=-1).mean(-1) / eyes).mean()
    assert row["nme"] == pytest.approx(float(nme), rel=1e-5)
    assert row["loss"] == pytest.approx(float((predicted - target).abs().mean()), rel=1e-5)
    assert row["residual"] == pytest.approx(float(seen[0].solution.residual.mean()), rel=1e-5)
    assert (row["lr"], row["skipped_steps"]) == (1e-3, 0.0)
    assert row["memory_mb"] > 10


def evaluation(faces: int = 6) -> Evaluation:
    errors = np.array([0.02, 0.04, 0.06, 0.3, 0.08, 0.12])[:faces]
    points = np.zeros((faces, 98, 2), np.float32)
    points[:, 72] = 50.0, 0.0
    return Evaluation(
        "how it was made", points + errors[:, None, None].astype(np.float32), points, np.ones((faces, 98), np.float32),
        np.full(faces, 50.0), errors, np.arange(faces) * 2, [{"pose": i % 2 == 0, "blur": i < 2} for i in range(faces)],
        np.full(faces, 4), 0.125, [("a.jpg", "it is truncated"), ("b.jpg", "it is gone")],
    )  # fmt: skip


def test_a_table_has_a_line_for_every_subset_that_was_asked_for() -> None:
    def names(subsets: list[str] | None) -> list[str]:
        lines = markdown_table(evaluation(), subsets).splitlines()
        return [line.split("|")[1].strip() for line in lines if line.startswith("| ") and "---" not in line][1:]

    assert names(None) == ["full", "pose", "blur"]
    assert names(["blur"]) == ["full", "blur"]
    assert names([]) == ["full"]
    lines = markdown_table(evaluation()).splitlines()
    assert lines[0] == "Protocol: how it was made."
    summary = evaluation().summary
    assert lines[4] == f"| full | {summary['nme']:.2f} | {summary['fr10']:.2f} | {summary['auc10']:.4f} | 6 |"
    assert summary["nme"] == pytest.approx(100 * 0.62 / 6) and summary["fr10"] == pytest.approx(100 / 3)
    assert lines[-6:] == [
        "Cell evaluations a face: 4.00.", "", "2 pictures could not be used and are in no figure:", "",
        "- `a.jpg`: it is truncated", "- `b.jpg`: it is gone",
    ]  # fmt: skip


def test_the_document_holds_every_figure() -> None:
    document = to_json(evaluation())
    assert document["protocol"] == "how it was made" and document["residual"] == 0.125
    assert document["skipped"] == [{"path": "a.jpg", "reason": "it is truncated"}, {"path": "b.jpg", "reason": "it is gone"}]
    assert document["cell_evaluations"] == {"mean": 4.0, "p50": 4, "p90": 4, "max": 4, "faces": {"4": 6}}
    # Each landmark is off by the error in x and in y, over 50 pixels between the eyes.
    expected = 100 * np.sqrt(2) * evaluation().errors.mean() / 50
    assert document["landmark_errors"] == [round(expected, 4)] * 98


def test_a_folder_is_a_report_if_its_document_says_so(tmp_path: Path) -> None:
    assert REPORT[1] == "report.json"
    for text, expected in (
        ('{"protocol": "x"}', True), ('{"a": {"protocol": "x"}, "b": {"protocol": "y"}}', True), ('{"protocol": 5}', False),
        ('{"a": {"protocol": "x"}, "b": {}}', False), ("{}", False), ("[]", False), ("no json", False), ('{"a": 5}', False),
    ):  # fmt: skip
        (tmp_path / "report.json").write_text(text)
        assert is_report(tmp_path) is expected, text
    assert not is_report(tmp_path / "absent")


def test_the_worst_faces_come_first_with_their_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each tile is the crop of 1.5 times the face, with the prediction where it is in the picture."""
    from ldeq.data import LandmarkDataset, crop_box, crop_matrix, open_faces, transform_points

    faces = open_faces("synthetic:12#size=64")
    dataset = LandmarkDataset(faces, 32)
    found = evaluation()
    predicted = np.stack([faces.record(int(i)).points for i in found.indices]).astype(np.float32)
    shown: dict[str, Any] = {}

    def sheet(crops: Any, points: Any, layout: Any, **options: Any) -> Any:
        shown.update(crops=crops, points=points, **options)
        return np.zeros((4, 4, 3), np.uint8)

    monkeypatch.setattr("ldeq.engine.report.contact_sheet", sheet)
    worst_faces(dataclasses.replace(found, predicted=predicted), dataset, count=3, tile=96)
    assert shown["titles"] == ["30.0 %  #6", "12.0 %  #10", "8.0 %  #8"]
    assert (shown["columns"], shown["tile"]) == (6, 96)
    assert [c.shape for c in shown["crops"]] == [(96, 96, 3)] * 3
    points = faces.record(6).points
    matrix = crop_matrix(crop_box("landmarks", points=points, scale=1.5), 96)
    np.testing.assert_allclose(shown["points"][0], transform_points(matrix, points), atol=1e-3)
    worst_faces(dataclasses.replace(found, predicted=predicted), dataset)
    assert (shown["tile"], len(shown["titles"])) == (192, 6)


def test_weights_are_stored_in_the_type_that_was_asked_for(make_settings: Make, tmp_path: Path) -> None:
    from safetensors import safe_open

    settings = make_settings(data={"train": ["synthetic:4#size=48"], "val": []})
    trainer = Trainer(settings, Console(False))
    for dtype, expected in ((None, torch.float32), (torch.bfloat16, torch.bfloat16)):
        path = tmp_path / f"{dtype}.safetensors"
        save_weights(path, trainer.model, trainer.layout, settings, dtype=dtype)
        with safe_open(path, framework="pt") as file:
            kinds = {file.get_tensor(name).dtype for name in file.keys()}  # noqa: SIM118
            assert not any(name.endswith("num_batches_tracked") for name in file.keys())  # noqa: SIM118
        assert kinds == {expected}
        assert next(load_pretrained(path).model.parameters()).dtype == torch.float32
    assert (tmp_path / "torch.bfloat16.safetensors").stat().st_size < 0.75 * (tmp_path / "None.safetensors").stat().st_size


def test_a_log_keeps_what_was_done_before_a_step(tmp_path: Path) -> None:
    log = RunLog(tmp_path / "log.jsonl")
    assert log.append({"step": 1, "loss": 0.123456789, "n": 3}) is None
    assert log.path.read_text() == '{"step": 1, "loss": 0.123457, "n": 3}\n'
    for row in ({"step": 2}, {"step": 2, "val": "x"}, {"step": 3}):
        assert log.append(row) is None
    with log.path.open("a") as file:
        file.write('{"step": 4, "lo')
    log.rewind(2)
    assert [line[:11] for line in log.path.read_text().splitlines()] == ['{"step": 1,', '{"step": 2}', '{"step": 2,']
    log.rewind(2, validation_due=True)
    assert len(log.path.read_text().splitlines()) == 2
    log.rewind(0)
    assert log.path.read_text() == ""
    absent = RunLog(tmp_path / "absent" / "log.jsonl")
    absent.rewind(3)
    assert not absent.path.exists()
    assert str(absent.append({"step": 1})).startswith(f"cannot write {absent.path}: ")
