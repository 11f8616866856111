"""What counts as a cut, as flat, and how far a camera may move between two frames."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from ldeq.video.cuts import CUT, DOUBT, FLAT, REACH, SIDE, CutDetector


def picture(seed: int) -> np.ndarray:
    """A thumbnail's worth of smooth patterns, `(SIDE, SIDE, 3)`."""
    noise = np.random.default_rng(seed).normal(size=(SIDE + 40, SIDE + 40)).astype(np.float32)
    smooth = cv2.GaussianBlur(noise, (0, 0), 3)
    return np.clip(128 + 60 * (smooth / smooth.std()), 0, 255).astype(np.uint8)[..., None].repeat(3, -1)


def crop(whole: np.ndarray, dx: int = 0, dy: int = 0) -> np.ndarray:
    return np.ascontiguousarray(whole[20 + dy : 20 + dy + SIDE, 20 + dx : 20 + dx + SIDE])


def likeness(a: np.ndarray, b: np.ndarray) -> float:
    cuts = CutDetector()
    assert cuts.likeness(a) == 1.0  # the first frame continues nothing, and is no cut
    return cuts.likeness(b)


def test_the_bounds_are_those_that_were_measured() -> None:
    assert (SIDE, REACH, CUT, DOUBT, FLAT) == (48, 6, 0.6, 0.8, 2.0)


def test_a_camera_may_move_by_an_eighth_of_the_picture() -> None:
    whole = picture(0)
    for dx, dy in ((0, 0), (REACH, 0), (0, -REACH), (-REACH, REACH)):
        assert likeness(crop(whole), crop(whole, dx, dy)) == pytest.approx(1.0, abs=1e-4)
    assert likeness(crop(whole), crop(whole, REACH + 2, 0)) < 0.98


def test_brightness_and_contrast_are_no_cut_and_another_picture_is() -> None:
    a = crop(picture(0))
    assert likeness(a, (a // 2 + 60).astype(np.uint8)) > 0.99
    assert likeness(a, crop(picture(1))) < CUT


def test_each_frame_is_compared_with_the_one_before_it() -> None:
    cuts = CutDetector()
    a, b = crop(picture(0)), crop(picture(1))
    found = [cuts.likeness(frame) for frame in (a, a, b, b, a)]
    assert [round(v, 2) for v in found[:2]] == [1.0, 1.0]
    assert found[2] < CUT and found[4] < CUT
    assert found[3] == pytest.approx(1.0, abs=1e-4)


def test_a_frame_that_shows_nothing_is_like_another_one_and_unlike_a_picture() -> None:
    black, grey, a = np.zeros((SIDE, SIDE, 3), np.uint8), np.full((SIDE, SIDE, 3), 99, np.uint8), crop(picture(0))
    assert likeness(black, grey) == 1.0
    assert likeness(black, a) == likeness(a, black) == 0.0


def test_a_picture_is_flat_below_a_deviation_of_two_levels() -> None:
    board = (np.indices((SIDE, SIDE)).sum(0) % 2)[..., None].repeat(3, -1)
    a, weak, strong = crop(picture(0)), (100 + 3 * board).astype(np.uint8), (100 + 4 * board).astype(np.uint8)
    assert float(strong.astype(np.float32).std()) == 2.0
    assert likeness(weak, a) == 0.0  # a deviation of 1.5
    assert likeness(strong, a) != 0.0  # of 2
    assert likeness(a, weak) == 0.0
    assert likeness(a, strong) != 0.0
