"""Several views of one face: crops, states, and what their mean looks like."""

from __future__ import annotations

import numpy as np
import pytest

from ldeq import Landmarker
from ldeq.data import SquareBox, crop_matrix, warp
from ldeq.video.crops import VIEWS, view_matrix
from ldeq.video.tracking import Tracker, TrackingSettings


def test_views_are_the_crop_mirrored_and_moved() -> None:
    image = np.random.default_rng(0).integers(0, 255, (90, 90, 3), np.uint8)
    square = SquareBox(10.3, 12.1, 64.0)
    plain, mirrored, moved, both = (warp(image, view_matrix(square, view, 64), 64) for view in VIEWS)
    np.testing.assert_array_equal(plain, warp(image, crop_matrix(square, 64), 64))
    np.testing.assert_allclose(mirrored[:, ::-1].astype(int), plain, atol=12)
    np.testing.assert_allclose(moved[2:, 2:].astype(int), plain[:-2, :-2], atol=12)
    np.testing.assert_allclose(both[:, ::-1].astype(int), moved, atol=12)


@pytest.mark.parametrize("rwr", [False, True])
def test_every_view_carries_a_state_and_two_views_are_symmetric(rwr: bool) -> None:
    lm = Landmarker.load("small-68", "cpu")
    image = np.full((160, 160, 3), 128, np.uint8)  # its own mirror image, and so must the mean of both views be
    for views in (1, 2, 4):
        settings = TrackingSettings(rwr=rwr, views=views, check_every=0, settled=float("inf"), register=True)
        tracker = Tracker(lm.model, 1.2, settings)
        state = tracker.start()
        for _ in range(2):
            (estimate,) = tracker.step([image], [state], [(39.5, 39.5, 119.5, 119.5)])
        assert estimate.points.shape == (68, 2) and estimate.std.shape == (68,)
        assert estimate.evaluations == views * (1 if rwr else 4)
        if views == 2:
            other = estimate.points[lm.layout.mirror_index]
            np.testing.assert_allclose(other[:, 0], 159 - estimate.points[:, 0], atol=0.05)
            np.testing.assert_allclose(other[:, 1], estimate.points[:, 1], atol=0.05)


def test_unknown_numbers_of_views_are_named() -> None:
    with pytest.raises(ValueError, match="views must be 1, 2 or 4"):
        TrackingSettings(views=3)
