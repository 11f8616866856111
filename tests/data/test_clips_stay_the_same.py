"""A seed gives the same clip in every version: what was tuned and judged on made clips can be compared with later runs.

The files in golden/ hold a photo's landmarks, and what the clips of them were when this was written. A change that means to
make other clips writes them anew with ``LDEQ_RECORD=1``, and says so in the changelog.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from ldeq.data import read_image, write_image
from ldeq.data.clips import Clip
from ldeq.data.layouts import WFLW98
from ldeq.data.synthetic import SyntheticFaces

GOLDEN = Path(__file__).parent / "golden"

# Name, difficulty, seed, window: closed eyes and an open mouth, a thing before the face, a bright and a dark picture.
CLIPS = [("easy", 11, (30, 6)), ("hard", 5, (60, 6)), ("hard", 8, (20, 6)), ("easy", 2, (75, 6))]
SHOWN = 24


def photo() -> np.ndarray:
    """Coarse and fine patterns in three colours, so that whatever moves is seen to move."""
    y, x = np.mgrid[:256, :256] / 256
    waves = [np.sin(2 * np.pi * (a * x + b * y)) for a, b in ((3, 1), (-2, 5), (11, -7), (6, 13))]
    return np.clip(np.dstack([130 + 30 * waves[i] + 30 * waves[i + 1] + 12 * waves[3] for i in range(3)]), 0, 255).astype(
        np.uint8
    )


def points() -> np.ndarray:
    path = GOLDEN / "points.json"
    if os.environ.get("LDEQ_RECORD"):
        faces = SyntheticFaces(8, seed=3, size=256)
        path.write_text(json.dumps(np.round(faces.record(4).points, 2).tolist()) + "\n")
    return np.array(json.loads(path.read_text()), np.float32)


def views(clip: Clip) -> np.ndarray:
    """Of three frames: the whole, small, and the pixels about the eyes and the mouth. `(rows, columns, 3)`."""
    rows = []
    for t, frame in enumerate(clip.frames()):
        if t % 2:
            continue
        small = cv2.resize(frame, (2 * SHOWN, 2 * SHOWN), interpolation=cv2.INTER_AREA)
        parts = []
        for group in (slice(60, 68), slice(68, 76), slice(88, 96)):
            cx, cy = np.rint(clip.landmarks[t, group].mean(0)).astype(int)
            padded = cv2.copyMakeBorder(frame, SHOWN, SHOWN, SHOWN, SHOWN, cv2.BORDER_CONSTANT)
            parts.append(padded[cy : cy + 2 * SHOWN, cx : cx + 2 * SHOWN])
        rows.append(np.concatenate([small, *parts], 1))
    return np.concatenate(rows, 0)


@pytest.mark.parametrize("noise", [False, True], ids=["clean", "noisy"])
@pytest.mark.parametrize(("difficulty", "seed", "window"), CLIPS, ids=lambda v: str(v))
def test_a_clip_is_what_it_was(difficulty: str, seed: int, window: tuple[int, int], noise: bool) -> None:
    clip = Clip(photo(), points(), WFLW98, difficulty, seed, [photo()[:, ::-1].copy()], window=window, noise=noise)
    name = f"{difficulty}-{seed}"
    shown = views(clip)
    about: dict[str, Any] = {
        "settings": clip.describe(),
        "landmarks": np.round(clip.landmarks[::5].astype(np.float64), 3).tolist(),
        # Noise is told by its amount: its pixels are another library's.
        "noise": [round(float(cv2.Laplacian(f, cv2.CV_32F).std()), 3) for f in clip.frames()],
    }
    record, picture = GOLDEN / f"{name}{'-noisy' if noise else ''}.json", GOLDEN / f"{name}.png"
    if os.environ.get("LDEQ_RECORD"):
        record.write_text(json.dumps(about) + "\n")
        if not noise:
            write_image(picture, shown)
    before = json.loads(record.read_text())
    assert about["settings"] == before["settings"]
    # Hundredths of a pixel.
    np.testing.assert_allclose(about["landmarks"], before["landmarks"], atol=0.01)
    np.testing.assert_allclose(about["noise"], before["noise"], rtol=0.003)
    if not noise:
        was = read_image(picture).astype(int)
        difference = np.abs(shown.astype(int) - was)
        # Another build of OpenCV rounds a pixel another way, and no more.
        assert difference.max() <= 3
        assert (difference > 1).mean() < 0.001


def test_a_thing_passes_before_the_face_of_the_shortest_clip() -> None:
    for frames in range(1, 9):
        clip = Clip(photo(), points(), WFLW98, "hard", 1, [photo()], frames=frames)
        for frame in clip.frames():
            assert frame.shape == (clip.settings.height, clip.settings.width, 3)
