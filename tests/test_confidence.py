"""The score of a face and the deviations of its landmarks: low on what is none, high on faces, told in every output."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from ldeq import Landmarker
from ldeq.cli import main
from ldeq.confidence import Calibration
from ldeq.data import open_faces, write_image
from ldeq.engine import checkpoint
from ldeq.engine.weights import find_weights
from ldeq.errors import ArgumentError
from ldeq.video.tracking import Tracker, TrackingSettings

SIDE = 256
BOX = [[60.0, 60.0, 190.0, 190.0]]


@pytest.fixture(scope="module")
def lm() -> Landmarker:
    return Landmarker.load("small-68", "cpu")


def drawn(count: int) -> list[tuple[NDArray[np.uint8], NDArray[np.float64]]]:
    """Drawn faces seen from the front, with their tight boxes."""
    faces = open_faces(f"synthetic:{12 + 3 * count}#seed=3,size={SIDE}", "test")
    plain = [i for i in range(len(faces)) if not any(faces.record(i).attributes.values())][:count]
    return [(faces.read(i), np.array([[*faces.record(i).points.min(0), *faces.record(i).points.max(0)]])) for i in plain]


def none(kind: str, seed: int) -> NDArray[np.uint8]:
    rng = np.random.default_rng(seed)
    place = np.arange(SIDE)
    if kind == "noise":
        return rng.integers(0, 255, (SIDE, SIDE, 3)).astype(np.uint8)
    if kind == "grey":
        return np.full((SIDE, SIDE, 3), rng.integers(20, 235), np.uint8)
    if kind == "board":
        values = 255 * ((place[None] // (8 + seed) + place[:, None] // (8 + seed)) % 2)
    else:
        values = 127 + 100 * np.sin(0.2 * place[None] + 0.1 * seed * place[:, None])
    return np.repeat(values[..., None], 3, 2).astype(np.uint8)


@pytest.mark.parametrize("kind", ["noise", "grey", "board", "waves"])
def test_noise_and_textures_in_a_box_do_not_pass_for_faces(lm: Landmarker, kind: str) -> None:
    scores = [lm(none(kind, seed), BOX)[0].score for seed in range(4)]
    assert all(score is not None and 0 <= score < 0.3 for score in scores), scores


def test_faces_score_high_and_lower_when_they_are_turned_over(lm: Landmarker) -> None:
    for image, box in drawn(4):
        (face,) = lm(image, box)
        x1, y1, x2, y2 = box[0]
        (over,) = lm(np.ascontiguousarray(image[::-1]), [[x1, SIDE - 1 - y2, x2, SIDE - 1 - y1]])
        assert face.score is not None and over.score is not None
        assert face.score > 0.9
        assert over.score < face.score


def test_the_score_of_a_stream_rests_on_its_last_full_solve(lm: Landmarker) -> None:
    image, box = drawn(1)[0]
    (alone,) = lm(image, box)
    with lm.stream(boxes=box, tracking=TrackingSettings(check_every=0)) as stream:
        scores = [stream(image)[0].score for _ in range(4)]
    assert scores[0] == pytest.approx(alone.score, abs=1e-6)
    assert all(score is not None and score > 0.9 for score in scores)


def nobody(picture: NDArray[np.uint8]) -> NDArray[np.float64]:
    return np.zeros((0, 4))


CALIBRATION = Calibration(-22.8, -4.12, -5.62, 0.3, (0.1, -0.1), 0.9, 0.3, 0.2)


def test_a_frame_is_scored_by_its_own_points_and_deviations(lm: Landmarker) -> None:
    # Scores of the shipped model are 1 in most digits; these are not.
    mild = replace(CALIBRATION, bias=-1.0, residual=-0.2, spread=-0.3, min_score=0.0, offsets=(0.1,) * 68)
    (first, box), (second, _) = drawn(2)
    tracker = Tracker(lm.model, lm.pretrained.crop_scale, TrackingSettings(check_every=0), lm.layout, mild)
    state = tracker.start(box[0])
    scores = []
    for image in (first, second, first):
        (e,) = tracker.step([image], [state], box)
        assert e.score == pytest.approx(mild.score(state.residual, e.points, e.std), abs=1e-9)
        assert np.array_equal(e.deviation, mild.deviation(state.residual, e.points, e.std))
        scores.append(e.score)
    assert len(set(scores)) == 3


def test_a_less_settled_or_wider_spread_answer_scores_less() -> None:
    points = np.array([[0, 0], [100, 80]], np.float32)
    std = np.full(2, 4.0, np.float32)
    by_residual = [CALIBRATION.score(r, points, std) for r in (1e-9, 0.01, 0.1, 0.3, 1.0)]
    by_spread = [CALIBRATION.score(0.1, points, std * k) for k in (0, 0.5, 1, 2, 4)]
    for scores in (by_residual, by_spread):
        assert scores == sorted(scores, reverse=True)
        assert all(0 <= s <= 1 for s in scores)
    assert CALIBRATION.score(float("nan"), points, std) == CALIBRATION.score(0.1, points * np.nan, std) == 0.0
    assert CALIBRATION.score(0.1, points * 0, std) < 0.01  # all in one point


def test_deviations_are_in_pixels_and_grow_with_doubt() -> None:
    points = np.array([[0, 0], [100, 80]], np.float32)
    std = np.array([4.0, 8.0], np.float32)
    plain = CALIBRATION.deviation(0.05, points, std)
    assert plain[0] == pytest.approx(100 * np.exp(0.1 + 0.9 * np.log(0.04) + 0.3 * np.log(0.05) + 0.2 * np.log(0.06)), rel=1e-5)
    np.testing.assert_allclose(CALIBRATION.deviation(0.05, 3 * points, 3 * std), 3 * plain, rtol=1e-6)
    assert (CALIBRATION.deviation(0.5, points, std) > plain).all()
    assert (CALIBRATION.deviation(0.05, points, 2 * std) > plain).all()
    assert CALIBRATION.deviation(1e9, points, 1e9 * std).max() <= 100  # never more than the face
    assert np.isnan(CALIBRATION.deviation(float("nan"), points, std)).all()
    assert np.isnan(CALIBRATION.deviation(0.1, points * np.nan, std)).all()
    with pytest.raises(ArgumentError, match=r"std must have shape \(2,\)"):
        CALIBRATION.deviation(0.1, points, np.ones(3, np.float32))


def test_what_no_face_is_in_is_left_out_where_a_detector_gave_the_box(lm: Landmarker) -> None:
    """A detector's mistake must not become a face; a box that somebody gives is answered."""
    image, box = drawn(1)[0]
    both = np.concatenate((box, [[300.0, 60, 400, 160]]))
    image = np.concatenate((image, none("waves", 1)), 1)
    mistaken = Landmarker(lm.pretrained, detector=lambda picture: both)
    assert len(mistaken(image)) == 1
    assert (mistaken(image)[0].score or 0) > 0.9
    assert len(mistaken(image, min_score=0)) == 2
    assert len(lm(image, both)) == 2
    assert len(lm(image, both, min_score=0.5)) == 1
    assert mistaken(image, min_score=1) == []
    for wrong in (-0.1, 1.1, float("nan"), "much"):
        with pytest.raises(ArgumentError, match="min_score must lie between 0 and 1"):
            lm(image, min_score=wrong)


