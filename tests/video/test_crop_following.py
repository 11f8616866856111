"""How a crop follows its face, to the last digit: slack, ratio of sides, views."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from ldeq.data import SquareBox
from ldeq.video.crops import VANISHED, VIEWS, follow_crop, move_heatmaps, view_square


def test_within_the_slack_a_crop_stays_where_it_is() -> None:
    now = SquareBox.about(50.0, 40.0, 100.0)
    for dx, dy in ((0.0, 0.0), (2.0, 0.0), (0.0, -2.0), (1.2, 1.6)):
        kept = follow_crop(now, SquareBox.about(50.0 + dx, 40.0 + dy, 103.9), 0.02, 0.04)
        assert (kept.cx, kept.cy, kept.side) == pytest.approx((50.0, 40.0, 100.0), abs=1e-12)


def test_beyond_the_slack_a_crop_is_dragged_along_at_that_distance() -> None:
    now = SquareBox.about(50.0, 40.0, 100.0)
    moved = follow_crop(now, SquareBox.about(50.0 + 6.0, 40.0 - 8.0, 100.0), 0.02, 0.04)
    # 10 pixels off, of which 2 are slack: eight tenths of the way.
    assert (moved.cx, moved.cy) == pytest.approx((50.0 + 4.8, 40.0 - 6.4), abs=1e-12)
    assert follow_crop(now, SquareBox.about(56.0, 32.0, 100.0), 0.0, 0.0).cx == pytest.approx(56.0)


def test_a_side_follows_with_a_slack_of_its_own_both_ways() -> None:
    now = SquareBox.about(50.0, 40.0, 100.0)
    for side, expected in ((120.0, 120.0 / 1.04), (80.0, 80.0 * 1.04), (104.0, 100.0), (100.0 / 1.04, 100.0)):
        assert follow_crop(now, SquareBox.about(50.0, 40.0, side), 0.02, 0.04).side == pytest.approx(expected, rel=1e-12)


def test_views_are_two_pixels_of_the_crop_apart() -> None:
    assert [tuple(view) for view in VIEWS] == [(False, 0.0), (True, 0.0), (False, 2.0), (True, 2.0)]
    square = SquareBox(10.0, 20.0, 96.0)
    moved = view_square(square, VIEWS[2], 64)
    assert (moved.x0, moved.y0, moved.side) == (7.0, 17.0, 96.0)
    mirrored = view_square(square, VIEWS[3], 64)
    # Columns 7 .. 102 of the picture, mirrored about column 0.
    assert (mirrored.x0, mirrored.y0, mirrored.side) == (-102.0, 17.0, 96.0)


def spot(cx: float, cy: float, h: int = 16) -> torch.Tensor:
    y, x = torch.meshgrid(torch.arange(h, dtype=torch.float64), torch.arange(h, dtype=torch.float64), indexing="ij")
    return torch.exp(-((x - cx) ** 2 + (y - cy) ** 2) / 8)


def test_a_peak_stays_over_its_place_in_the_picture_and_is_one_again() -> None:
    z = torch.stack([spot(6.0, 9.0), spot(15.0, 1.0)])[None]
    before, after = SquareBox(20.0, 30.0, 64.0), SquareBox(28.0, 26.0, 64.0)
    moved = move_heatmaps(z, [before], [after])
    # 8 pixels are 2 columns, -4 are a line.
    torch.testing.assert_close(moved[0, 0, 2:-2, 2:-2], spot(4.0, 10.0)[2:-2, 2:-2], atol=1e-9, rtol=0)
    assert moved.amax((-2, -1)).flatten().tolist() == pytest.approx([1.0, 1.0])
    # In a crop of twice the side, (j + 1/8) columns of it are those of the old one, twice as many.
    wide = move_heatmaps(z, [before], [SquareBox(20.0, 30.0, 128.0)])
    expected_x, expected_y = (6.0 + 0.125) / 2 - 0.125, (9.0 + 0.125) / 2 - 0.125
    mass = wide[0, 0] / wide[0, 0].sum()
    line = torch.arange(16, dtype=torch.float64)
    assert float((mass.sum(0) * line).sum()) == pytest.approx(expected_x, abs=0.05)
    assert float((mass.sum(1) * line).sum()) == pytest.approx(expected_y, abs=0.05)


def test_a_map_that_left_the_crop_is_not_blown_up_to_one() -> None:
    z = spot(2.0, 2.0)[None, None]
    gone = move_heatmaps(z, [SquareBox(0.0, 0.0, 64.0)], [SquareBox(400.0, 0.0, 64.0)])
    assert gone.abs().max() == 0
    # Ten columns away a tail of exp(-100 / 8) is left: below what counts as a peak.
    tail = move_heatmaps(z, [SquareBox(0.0, 0.0, 64.0)], [SquareBox(48.0, 0.0, 64.0)])
    assert math.exp(-100 / 8) < VANISHED
    assert float(tail.max()) == pytest.approx(math.exp(-100 / 8), rel=1e-6)
    near = move_heatmaps(z, [SquareBox(0.0, 0.0, 64.0)], [SquareBox(28.0, 0.0, 64.0)])
    assert float(near.max()) == pytest.approx(1.0)
    assert np.isfinite(near.numpy()).all()
