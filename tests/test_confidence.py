"""The score of a face: low on what is none, high on faces, told in every output."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from ldeq import Landmarker
from ldeq.cli import main
from ldeq.confidence import face_score
from ldeq.data import open_faces, write_image
from ldeq.video.tracking import TrackingSettings

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


def test_a_less_settled_or_wider_spread_answer_scores_less() -> None:
    points = np.array([[0, 0], [100, 80]], np.float32)
    std = np.full(2, 4.0, np.float32)
    by_residual = [face_score(r, points, std) for r in (1e-9, 0.01, 0.1, 0.3, 1.0)]
    by_spread = [face_score(0.1, points, std * k) for k in (0, 0.5, 1, 2, 4)]
    for scores in (by_residual, by_spread):
        assert scores == sorted(scores, reverse=True)
        assert all(0 <= s <= 1 for s in scores)
    assert face_score(float("nan"), points, std) == face_score(0.1, points * np.nan, std) == 0.0
    assert face_score(0.1, points * 0, std) < 0.01  # all in one point


def test_the_score_is_in_the_document_of_predict(tmp_path: Path) -> None:
    write_image(tmp_path / "noise.png", none("noise", 0))
    assert main(["predict", str(tmp_path / "noise.png"), "--box", "60,60,190,190", "--json", str(tmp_path / "o.json")]) == 0
    assert json.loads((tmp_path / "o.json").read_text())["images"][0]["faces"][0]["score"] < 0.3
