"""Synthetic faces: the same by seed, labelled exactly, and labelled for what is really painted there."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import cv2
import numpy as np
import pytest

from ldeq.data.errors import DataError
from ldeq.data.layouts import WFLW98
from ldeq.data.sources import open_faces
from ldeq.data.synthetic import DIFFICULTIES, SyntheticFaces, render_face
from ldeq.data.wflw import WFLW_ATTRIBUTES

SIZE = 128
COUNT = 60


@lru_cache(maxsize=1)
def drawn() -> tuple[SyntheticFaces, list[tuple[np.ndarray, np.ndarray]]]:
    faces = SyntheticFaces(COUNT, seed=11, size=SIZE)
    return faces, [faces.render(i) for i in range(COUNT)]


def level(image: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Bilinear RGB at points (N, 2)."""
    at = at.astype(np.float32).reshape(-1, 1, 2)
    return cv2.remap(image.astype(np.float32), at[..., 0], at[..., 1], cv2.INTER_LINEAR)[:, 0]


def test_same_seed_and_index_give_the_same_face_in_any_order() -> None:
    faces, known = drawn()
    again = SyntheticFaces(7, seed=11, size=SIZE)  # a shorter set holds the same first faces
    for i in (5, 0, 3):
        image, points = again.render(i)
        assert np.array_equal(image, known[i][0]) and np.array_equal(points, known[i][1])
        assert np.array_equal(again.read(i), image)
    assert np.array_equal(faces.read(-1), known[-1][0])


def test_other_index_and_other_seed_give_other_faces() -> None:
    _, known = drawn()
    assert not np.array_equal(known[0][0], known[1][0]) and not np.allclose(known[0][1], known[1][1])
    other = SyntheticFaces(1, seed=12, size=SIZE).render(0)
    assert not np.array_equal(other[0], known[0][0]) and not np.allclose(other[1], known[0][1])


def test_global_random_state_is_neither_used_nor_touched() -> None:
    np.random.seed(0)
    cv2.setRNGSeed(1)
    before = np.random.get_state(legacy=False)["state"]["key"].copy()
    first = SyntheticFaces(1, size=64).read(0)
    assert np.array_equal(before, np.random.get_state(legacy=False)["state"]["key"])
    np.random.seed(5)
    cv2.setRNGSeed(77)
    assert np.array_equal(first, SyntheticFaces(1, size=64).read(0))


def test_record_gives_the_points_of_the_image() -> None:
    faces, known = drawn()
    assert len(faces) == COUNT and faces.layout is WFLW98 and faces.name
    for i in range(0, COUNT, 7):
        record = faces.record(i)
        points = known[i][1]
        assert np.array_equal(record.points, points) and points.shape == (98, 2) and points.dtype == np.float32
        assert record.image is None and not record.precropped
        assert record.rect == pytest.approx([*points.min(0), *points.max(0)])
        assert tuple(record.attributes) == WFLW_ATTRIBUTES


def test_marks_are_neither_always_nor_never_set() -> None:
    faces = SyntheticFaces(400, seed=2, size=64)
    marks = np.array([faces.parameters(i).attributes() for i in range(400)])
    assert ((marks.mean(0) > 0.01) & (marks.mean(0) < 0.5)).all()


def test_points_lie_in_the_image_and_the_right_way_round() -> None:
    faces, known = drawn()
    points = np.stack([p for _, p in known])
    assert np.isfinite(points).all()
    assert ((points >= 0) & (points <= SIZE - 1)).all(-1).mean() > 0.99
    for i, p in enumerate(points):
        pose = faces.parameters(i).pose
        if abs(pose.yaw) > 35 or abs(pose.roll) > 25:
            continue
        assert p[60, 0] < p[64, 0] < p[68, 0] < p[72, 0], "eye corners run from left to right"
        assert p[96, 0] < p[97, 0] and p[0, 0] < p[16, 0] < p[32, 0] and p[33, 0] < p[46, 0]
        assert p[76, 0] < p[82, 0] and p[55, 0] < p[59, 0]
        assert p[33:51, 1].mean() < p[60:76, 1].mean() < p[54, 1] < p[76:96, 1].mean() < p[16, 1]


def test_mirror_map_of_the_layout_fits_the_mean_shape() -> None:
    faces = SyntheticFaces(300, seed=3, size=64)
    mean = np.mean([faces.record(i).points for i in range(300)], 0)
    mirrored = mean[np.asarray(WFLW98.mirror)] * (-1, 1)
    mirrored += mean.mean(0) - mirrored.mean(0)
    assert np.abs(mirrored - mean).max() < 0.04 * np.linalg.norm(mean[60] - mean[72]) + 0.5


