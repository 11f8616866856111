from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from ldeq.data import DataError, FaceRecord, ImageError, LandmarkDataset, Layout, open_faces
from ldeq.engine import evaluate
from ldeq.engine.evaluate import Evaluation, join
from ldeq.engine.report import evaluation_counts, markdown_table, write_report
from ldeq.models import LDEQ, LDEQConfig

CONFIG = LDEQConfig.tiny(landmarks=98, image_size=32, width=16, depth=1, groups=4)


class Broken:
    """A set of faces some of which cannot be read."""

    def __init__(self, bad: set[int]) -> None:
        self.inner, self.bad = open_faces("synthetic:7#size=64"), bad

    name = "broken"

    @property
    def layout(self) -> Layout:
        return self.inner.layout

    def __len__(self) -> int:
        return len(self.inner)

    def record(self, index: int) -> FaceRecord:
        return self.inner.record(index)

    def read(self, index: int) -> np.ndarray:
        if index in self.bad:
            raise ImageError(f"face{index}.jpg", "the file is truncated")
        return self.inner.read(index)


@pytest.fixture
def model() -> LDEQ:
    torch.manual_seed(0)
    return LDEQ(CONFIG)


def dataset(spec: str = "synthetic:7#size=64") -> LandmarkDataset:
    return LandmarkDataset(open_faces(spec, "test"), CONFIG.image_size, on_error="replace")


def test_a_model_that_answers_the_labels_scores_zero(model: LDEQ, monkeypatch: pytest.MonkeyPatch) -> None:
    data = dataset()
    answers = iter(torch.stack([data[i]["landmarks"] for i in range(len(data))]).split(3))
    real = LDEQ.forward

    def forward(self: LDEQ, images: torch.Tensor) -> Any:
        return real(self, images)._replace(landmarks=next(answers))

    monkeypatch.setattr(LDEQ, "forward", forward)
    result = evaluate(model, data, batch=3)
    # Labels go to unit coordinates in float32 and back to source pixels: 1e-5 of an inter-ocular distance is rounding.
    assert result.errors.max() < 1e-5
    assert result.summary["images"] == 7


def test_scores_do_not_depend_on_the_batch_size_or_on_training_mode(model: LDEQ) -> None:
    model.train()
    a, b = evaluate(model, dataset(), batch=1), evaluate(model, dataset(), batch=7)
    assert model.training
    # A convolution sums in another order at another batch size: 1e-5 in unit coordinates, here of pictures of 64 pixels.
    np.testing.assert_allclose(a.predicted, b.predicted, rtol=0, atol=64e-5)
    np.testing.assert_allclose(a.errors, b.errors, rtol=0, atol=2e-5)


def test_the_shares_of_two_processes_join_to_the_whole(model: LDEQ) -> None:
    whole = evaluate(model, dataset())
    parts = join([evaluate(model, dataset(), share=(rank, 2)) for rank in (0, 1)])
    np.testing.assert_allclose(whole.predicted, parts.predicted, rtol=0, atol=64e-5)
    np.testing.assert_array_equal(whole.indices, parts.indices)
    np.testing.assert_array_equal(whole.evaluations, parts.evaluations)
    assert whole.protocol == parts.protocol
    assert whole.subsets.keys() == parts.subsets.keys()
    assert [dict(a) for a in whole.attributes] == [dict(a) for a in parts.attributes]


def test_unreadable_pictures_are_listed_and_in_no_figure(model: LDEQ, tmp_path: Path) -> None:
    faces = Broken({2, 5})
    data = LandmarkDataset(faces, CONFIG.image_size, on_error="replace")
    result = evaluate(model, data)
    assert result.indices.tolist() == [0, 1, 3, 4, 6]
    assert result.summary["images"] == 5
    assert len(result.skipped) == 2
    assert "5 images" in result.protocol
    table = markdown_table(result)
    assert "2 pictures could not be used" in table


def test_nothing_readable_is_an_error_that_says_what_to_do(model: LDEQ) -> None:
    data = LandmarkDataset(Broken(set(range(7))), CONFIG.image_size, on_error="replace")
    with pytest.raises(DataError, match="picture"):
        evaluate(model, data)


