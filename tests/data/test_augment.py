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
    with pytest.raises(ValueError, match=r"unknown augmentation 'storng' \(did you mean strong\?\): choose one of"):
        Augmentation.preset("storng")


# Each step of the colours by itself: what it does to pixels is compared with its formula.

RAMP = np.arange(256, dtype=np.uint8)[None, :, None].repeat(256, 0).repeat(3, 2)
"""Every grey level in every row, `(256, 256, 3)`."""

PALETTE = np.random.default_rng(7).integers(20, 236, (64, 64, 3), dtype=np.uint8)


def drawn_by(seed: int, **options: float) -> tuple[np.ndarray, np.ndarray]:
    """The grey ramp and the palette under one variation."""
    sample = Augmentation(**options).sample(np.random.default_rng(seed), 256)
    return sample.photometric(RAMP), sample.photometric(PALETTE)


def test_gamma_bends_the_levels_and_leaves_black_and_white() -> None:
    exponents = []
    for seed in range(40):
        ramp, _ = drawn_by(seed, gamma=0.5, jitter_p=1)
        levels = ramp[0, :, 0].astype(float) / 255
        assert (levels[0], levels[255]) == (0, 1)
        exponent = np.log(levels[128]) / np.log(128 / 255)
        np.testing.assert_allclose(levels, (np.arange(256) / 255) ** exponent, atol=0.01)
        exponents.append(exponent)
    assert 1 / 1.5 - 0.02 < min(exponents) < 0.75
    assert 1.35 < max(exponents) < 1.5 + 0.02
    # Log-uniform: half of the exponents lie below 1.
    assert np.mean(np.array(exponents) < 1) == pytest.approx(0.5, abs=0.2)


def test_brightness_adds_the_same_to_every_level() -> None:
    offsets = [
        drawn_by(seed, brightness=0.2, jitter_p=1)[0][0, 100:150, 0].astype(int) - RAMP[0, 100:150, 0] for seed in range(40)
    ]
    assert all(np.ptp(offset) <= 1 for offset in offsets)
    means = [offset.mean() for offset in offsets]
    assert -0.2 * 255 - 1 <= min(means) < -30
    assert 30 < max(means) <= 0.2 * 255 + 1


def test_contrast_stretches_about_mid_grey() -> None:
    slopes = []
    for seed in range(40):
        levels = drawn_by(seed, contrast=0.4, jitter_p=1)[0][0, 100:156, 0].astype(float)
        slope = (levels[-1] - levels[0]) / 55
        np.testing.assert_allclose(levels, 127.5 + slope * (np.arange(100, 156) - 127.5), atol=1.1)
        slopes.append(slope)
    assert 0.6 - 0.05 < min(slopes) < 0.75
    assert 1.25 < max(slopes) < 1.4 + 0.05


def test_colour_scales_each_channel_by_a_factor_of_its_own() -> None:
    gains = np.array([drawn_by(seed, colour=0.3, jitter_p=1)[0][0, 150].astype(float) / 150 for seed in range(40)])
    assert 0.7 - 0.01 < gains.min() < 0.8
    assert 1.2 < gains.max() < 1.3 + 0.01
    assert np.median(np.ptp(gains, axis=1)) > 0.1  # the three channels differ


def test_saturation_moves_colours_along_the_line_to_their_grey() -> None:
    factors = []
    grey = PALETTE.astype(float) @ [0.299, 0.587, 0.114]
    for seed in range(40):
        result = drawn_by(seed, saturation=0.5, jitter_p=1)[1].astype(float)
        inside = (result > 0) & (result < 255)
        offset = PALETTE - grey[..., None]
        factor = ((result - grey[..., None]) * offset)[inside].sum() / (offset**2)[inside].sum()
        np.testing.assert_allclose(result[inside], (grey[..., None] + factor * offset)[inside], atol=1.1)
        factors.append(factor)
    assert 0.5 - 0.02 < min(factors) < 0.7
    assert 1.3 < max(factors) < 1.5 + 0.02
    np.testing.assert_array_equal(drawn_by(0, saturation=0.5, jitter_p=1)[0], RAMP)  # grey has no colour to change


def test_blur_smooths_by_the_drawn_deviation() -> None:
    image = np.zeros((256, 256, 3), np.uint8)
    image[:, 128:] = 200
    sample = Augmentation(blur=5, blur_p=1).sample(np.random.default_rng(1), 256)
    assert 1 < sample.blur < 5
    edge = sample.photometric(image)[128, :, 0].astype(float) / 200
    slope = np.diff(edge)
    centre = (slope * np.arange(255)).sum()
    assert np.sqrt((slope * (np.arange(255) - centre) ** 2).sum()) == pytest.approx(sample.blur, rel=0.05)


def test_occlusion_covers_one_rectangle_with_one_colour() -> None:
    covered = []
    for seed in range(30):
        sample = Augmentation(occlusion=0.4, occlusion_p=1).sample(np.random.default_rng(seed), 64)
        assert sample.occluder is not None
        x1, y1, x2, y2 = sample.occluder
        result = sample.photometric(PALETTE)
        assert (result[y1:y2, x1:x2] == sample.occluder_colour).all()
        rest = np.ones((64, 64), bool)
        rest[y1:y2, x1:x2] = False
        np.testing.assert_array_equal(result[rest], PALETTE[rest])
        covered.append((~rest).mean())
    assert max(covered) > 0.05
    assert max(covered) <= 0.4**2 + 0.02


def test_turn_size_and_shift_lie_where_their_limits_say() -> None:
    options = {"rotation": 30, "rotation_p": 1, "scale": 0.1, "scale_p": 1, "shift": 0.1, "shift_p": 1}
    matrices = [Augmentation(**options).sample(np.random.default_rng(s), 100).matrix for s in range(300)]
    angles = np.degrees([np.arctan2(m[1, 0], m[0, 0]) for m in matrices])
    sizes = np.array([np.hypot(m[0, 0], m[1, 0]) for m in matrices])
    moves = np.array([m @ [49.5, 49.5, 1] - 49.5 for m in matrices])
    assert -30 <= angles.min() < -25 and 25 < angles.max() <= 30
    assert sizes.std() == pytest.approx(0.1, rel=0.15)
    assert sizes.mean() == pytest.approx(1, abs=0.02)
    assert sizes.min() >= 0.75 - 1e-9 and sizes.max() <= 1.25 + 1e-9
    assert np.abs(moves).max(0) == pytest.approx([10, 10], abs=0.5)


def test_the_jitter_and_the_grey_come_as_often_as_they_say() -> None:
    augmentation = Augmentation(gamma=0.5, jitter_p=0.3, gray_p=0.2, noise=0.1, noise_p=0.4)
    drawn = [augmentation.sample(np.random.default_rng(s), 32) for s in range(1500)]
    assert np.mean([d.lut is not None for d in drawn]) == pytest.approx(0.3, abs=0.04)
    assert np.mean([d.saturation == 0 for d in drawn]) == pytest.approx(0.2, abs=0.04)
    assert np.mean([d.noise > 0 for d in drawn]) == pytest.approx(0.4, abs=0.04)
    assert max(d.noise for d in drawn) == pytest.approx(25.5, rel=0.03)