def test_a_face_that_a_detector_gives_twice_is_told_once(lm: Landmarker) -> None:
    image, box = drawn(1)[0]
    twice = Landmarker(lm.pretrained, detector=lambda picture: np.concatenate((box, box + [[6, 4, -3, 9]], box - 7)))
    (face,) = twice(image, min_score=0)
    assert face.score == max(f.score or 0 for f in lm(image, np.concatenate((box, box + [[6, 4, -3, 9]], box - 7)), refine=2))
    assert len(lm(image, np.concatenate((box, box)))) == 2  # boxes that somebody gives are all answered


def test_a_stream_does_not_follow_what_scores_low(lm: Landmarker) -> None:
    image, box = drawn(1)[0]
    with lm.stream(boxes=box, detector=nobody, min_score=1.0) as stream:
        assert stream(image) == []
    with lm.stream(boxes=box, detector=nobody) as stream:
        assert len(stream(image)) == 1
    with pytest.raises(ArgumentError, match="min_score must lie between 0 and 1"):
        lm.stream(min_score=2)


def test_a_model_without_a_calibration_has_no_score_and_leaves_nothing_out(lm: Landmarker) -> None:
    image = none("waves", 1)
    bare = Landmarker(replace(lm.pretrained, calibration=None), detector=lambda picture: np.array(BOX))
    (face,) = bare(image, min_score=0.9)
    assert face.score is None and face.deviation is None
    with bare.stream(boxes=BOX, tracking=TrackingSettings(settled=9)) as stream:
        assert stream(image)[0].score is None


