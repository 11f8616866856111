"""Heatmaps that converge, as an animated picture."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageSequence

from ldeq.cli import main
from ldeq.data import crop_box, write_image
from ldeq.data.synthetic import SyntheticFaces
from ldeq.engine import load_pretrained
from ldeq.video.converging import draw_convergence, write_animation


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
