"""Real faces where this machine has them, and one export for all tests."""

from __future__ import annotations

import itertools
import os
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from ldeq.data import crop_box, load_300w, warp
from ldeq.data.crop import crop_matrix
from ldeq.engine import Pretrained, load_pretrained
from ldeq.video.reading import VideoReader

DATA = Path(__file__).resolve().parents[2].parent / "shared" / "data"


@pytest.fixture(scope="session")
def pretrained() -> Pretrained:
    return load_pretrained("small-68")


@pytest.fixture(scope="session")
def real_crops() -> NDArray[np.uint8]:
    """100 faces of HELEN test `(100, 128, 128, 3)`, cropped as for the shipped model."""
    given = os.environ.get("LDEQ_300W")
    root = Path(given).expanduser() if given else DATA / "300w"
    if not root.is_dir():
        pytest.skip("no 300w data here: set LDEQ_300W to its folder")
    faces = load_300w(root, "helen-test")
    squares = [crop_box("landmarks", points=faces.record(i).points, scale=1.2) for i in range(100)]
    return np.stack([warp(faces.read(i), crop_matrix(square, 128), 128) for i, square in enumerate(squares)])


@pytest.fixture(scope="session")
def real_clip() -> list[NDArray[np.uint8]]:
    """The first 100 frames of a clip of a person who speaks."""
    pytest.importorskip("av")
    clips = sorted((DATA / "videos").glob("*.mp4"))
    if not clips:
        pytest.skip(f"no clips in {DATA / 'videos'}")
    with VideoReader(clips[0]) as video:
        return [frame.image for frame in itertools.islice(video, 100)]