def test_model_and_data_of_different_layouts_or_sizes_are_refused(model: LDEQ) -> None:
    with pytest.raises(DataError, match="takes crops of 32 pixels, the data set makes 64"):
        evaluate(model, LandmarkDataset(open_faces("synthetic:3"), 64))
    other = LDEQ(LDEQConfig.tiny(landmarks=68, image_size=32, width=16, depth=1, groups=4))
    with pytest.raises(DataError, match="predicts 68 landmarks and .* has 98"):
        evaluate(other, dataset())


def test_the_protocol_says_how_the_score_was_made(model: LDEQ) -> None:
    protocol = evaluate(model, dataset(), weights="untrained").protocol
    for part in ("7 images", "wflw-98", "60, 72", "crop landmarks x 1.2", "32 px", "fixed_point", "untrained", "inter-ocular"):
        assert part in protocol


def test_a_report_holds_tables_curve_and_worst_faces(model: LDEQ, tmp_path: Path) -> None:
    data = dataset("synthetic:14#size=64")
    result = evaluate(model, data)
    paths = write_report(result, data, tmp_path / "report")
    assert [p.name for p in paths] == ["report.md", "report.json", "ced.png", "landmarks.png", "worst.png"]
    assert result.protocol in paths[0].read_text()
    document = json.loads(paths[1].read_text())
    assert document["subsets"]["full"]["nme"] == pytest.approx(100 * result.errors.mean())
    assert len(document["landmark_errors"]) == 98
    # The mean over landmarks of their errors is the mean over images of theirs.
    assert np.mean(document["landmark_errors"]) == pytest.approx(document["subsets"]["full"]["nme"], abs=1e-3)
    for path in paths[2:]:
        picture = cv2.imread(str(path))
        assert picture is not None
        assert picture.std() > 5


def test_counts_of_evaluations_are_those_of_the_faces() -> None:
    counts = evaluation_counts(np.array([2, 2, 2, 2, 2, 3, 3, 3, 4, 9]))
    assert counts == {"mean": 3.2, "p50": 2, "p90": 4, "max": 9, "faces": {"2": 5, "3": 3, "4": 1, "9": 1}}


def test_the_table_says_how_evaluations_spread(model: LDEQ) -> None:
    result = dataclasses.replace(evaluate(model, dataset()), evaluations=np.array([2, 2, 2, 2, 3, 3, 5]))
    assert "Cell evaluations a face: 2.71 (half of the faces within 2, 90 % within 5, at most 5)." in markdown_table(result)


def test_an_early_stop_is_counted_by_face(model: LDEQ) -> None:
    """Nothing moves by more than the crop: one evaluation and the one behind the solve, of a budget of nine."""
    result = evaluate(model.with_solver(max_iter=9, stop="landmarks", tol=32.0), dataset())
    assert result.evaluations.tolist() == [2] * 7
    assert "stop at landmarks moving by 32 px" in result.protocol


def test_figures_of_a_share_join_in_the_order_of_the_data() -> None:
    def part(indices: list[int], residual: float) -> Evaluation:
        n = len(indices)
        values = np.array(indices, np.float32)
        return Evaluation(
            f"a set of 2 images, {n} images, wflw", np.tile(values[:, None, None], (1, 2, 2)), np.zeros((n, 2, 2), np.float32),
            np.ones((n, 2), np.float32), values.astype(np.float64) + 1, values / 100, np.array(indices),
            [{"pose": i % 2 == 0} for i in indices], np.array(indices) + 3, residual, [("gone", "why"), (f"{indices[0]}", "x")],
        )  # fmt: skip

    whole = join([part([0, 2, 4], 0.1), part([1, 3], 0.6)])
    assert whole.indices.tolist() == [0, 1, 2, 3, 4]
    assert whole.predicted[:, 0, 0].tolist() == [0, 1, 2, 3, 4]
    assert whole.evaluations.tolist() == [3, 4, 5, 6, 7] and whole.normaliser.tolist() == [1, 2, 3, 4, 5]
    assert whole.residual == pytest.approx((3 * 0.1 + 2 * 0.6) / 5)
    assert whole.skipped == [("gone", "why"), ("0", "x"), ("1", "x")]
    assert [a["pose"] for a in whole.attributes] == [True, False, True, False, True]
    assert whole.protocol == "a set of 2 images, 5 images, wflw"