def test_commands_say_that_a_model_has_no_score_and_how_to_fit_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    groups, document = checkpoint.load(find_weights("small-68"))
    checkpoint.save(tmp_path / "bare.safetensors", groups, {k: v for k, v in document.items() if k != "calibration"})
    write_image(tmp_path / "face.png", drawn(1)[0][0])
    command = ["predict", str(tmp_path / "face.png"), "--model", str(tmp_path / "bare.safetensors"), "--cropped"]
    outputs = ["--json", str(tmp_path / "o.json"), "--labels", str(tmp_path / "o.csv")]
    assert main([*command, *outputs]) == 0
    told = capsys.readouterr().err
    assert "the model bare has no calibration: faces have no score, and none is left out; fit one with: ldeq calibrate" in told
    (face,) = json.loads((tmp_path / "o.json").read_text())["images"][0]["faces"]
    assert face["score"] is None and face["deviation"] is None
    (row,) = csv.DictReader((tmp_path / "o.csv").open())
    assert row["score"] == ""
    assert main([*command, "--min-score", "0.5"]) == 2
    assert "--min-score needs a score, and the model bare has no calibration" in capsys.readouterr().err
    assert main([*command, "--min-score", "1.5"]) == 2
    assert "--min-score must lie between 0 and 1, got 1.5" in capsys.readouterr().err


def test_score_and_deviations_are_in_every_file(tmp_path: Path) -> None:
    image, box = drawn(1)[0]
    write_image(tmp_path / "face.png", image)
    given = ["--box", ",".join(f"{v:.1f}" for v in box[0])]
    outputs = ["--json", str(tmp_path / "o.json"), "--labels", str(tmp_path / "o.csv")]
    assert main(["predict", str(tmp_path / "face.png"), *given, *outputs]) == 0
    (face,) = json.loads((tmp_path / "o.json").read_text())["images"][0]["faces"]
    assert face["score"] > 0.9
    assert len(face["deviation"]) == 68 and all(0 < d < 30 for d in face["deviation"])
    (row,) = csv.DictReader((tmp_path / "o.csv").open())
    assert float(row["score"]) == face["score"]
    assert main(["predict", str(tmp_path / "face.png"), *given, "--min-score", "1", "--json", str(tmp_path / "n.json")]) == 0
    assert json.loads((tmp_path / "n.json").read_text())["images"][0]["faces"] == []


def test_the_score_is_in_the_document_of_predict(tmp_path: Path) -> None:
    write_image(tmp_path / "noise.png", none("noise", 0))
    assert main(["predict", str(tmp_path / "noise.png"), "--box", "60,60,190,190", "--json", str(tmp_path / "o.json")]) == 0
    assert json.loads((tmp_path / "o.json").read_text())["images"][0]["faces"][0]["score"] < 0.3
