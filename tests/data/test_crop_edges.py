"""Crops at the limits of their rules: thin rectangles, pictures that are just averaged, pictures that are just not."""

from __future__ import annotations

import numpy as np
import pytest

from ldeq.data.axis import asymmetry
from ldeq.data.crop import crop_box, crop_matrix, reduce_region, warp
from ldeq.data.labels import label_fault
from ldeq.data.layouts import WFLW98


@pytest.mark.parametrize("rect", [(5.0, 5.0, 5.0, 25.0), (5.0, 5.0, 25.0, 5.0)])
def test_a_rectangle_without_width_or_height_still_has_a_longer_side(rect: tuple[float, float, float, float]) -> None:
    assert crop_box("rect", rect=rect, scale=1.5).side == 30
    assert crop_box("rect", rect=rect, scale=1.5).cx == (rect[0] + rect[2]) / 2
    assert crop_box("rect", rect=rect, scale=1.5).cy == (rect[1] + rect[3]) / 2


@pytest.mark.parametrize("rect", [(6.0, 5.0, 5.0, 25.0), (5.0, 26.0, 25.0, 25.0), (5.0, 5.0, 5.0, 5.0)])
def test_a_rectangle_turned_inside_out_or_of_one_point_is_refused(rect: tuple[float, float, float, float]) -> None:
    with pytest.raises(ValueError, match="rect|span more than one point"):
        crop_box("rect", rect=rect)


def test_a_missing_rectangle_says_which_rules_do_without() -> None:
    with pytest.raises(ValueError, match=r"pass rect=, or use 'landmarks'\."):
        crop_box("rect")
    with pytest.raises(ValueError, match=r"pass box=, or use 'landmarks' or 'rect'\."):
        crop_box("box")


