from __future__ import annotations

import dataclasses

import cv2
import numpy as np
import pytest

from ldeq.data import IBUG68, WFLW98, Augmentation, SquareBox, compose, crop_matrix, transform_points, warp

GEOMETRY = Augmentation(shift=0.1, shift_p=1, rotation=40, rotation_p=1, scale=0.1, scale_p=1, flip_p=0.5)


def test_flip_twice_is_the_identity_on_pixels_and_labels() -> None:
    flip = Augmentation(flip_p=1).sample(np.random.default_rng(0), 65)
    image = np.random.default_rng(1).integers(0, 256, (65, 65, 3), dtype=np.uint8)
    points = np.random.default_rng(2).uniform(-5, 70, (98, 2))
    once = warp(image, flip.matrix, 65)
    np.testing.assert_array_equal(once, image[:, ::-1])
    np.testing.assert_array_equal(warp(once, flip.matrix, 65), image)
    moved = flip.points(points, WFLW98)
    np.testing.assert_allclose(moved, WFLW98.mirror_points(points, 65))
    np.testing.assert_allclose(flip.points(moved, WFLW98), points, atol=1e-12)


@pytest.mark.parametrize("seed", range(12))
def test_labels_move_with_pixels(seed: int) -> None:
    rng = np.random.default_rng(seed)
    drawn = GEOMETRY.sample(rng, 128)
    points = rng.uniform(115, 185, (68, 2))
    to_crop = crop_matrix(SquareBox(60.3, 55.8, 180.0), 128)
    matrix = compose(drawn.matrix, to_crop)
    labels = drawn.points(transform_points(to_crop, points), IBUG68)
    for i in (8, 36, 45, 48, 57):
        image = np.zeros((300, 300, 3), np.uint8)
        cv2.circle(image, np.rint(points[i] * 16).astype(int).tolist(), 2 * 16, (255,) * 3, -1, cv2.LINE_AA, 4)
        crop = warp(image, matrix, 128)[..., 0].astype(np.float64)
        ys, xs = np.mgrid[:128, :128]
        found = np.array([(crop * xs).sum(), (crop * ys).sum()]) / crop.sum()
        # After a mirror, the spot drawn at landmark i carries the name of its partner.
        name = IBUG68.mirror[i] if drawn.flip else i
        assert np.linalg.norm(found - labels[name]) < 0.6


def test_both_outcomes_of_the_flip_occur_above() -> None:
    assert {GEOMETRY.sample(np.random.default_rng(seed), 128).flip for seed in range(12)} == {True, False}


@pytest.mark.parametrize("preset", ["none", "light", "paper", "strong"])
def test_a_sample_is_a_function_of_the_generator(preset: str) -> None:
    augmentation = Augmentation.preset(preset)
    image = np.random.default_rng(0).integers(0, 256, (96, 96, 3), dtype=np.uint8)
    kept = image.copy()
    for seed in range(20):
        a, b = (augmentation.sample(np.random.default_rng(seed), 96) for _ in range(2))
        np.testing.assert_array_equal(a.matrix, b.matrix)
        result = a.photometric(image)
        np.testing.assert_array_equal(result, b.photometric(image))
        assert result.shape == image.shape
        assert result.dtype == np.uint8
    np.testing.assert_array_equal(image, kept)


def test_none_changes_nothing() -> None:
    drawn = Augmentation.none().sample(np.random.default_rng(0), 64)
    np.testing.assert_allclose(drawn.matrix, [[1, 0, 0], [0, 1, 0]], atol=1e-12)
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    np.testing.assert_array_equal(drawn.photometric(image), image)


def test_paper_has_the_published_values() -> None:
    paper = Augmentation.paper()
    assert paper.shift * 256 == 30
    assert (paper.shift_p, paper.flip_p, paper.rotation, paper.rotation_p) == (0.5, 0.5, 30, 0.5)
    assert (paper.blur, paper.blur_p, paper.occlusion, paper.occlusion_p) == (5, 0.3, 0.4, 0.5)


def test_probabilities_and_limits_hold() -> None:
    drawn = [Augmentation.paper().sample(np.random.default_rng(seed), 256) for seed in range(2000)]
    assert np.mean([d.flip for d in drawn]) == pytest.approx(0.5, abs=0.04)
    assert np.mean([d.blur > 0 for d in drawn]) == pytest.approx(0.3, abs=0.04)
    assert np.mean([d.occluder is not None for d in drawn]) == pytest.approx(0.5, abs=0.04)
    assert max(d.blur for d in drawn) <= 5
    sides = [max(d.occluder[2] - d.occluder[0], d.occluder[3] - d.occluder[1]) for d in drawn if d.occluder]
    assert 95 < max(sides) <= round(0.4 * 256)
    centre = np.array([127.5, 127.5])
    moves = [np.abs(transform_points(d.matrix, centre) - centre).max() for d in drawn]
    assert 29 < max(moves) <= 30 + 1e-9


def test_blur_follows_the_crop_size() -> None:
    large, small = (Augmentation(blur=5, blur_p=1).sample(np.random.default_rng(3), size).blur for size in (256, 128))
    assert small == pytest.approx(large / 2)


def test_gray_makes_channels_equal() -> None:
    image = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    gray = Augmentation(gray_p=1).sample(np.random.default_rng(0), 32).photometric(image)
    np.testing.assert_array_equal(gray[..., 0], gray[..., 2])


def test_noise_has_the_drawn_deviation() -> None:
    drawn = dataclasses.replace(Augmentation(noise=0.1, noise_p=1).sample(np.random.default_rng(0), 128), noise=12.0)
    noisy = drawn.photometric(np.full((128, 128, 3), 128, np.uint8)).astype(np.float64)
    assert noisy.std() == pytest.approx(12.0, rel=0.03)
    assert noisy.mean() == pytest.approx(128.0, abs=0.3)


@pytest.mark.parametrize("augmentation", [GEOMETRY, Augmentation.strong()])
def test_reach_bounds_what_a_sample_reads(augmentation: Augmentation) -> None:
    corners = np.array([[-0.5, -0.5], [63.5, -0.5], [-0.5, 63.5], [63.5, 63.5]])
    for seed in range(500):
        matrix = augmentation.sample(np.random.default_rng(seed), 64).matrix
        source = (corners - matrix[:, 2]) @ np.linalg.inv(matrix[:, :2]).T
        assert np.abs(source - 31.5).max() <= augmentation.reach * 32 + 1e-9


def test_bad_values_are_refused() -> None:
    with pytest.raises(ValueError, match="flip_p is a probability"):
        Augmentation(flip_p=1.5)
    with pytest.raises(ValueError, match="unknown augmentation 'storng': choose one of"):
        Augmentation.preset("storng")
