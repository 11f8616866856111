"""Heatmaps that converge, as an animated picture."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageSequence

from ldeq import Landmarker
from ldeq.cli import main
from ldeq.data import crop_box, crop_matrix, transform_points, write_image
from ldeq.data.synthetic import SyntheticFaces
from ldeq.engine import load_pretrained
from ldeq.video import converging
from ldeq.video.converging import _coloured, draw_convergence, write_animation


def test_a_picture_for_the_start_and_one_for_each_evaluation(tmp_path: Path) -> None:
    faces = SyntheticFaces(1, seed=3, size=200)
    image, points = faces.read(0), faces.record(0).points
    square = crop_box("landmarks", points=points, scale=1.2)
    pictures = draw_convergence(load_pretrained("small-68"), image, square, evaluations=4, side=160)
    assert [p.shape for p in pictures] == [(160, 160, 3)] * 5
    # Before the label: the start is the darkened crop, what follows is lit by heatmaps, and ever less changes.
    upper = [p[:140].astype(int) for p in pictures]
    assert (upper[1] >= 0.9 * upper[0]).mean() > 0.95 and upper[1].sum() > 1.1 * upper[0].sum()
    changes = [np.abs(b - a).mean() for a, b in pairwise(upper)]
    assert changes[0] > changes[1] > changes[3]
    write_animation(tmp_path / "deep" / "face.gif", pictures)
    with Image.open(tmp_path / "deep" / "face.gif") as gif:
        times = [frame.info["duration"] for frame in ImageSequence.Iterator(gif)]
    assert len(times) == 5 and times[-1] > times[1] > times[0] > 0


def test_the_command_writes_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_image(tmp_path / "face.png", SyntheticFaces(1, seed=3, size=160).read(0))
    assert main(["predict", str(tmp_path / "face.png"), "--cropped", "--converge", str(tmp_path / "face.gif")]) == 0
    assert (tmp_path / "face.gif").stat().st_size > 10_000
    assert main(["predict", str(tmp_path / "face.png"), "--converge", str(tmp_path / "face.png")]) == 2
    assert "--converge takes one picture and the name of a .gif file" in capsys.readouterr().err


def test_the_light_of_a_heatmap_lies_where_its_landmark_is() -> None:
    """Column i of a heatmap lies at pixel i * size / h of the crop; the picture shows the crop enlarged."""
    size, side = 64, 160
    for row, column in ((2, 3), (9, 5), (4, 12)):
        z = np.zeros((1, 16, 16), np.float32)
        z[0, row, column] = 1.0
        light = _coloured(z, size, side).max(-1)
        y, x = np.mgrid[:side, :side]
        centre = np.array([(light * x).sum(), (light * y).sum()]) / light.sum()
        expected = (np.array([column, row]) * size / 16 + 0.5) * side / size - 0.5
        np.testing.assert_allclose(centre, expected, atol=0.6)


def test_landmarks_are_drawn_where_the_readout_finds_them(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[NDArray[np.float64]] = []

    def noted(image: NDArray[np.uint8], points: NDArray[np.float64]) -> NDArray[np.uint8]:
        seen.append(points)
        return image

    monkeypatch.setattr(converging, "draw_landmarks", noted)
    faces = SyntheticFaces(1, seed=3, size=200)
    image, points = faces.read(0), faces.record(0).points
    square = crop_box("landmarks", points=points, scale=1.2)
    draw_convergence(load_pretrained("small-68"), image, square, evaluations=6, side=160)
    (face,) = Landmarker.load("small-68", "cpu")(image, [(*points.min(0), *points.max(0))])
    expected = transform_points(crop_matrix(square, 160), face.points)
    assert np.abs(seen[-1] - expected).mean() < 1.5