def averaged(image: np.ndarray, factor: int) -> np.ndarray:
    height, width = (n // factor * factor for n in image.shape[:2])
    blocks = image[:height, :width].reshape(height // factor, factor, width // factor, factor, -1)
    return blocks.mean((1, 3))


@pytest.mark.parametrize("factor", [2, 3, 5])
def test_fine_texture_becomes_grey_where_a_crop_pixel_spans_a_block(factor: int) -> None:
    """Noise of independent pixels falls by the block's side; read pixel by pixel it would stay as it is."""
    image = np.random.default_rng(0).integers(0, 256, (40 * factor, 40 * factor, 3), dtype=np.uint8)
    matrix = np.array([[1 / factor, 0, 0.0], [0, 1 / factor, 0.0]])
    assert warp(image, matrix, 40)[1:-1, 1:-1].std() < 1.05 * image.std() / factor


def test_a_picture_is_read_pixel_by_pixel_below_a_factor_of_two() -> None:
    image = np.zeros((64, 64), np.uint8)
    image[::2] = 255
    matrix = np.array([[1 / 1.99, 0, 0], [0, 1 / 1.99, 0.0]])
    assert warp(image, matrix, 30)[2:10, 2:28].min() > 200
    assert np.ptp(warp(image, np.array([[0.5, 0, -0.25], [0, 0.5, -0.25]]), 32)[1:31, 1:31]) <= 1


@pytest.mark.parametrize("angle", [0.0, 0.4, 1.1, 2.5, -0.8])
@pytest.mark.parametrize("factor", [2.0, 2.7, 4.3])
def test_a_turned_and_averaged_crop_is_whole_to_its_corners(angle: float, factor: float) -> None:
    """A smooth picture larger than the crop: its values come out at every pixel, so no part of it was cut off."""
    y, x = np.mgrid[:700, :700]
    image = np.rint(60 + 0.15 * x + 0.1 * y).astype(np.uint8)
    c, s = np.cos(angle) / factor, np.sin(angle) / factor
    turn = np.array([[c, -s], [s, c]])
    matrix = np.column_stack([turn, np.array([31.5, 31.5]) - turn @ (350.0, 350.0)])
    v, u = np.mgrid[:64, :64]
    places = np.linalg.inv(turn) @ (np.stack([u.ravel(), v.ravel()]) - matrix[:, 2:])
    expected = (60 + 0.15 * places[0] + 0.1 * places[1]).reshape(64, 64)
    assert np.abs(warp(image, matrix, 64) - expected).max() < 1.2


@pytest.mark.parametrize("region", [(-7, -5, 31, 33), (3, 2, 29, 40), (-9, 4, 12, 21), (18, 19, 60, 55), (-30, -30, 3, 3)])
@pytest.mark.parametrize("factor", [1, 2, 3, 4])
def test_a_reduced_region_holds_the_means_of_its_blocks(region: tuple[int, int, int, int], factor: int) -> None:
    """Blocks counted from the region's corner, black outside of the picture, and each where the map says it is."""
    image = np.random.default_rng(1).integers(0, 256, (37, 41), dtype=np.uint8)
    x0, y0, x1, y1 = region
    found = reduce_region(image, x0, y0, x1, y1, factor)
    assert found is not None
    reduced, matrix = found
    assert matrix[0, 0] == matrix[1, 1] == pytest.approx(1 / factor)
    first = np.round(((0 - matrix[:, 2]) * factor) - (factor - 1) / 2).astype(int)
    assert (first - (x0, y0) >= 0).all() and ((first - (x0, y0)) % factor == 0).all()
    large = np.zeros((37 + 200, 41 + 200))
    large[100:137, 100:141] = image
    rows, columns = reduced.shape
    cut = large[100 + first[1] : 100 + first[1] + rows * factor, 100 + first[0] : 100 + first[0] + columns * factor]
    assert np.abs(reduced - averaged(cut, factor)[..., 0]).max() <= 1
    # Whole blocks up to the end of the region or of the picture, and none that lies outside.
    assert first[0] + columns * factor >= min(x1, 41) > first[0] + (columns - 1) * factor
    assert first[1] + rows * factor >= min(y1, 37) > first[1] + (rows - 1) * factor
    assert (first > -factor).all()


def test_a_region_beside_the_picture_is_none() -> None:
    image = np.ones((10, 12), np.uint8)
    for region in ((-5, 0, 0, 5), (12, 0, 15, 5), (0, -5, 5, 0), (0, 10, 5, 14)):
        assert reduce_region(image, *region, factor=1) is None
    for region in ((-5, 0, 1, 5), (11, 0, 15, 5), (0, -5, 5, 1), (0, 9, 5, 14)):
        assert reduce_region(image, *region, factor=1) is not None


def test_a_label_may_lie_outside_by_the_stated_room_and_no_farther() -> None:
    from ldeq.data.labels import FARTHEST_SIDES

    points = np.random.default_rng(0).uniform(10, 90, (98, 2))
    room = FARTHEST_SIDES * 120
    for place, bad in (
        ((-room, 5.0), False), ((-room - 0.1, 5.0), True), ((5.0, 100 + room), False), ((5.0, 100.1 + room), True),
        ((120 + room, 5.0), False), ((120.1 + room, 5.0), True), ((5.0, -room), False), ((5.0, -room - 0.1), True),
    ):  # fmt: skip
        moved = points.copy()
        moved[3] = place
        fault = label_fault(moved, WFLW98, size=(100, 120))
        assert (fault is not None and fault.startswith("landmark 3 lies at")) == bad, (place, fault)


def test_a_turned_face_is_as_symmetric_as_an_upright_one() -> None:
    """Upside down, too: which side is right is told by the picture, within a quarter turn."""
    half = np.random.default_rng(2).uniform(0, 1, (98, 2))
    points = half.copy()
    index = WFLW98.mirror_index
    points[:, 0] = (half[:, 0] - half[index, 0]) / 2
    points[:, 1] = (half[:, 1] + half[index, 1]) / 2
    for angle in (0.0, 0.7, 1.4, 2.0, 3.0, -2.2):
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        assert asymmetry(50 * points @ turn.T + 7, WFLW98) < 1e-9


def test_a_crop_matrix_takes_the_middle_to_the_middle() -> None:
    square = crop_box("box", box=(10.0, 20.0, 49.0, 59.0), scale=1.0)
    matrix = crop_matrix(square, 64)
    np.testing.assert_allclose(matrix @ (square.cx, square.cy, 1.0), (31.5, 31.5))
