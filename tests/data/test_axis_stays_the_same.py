"""The estimate of a set's mirror axis is what it was, and its parts are their formulas: published offsets come from it."""

from __future__ import annotations

import json
import os
from pathlib import Path

import cv2
import numpy as np
import pytest

from ldeq.data import WFLW98, FaceRecord, estimate_axis
from ldeq.data.axis import CROP, FEWEST, AxisOffset, _picture_axis, _to_frame, asymmetry
from ldeq.data.crop import transform_points
from ldeq.data.layouts import Layout

GOLDEN = Path(__file__).parent / "golden"


def face() -> np.ndarray:
    return np.array(json.loads((GOLDEN / "points.json").read_text()))


class Made:
    """A pattern, turned, moved and sized, with a face's landmarks that tremble; every seventh picture is of low contrast."""

    name = "made"
    layout: Layout = WFLW98

    def __init__(self, count: int, lopsided: float) -> None:
        rng = np.random.default_rng(11)
        half = cv2.GaussianBlur(rng.normal(size=(256, 256)).astype(np.float32), (0, 0), 3)
        texture = half + half[:, ::-1] + lopsided * cv2.GaussianBlur(rng.normal(size=(256, 256)).astype(np.float32), (0, 0), 3)
        base = np.clip(128 + 35 * texture / texture.std(), 0, 255).astype(np.uint8)[..., None].repeat(3, -1)
        points = face()
        frame = transform_points(_to_frame(points, WFLW98), points)
        self.pictures, self.points = [], []
        for i in range(count):
            angle, size, dx, dy = rng.normal(0, 0.25), rng.uniform(60, 85), *rng.uniform(-4, 4, 2)
            c, s = size * np.cos(angle), size * np.sin(angle)
            matrix = np.array([[c, -s, 64 + dx], [s, c, 64 + dy]])
            noisy = frame + rng.normal(0, 0.004 * (1 + i % 5), frame.shape)
            self.points.append(transform_points(matrix, noisy).astype(np.float32))
            # The pattern's middle is the face's.
            to_texture = np.array([[1 / 160, 0, -127.5 / 160], [0, 1 / 160, -127.5 / 160]])
            whole = matrix[:, :2] @ to_texture
            whole[:, 2] += matrix[:, 2]
            picture = cv2.warpAffine(base, whole, (128, 128), flags=cv2.INTER_LINEAR)
            self.pictures.append(picture // 4 + 90 if i % 7 == 0 else picture)

    def __len__(self) -> int:
        return len(self.points)

    def read(self, index: int) -> np.ndarray:
        return self.pictures[index]

    def record(self, index: int) -> FaceRecord:
        return FaceRecord(None, self.points[index])


@pytest.mark.parametrize(("name", "count", "lopsided"), [("even", 90, 0.1), ("lopsided", 101, 1.0)])
def test_an_estimate_is_what_it_was(name: str, count: int, lopsided: float) -> None:
    told: list[tuple[int, int]] = []
    found = estimate_axis(Made(count, lopsided), progress=lambda done, total: told.append((done, total)))
    assert found is not None
    path = GOLDEN / "axis.json"
    values = [found.offset, found.deviation, found.faces]
    if os.environ.get("LDEQ_RECORD"):
        record = json.loads(path.read_text()) if path.exists() else {}
        path.write_text(json.dumps({**record, name: values}) + "\n")
    np.testing.assert_allclose(values, json.loads(path.read_text())[name], rtol=2e-3, atol=2e-6)
    half = (count + 1) // 2
    assert told == [(i + 1, half) for i in range(half)] and found.faces == half


def test_faces_are_looked_at_evenly_and_the_most_symmetric_half_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    made = Made(200, 0.1)
    read: list[int] = []

    def noted(self: Made, index: int) -> np.ndarray:
        read.append(index)
        return self.pictures[index]

    monkeypatch.setattr(Made, "read", noted)
    found = estimate_axis(made, most=100)
    assert found is not None and found.faces == 50
    chosen = np.linspace(0, 199, 100).round().astype(int)
    crooked = {int(i): asymmetry(made.points[i].astype(np.float64), WFLW98) for i in chosen}
    assert read == sorted(sorted(crooked, key=crooked.__getitem__)[:50])
    assert estimate_axis(made, most=2 * FEWEST - 2) is None
    assert estimate_axis(made, most=2 * FEWEST - 1) is not None


def test_the_frame_of_a_face_has_its_axis_upright_and_its_longer_side_is_one() -> None:
    points = face()
    for angle in (0.0, 0.6, -1.2):
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        frame = transform_points(_to_frame(3 * points @ turn.T + 40, WFLW98), 3 * points @ turn.T + 40)
        assert np.ptp(frame, axis=0).max() == pytest.approx(1.0)
        pairs = np.array([(i, j) for i, j in enumerate(WFLW98.mirror) if i < j])
        first, second = frame[pairs[:, 0]], frame[pairs[:, 1]]
        assert float((first + second)[:, 0].mean()) == pytest.approx(0.0, abs=1e-9)
        assert float((second - first)[:, 1].sum()) != 0 and frame[:, 1].max() == pytest.approx(-frame[:, 1].min())
        # The same face: a turn of the picture changes nothing.
        np.testing.assert_allclose(frame, transform_points(_to_frame(points, WFLW98), points), atol=1e-9)


def test_asymmetry_is_the_root_mean_square_gap_of_mirror_images() -> None:
    points = face()
    frame = transform_points(_to_frame(points, WFLW98), points)
    gaps = frame - frame[WFLW98.mirror_index] * (-1, 1)
    assert asymmetry(points, WFLW98) == pytest.approx(float(np.sqrt((gaps**2).mean())), rel=1e-9)


@pytest.mark.parametrize("at", [-3.3, -1.0, 0.0, 0.4, 2.5, 4.9])
def test_the_axis_of_a_symmetric_picture_is_found_between_pixels(at: float) -> None:
    y, x = np.mgrid[:160, :160] - 79.5
    mean = np.exp(-((np.abs(x - at) - 25) ** 2) / 60 - (y - 10) ** 2 / 800) - 0.5 * np.exp(-((x - at) ** 2) / 50 - y**2 / 900)
    # Far from the face, where the window is shut, anything may be.
    mean[:, :8] += 0.1
    assert _picture_axis(mean) == pytest.approx(min(at, 4.75), abs=0.26 if at > 4.5 else 0.03)


def test_an_offset_is_clear_from_three_deviations_on_and_told_with_its_side() -> None:
    assert AxisOffset(0.003, 0.001, 50).clear and AxisOffset(-0.003, 0.001, 50).clear
    assert not AxisOffset(0.00299, 0.001, 50).clear
    assert AxisOffset(0.0044, 0.0005, 60).text() == (
        "labels lie 0.44 +- 0.05 % of the face's longer side to the right of the pictures' mirror axis "
        f"({0.0044 * CROP:.2f} +- {0.0005 * CROP:.2f} pixels of a 128-pixel crop, 60 faces)"
    )
    assert "0.44 +- 0.05 % of the face's longer side to the left" in AxisOffset(-0.0044, 0.0005, 60).text()
    assert "to the right" in AxisOffset(0.0, 0.1, 60).text()
