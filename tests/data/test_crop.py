from __future__ import annotations

import cv2
import numpy as np
import pytest

from ldeq.data import SquareBox, compose, crop_box, crop_matrix, invert, transform_points, warp


def brightest(image: np.ndarray) -> np.ndarray:
    """Centre of mass of a picture that is black but for one spot, as an index (x, y)."""
    grey = image.astype(np.float64)
    grey = grey.mean(2) if grey.ndim == 3 else grey
    ys, xs = np.mgrid[: grey.shape[0], : grey.shape[1]]
    return np.array([(grey * xs).sum(), (grey * ys).sum()]) / grey.sum()


def test_hih_rule_against_hand_computation() -> None:
    # x: 10.9 -> 10 .. 200.2 -> 200, so w = 191; y: 15.5 -> 15 .. 115.7 -> 115, so h = 101.
    # side = int(191 * 1.2) = int(229.2) = 229; centre = (int(10 + 95.5), int(15 + 50.5)) = (105, 65);
    # first pixel = centre - 114 = (-9, -49).
    points = np.array([[10.9, 20.0], [110.0, 115.7], [50.0, 60.0]])
    box = crop_box("hih", points=points, rect=(40.0, 15.5, 200.2, 100.0))
    assert box == SquareBox(-9.0, -49.0, 229.0)


def test_hih_rule_needs_the_rectangle() -> None:
    with pytest.raises(ValueError, match="crop rule 'hih' needs a rectangle"):
        crop_box("hih", points=np.zeros((98, 2)))


@pytest.mark.parametrize(
    ("rule", "given"),
    [
        ("landmarks", {"points": np.array([[10.25, 30.0], [110.25, 90.0]])}),
        ("rect", {"rect": (10.25, 30.0, 110.25, 90.0)}),
        ("box", {"box": [10.25, 30.0, 110.25, 90.0]}),
    ],
)
def test_float_rules_are_square_about_the_centre(rule: str, given: dict) -> None:
    box = crop_box(rule, scale=1.2, **given)
    assert box.side == pytest.approx(120.0)
    assert (box.cx, box.cy) == (pytest.approx(60.25), pytest.approx(60.0))


def test_errors_say_what_to_do() -> None:
    with pytest.raises(ValueError, match="unknown crop rule 'tight': choose one of 'hih', 'landmarks', 'rect', 'box'"):
        crop_box("tight")
    with pytest.raises(ValueError, match="needs landmarks: pass points="):
        crop_box("landmarks")
    with pytest.raises(ValueError, match="positive side"):
        crop_box("landmarks", points=np.ones((98, 2)))
    with pytest.raises(ValueError, match="x1 <= x2"):
        crop_box("box", box=(10, 10, 5, 20))
    with pytest.raises(ValueError, match="finite"):
        crop_box("box", box=(10, 10, float("nan"), 20))


def test_matrix_follows_the_resize_convention() -> None:
    # Outer edges of the square (index -0.5 from its first pixel) meet the outer edges of the crop.
    matrix = crop_matrix(SquareBox(20.0, 30.0, 50.0), 256)
    np.testing.assert_allclose(transform_points(matrix, np.array([[19.5, 29.5], [69.5, 79.5]])),
                               [[-0.5, -0.5], [255.5, 255.5]], atol=1e-9)  # fmt: skip


def test_crop_equals_resize_of_the_slice() -> None:
    image = np.random.default_rng(0).integers(0, 256, (90, 100, 3), dtype=np.uint8)
    image = np.asarray(cv2.GaussianBlur(image, (0, 0), 2), np.uint8)
    crop = warp(image, crop_matrix(SquareBox(20, 30, 40), 64), 64)
    expected = cv2.resize(image[30:70, 20:60], (64, 64), interpolation=cv2.INTER_LINEAR)
    # At the rim, resize repeats the slice's border where the crop sees its neighbours.
    assert np.abs(crop[2:-2, 2:-2].astype(int) - expected[2:-2, 2:-2]).max() <= 1


def test_outside_is_black() -> None:
    crop = warp(np.full((40, 40, 3), 200, np.uint8), crop_matrix(SquareBox(-20, -20, 80), 80), 80)
    assert crop[:19].max() == 0
    assert crop[:, 61:].max() == 0
    assert crop[21:59, 21:59].min() == 200


@pytest.mark.parametrize("side", [30.0, 97.3, 150.0])
def test_points_round_trip(side: float) -> None:
    matrix = crop_matrix(SquareBox(-7.3, 12.9, side), 128)
    turn = np.array([[0.8, -0.6, 5.0], [0.6, 0.8, -9.0]])
    matrix = compose(turn, matrix)
    points = np.random.default_rng(0).uniform(-50, 400, (98, 2))
    back = transform_points(invert(matrix), transform_points(matrix, points))
    np.testing.assert_allclose(back, points, atol=1e-9)
    assert transform_points(matrix, points.astype(np.float32)).dtype == np.float32


def test_singular_matrix_is_refused() -> None:
    with pytest.raises(ValueError, match="cannot be inverted"):
        invert(np.zeros((2, 3)))


@pytest.mark.parametrize("side", [40.0, 120.0, 333.3, 777.0, 1500.0])
@pytest.mark.parametrize("degrees", [0, 33])
def test_labels_move_with_pixels(side: float, degrees: float) -> None:
    # A spot as wide as a crop pixel, so that it is seen at every scale; 1500 / 64 shrinks 23-fold.
    radius = max(1.5, 1.5 * side / 64)
    image = np.zeros((900, 1000), np.uint8)
    centre = np.array([431.0, 402.0])
    ys, xs = np.mgrid[:900, :1000]
    image = (255 * np.exp(-((xs - centre[0]) ** 2 + (ys - centre[1]) ** 2) / (2 * radius**2))).astype(np.uint8)
    matrix = crop_matrix(SquareBox.about(centre[0] + 0.13 * side, centre[1] - 0.21 * side, side), 64)
    angle = np.deg2rad(degrees)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    matrix = compose(np.hstack([turn, (31.5 - turn @ np.full(2, 31.5))[:, None]]), matrix)
    crop = warp(image, matrix, 64)
    np.testing.assert_allclose(brightest(crop), transform_points(matrix, centre), atol=0.1)


def test_strong_shrinking_does_not_alias() -> None:
    # A one-pixel chessboard has a mean of 127.5 everywhere; point sampling would give stripes of 0 and 255.
    board = ((np.indices((1024, 1024)).sum(0) % 2) * 255).astype(np.uint8)
    crop = warp(np.dstack([board] * 3), crop_matrix(SquareBox(3.3, 5.1, 900.0), 64), 64)
    assert np.abs(crop.astype(int) - 127).max() <= 2


def test_region_without_image_is_black() -> None:
    crop = warp(np.full((50, 50, 3), 255, np.uint8), crop_matrix(SquareBox(5000, 5000, 400), 64), 64)
    assert crop.shape == (64, 64, 3)
    assert crop.max() == 0
