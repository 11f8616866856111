"""Real faces where this machine has them, and one export for all tests."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from ldeq.data import crop_box, load_300w, warp
from ldeq.data.crop import crop_matrix
from ldeq.engine import Pretrained, load_pretrained


@pytest.fixture(scope="session")
def pretrained() -> Pretrained:
    return load_pretrained("small-68")


@pytest.fixture(scope="session")
def real_crops() -> NDArray[np.uint8]:
    """100 faces of HELEN test `(100, 128, 128, 3)`, cropped as for the shipped model."""
    given = os.environ.get("LDEQ_300W")
    root = Path(given).expanduser() if given else Path(__file__).resolve().parents[2].parent / "shared" / "data" / "300w"
    if not root.is_dir():
        pytest.skip("no 300w data here: set LDEQ_300W to its folder")
    faces = load_300w(root, "helen-test")
    squares = [crop_box("landmarks", points=faces.record(i).points, scale=1.2) for i in range(100)]
    return np.stack([warp(faces.read(i), crop_matrix(square, 128), 128) for i, square in enumerate(squares)])
