"""Two pipelines side by side: what their averages are taken over."""

from __future__ import annotations

import numpy as np
import pytest

from ldeq import Face
from ldeq.data import IBUG68
from ldeq.video.drawing import Comparison


def test_a_side_that_loses_the_face_in_the_hard_frames_does_not_look_steadier() -> None:
    rng = np.random.default_rng(0)
    base = rng.uniform(20, 80, (68, 2)).astype(np.float32)
    comparison = Comparison(100, 100, IBUG68, ("left", "right"))
    image = np.zeros((100, 100, 3), np.uint8)
    for t in range(30):
        hard = 10 <= t < 20
        points = base + rng.normal(0, 5 if hard else 0.1, base.shape).astype(np.float32)
        face = Face.of(points, np.ones(68, np.float32), IBUG68, 0, "start" if t in (0, 20) else None)
        comparison.draw(image, [face], [] if hard else [face], t / 30)
    left, right = comparison.flicker
    assert left == right  # the same faces wherever both have one
    assert 0 < left < 1


def test_without_a_frame_that_both_have_there_is_no_average() -> None:
    comparison = Comparison(100, 100, IBUG68, ("left", "right"))
    assert np.isnan(comparison.flicker).all()
    with np.errstate(all="raise"):
        assert comparison.flicker != pytest.approx((0, 0))