def test_pupils_are_darker_than_the_white_of_the_eye() -> None:
    faces, known = drawn()
    gaps = []
    for i, (image, p) in enumerate(known):
        q = faces.parameters(i)
        if q.dress.glasses == "sun" or q.dress.occluder != "none" or q.camera.blur > 0.006 or abs(q.pose.yaw) > 30:
            continue
        for pupil, first, blink in ((96, 60, q.expression.blink_left), (97, 68, q.expression.blink_right)):
            if blink > 0.4:
                continue
            corners = p[[first, first + 4]]
            white = level(image, corners * 0.8 + p[pupil] * 0.2).mean(1).max()
            ring = level(image, corners * 0.72 + p[pupil] * 0.28).mean(1).max()
            gaps.append(max(white, ring) - level(image, p[[pupil]]).mean())
    assert len(gaps) > 30
    assert np.mean(gaps) > 20 and np.mean(np.array(gaps) > 0) > 0.85


def test_lips_are_redder_inside_their_outline_than_outside() -> None:
    faces, known = drawn()
    gaps = []
    for i, (image, p) in enumerate(known):
        q = faces.parameters(i)
        if q.dress.occluder != "none" or q.skin.beard != "none" or q.camera.saturation < 0.5 or abs(q.pose.yaw) > 35:
            continue
        thick = p[85] - p[94]  # outer minus inner edge of the lower lip
        colour = level(image, np.stack([p[85] - 0.5 * thick, p[85] + 0.7 * thick]))
        redness = colour[:, 0] / np.maximum(colour.sum(1), 1)
        gaps.append(redness[0] - redness[1])
    assert len(gaps) > 10
    assert np.mean(gaps) > 0.02 and np.mean(np.array(gaps) > 0) > 0.8


@pytest.mark.parametrize("size", [32, 97, 256])
def test_size_is_kept_and_scales_the_points(size: int) -> None:
    image, points = render_face(np.random.default_rng(4), size)
    assert image.shape == (size, size, 3) and image.dtype == np.uint8 and image.flags.c_contiguous
    _, reference = render_face(np.random.default_rng(4), 192)
    # Index-based pixels: the centre of the image is (size - 1) / 2.
    assert np.allclose((points - (size - 1) / 2) / size, (reference - 191 / 2) / 192, atol=1e-3)


def test_every_difficulty_draws_and_grows_harder() -> None:
    spread = []
    for name in DIFFICULTIES:
        faces = SyntheticFaces(80, seed=6, size=48, difficulty=name)
        assert faces.read(0).std() > 5
        spread.append(np.mean([abs(faces.parameters(i).pose.yaw) for i in range(80)]))
    assert spread == sorted(spread)


def test_faces_are_not_flat() -> None:
    _, known = drawn()
    assert np.mean([image.std() for image, _ in known]) > 25


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"count": 0}, "at least 1"),
        ({"count": 3, "size": 31}, "at least 32"),
        ({"count": 3, "seed": -1}, "negative"),
        ({"count": 3, "difficulty": "nightmare"}, "easy, normal, hard"),
    ],
)
def test_bad_arguments_are_refused_with_a_sentence(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        SyntheticFaces(**arguments)


def test_bad_size_and_index_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 32"):
        render_face(np.random.default_rng(0), 16)
    with pytest.raises(IndexError, match="set of 2"):
        SyntheticFaces(2).record(2)


def test_faces_for_testing_are_not_those_of_training() -> None:
    train, test, again = (open_faces("synthetic:3#size=64", split) for split in ("train", "test", "test"))
    assert not np.array_equal(train.record(0).points, test.record(0).points)
    np.testing.assert_array_equal(test.record(0).points, again.record(0).points)
    other = open_faces("synthetic:3#size=64,seed=1", "train")
    assert not np.array_equal(train.record(0).points, other.record(0).points)


@pytest.mark.parametrize("difficulty", ["easy", "normal", "hard"])
def test_a_source_says_how_difficult_its_faces_are(difficulty: str) -> None:
    found, expected = open_faces(f"synthetic:2#size=48,difficulty={difficulty}"), SyntheticFaces(2, 0, 48, difficulty)
    assert found.name == expected.name
    np.testing.assert_array_equal(found.read(1), expected.read(1))


def test_an_unknown_difficulty_of_a_source_is_refused() -> None:
    with pytest.raises(DataError, match=r"synthetic:2#difficulty=brutal.*easy, normal"):
        open_faces("synthetic:2#difficulty=brutal")
