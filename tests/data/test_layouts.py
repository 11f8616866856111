from __future__ import annotations

import pickle

import numpy as np
import pytest

from ldeq.data import IBUG68, LAYOUTS, WFLW98, Layout, get_layout

# As published, written out in full and apart from the code that builds the map.
WFLW_MIRROR = """
32 31 30 29 28 27 26 25 24 23 22 21 20 19 18 17 16 15 14 13 12 11 10 9 8 7 6 5 4 3 2 1 0
46 45 44 43 42 50 49 48 47 37 36 35 34 33 41 40 39 38 51 52 53 54 59 58 57 56 55
72 71 70 69 68 75 74 73 64 63 62 61 60 67 66 65 82 81 80 79 78 77 76 87 86 85 84 83
92 91 90 89 88 95 94 93 97 96
"""
IBUG_MIRROR = """
16 15 14 13 12 11 10 9 8 7 6 5 4 3 2 1 0  26 25 24 23 22 21 20 19 18 17  27 28 29 30  35 34 33 32 31
45 44 43 42 47 46  39 38 37 36 41 40  54 53 52 51 50 49 48 59 58 57 56 55  64 63 62 61 60 67 66 65
"""


@pytest.mark.parametrize(("layout", "text"), [(WFLW98, WFLW_MIRROR), (IBUG68, IBUG_MIRROR)])
def test_mirror_map_is_the_published_one(layout: Layout, text: str) -> None:
    assert layout.mirror == tuple(map(int, text.split()))


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=lambda layout: layout.name)
def test_mirror_is_an_involution_on_labels(layout: Layout) -> None:
    index = layout.mirror_index
    np.testing.assert_array_equal(index[index], np.arange(layout.count))
    points = np.random.default_rng(0).uniform(-20, 300, (3, layout.count, 2))
    np.testing.assert_allclose(layout.mirror_points(layout.mirror_points(points, 256), 256), points, atol=1e-12)


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=lambda layout: layout.name)
def test_mirror_exchanges_left_and_right_parts(layout: Layout) -> None:
    for name, part in layout.parts.items():
        other = name.replace("left", "RIGHT").replace("right", "left").replace("RIGHT", "right")
        assert {layout.mirror[i] for i in part.indices} == set(layout.parts[other].indices)
    left, right = layout.outer_eyes
    assert layout.mirror[left] == right


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=lambda layout: layout.name)
def test_parts_cover_each_landmark_once(layout: Layout) -> None:
    assert sorted(i for part in layout.parts.values() for i in part.indices) == list(range(layout.count))


def test_outer_eyes() -> None:
    assert WFLW98.outer_eyes == (60, 72)
    assert IBUG68.outer_eyes == (36, 45)
    points = np.zeros((98, 2))
    points[72] = 3, 4
    assert WFLW98.inter_ocular(points) == 5


def test_mirror_counts_pixels_by_index() -> None:
    points = np.zeros((68, 2), dtype=np.float32)
    mirrored = IBUG68.mirror_points(points, 100)
    assert mirrored.dtype == np.float32
    assert (mirrored[:, 0] == 99).all()


def test_get_layout() -> None:
    assert get_layout(98) is get_layout("wflw-98") is get_layout("98") is get_layout(WFLW98) is WFLW98
    assert get_layout(68) is IBUG68
    with pytest.raises(ValueError, match=r"unknown landmark layout 29: choose one of 'wflw-98' \(98\), 'ibug-68'"):
        get_layout(29)


def test_points_of_another_number_have_no_mirror_image() -> None:
    for shape in ((97, 2), (98, 3), (98,)):
        with pytest.raises(ValueError, match=r"needs points of shape \(\.\.\., 98, 2\), not"):
            WFLW98.mirror_points(np.zeros(shape), 100)


def test_layout_survives_pickling() -> None:
    assert pickle.loads(pickle.dumps(WFLW98)) == WFLW98


def test_bad_mirror_is_refused() -> None:
    with pytest.raises(ValueError, match="applied twice"):
        Layout("three", 3, (1, 2, 0), (0, 1), {})
    with pytest.raises(ValueError, match="'three' has 3 landmarks but a mirror map of 2"):
        Layout("three", 3, (1, 0), (0, 1), {})
    with pytest.raises(ValueError, match="'three' has 3 landmarks but 2 names"):
        Layout("three", 3, (1, 0, 2), (0, 1), {}, names=("a", "b"))
    with pytest.raises(ValueError, match=r"'three' names a landmark outside 0\.\.2"):
        Layout("three", 3, (1, 0, 2), (0, 3), {})


def test_closed_parts_are_eyes_lips_and_the_brows_that_go_round() -> None:
    round_ = {"left_eye", "right_eye", "outer_lip", "inner_lip"}
    for layout, more in ((IBUG68, set()), (WFLW98, {"left_brow", "right_brow"})):
        assert {name for name, part in layout.parts.items() if part.closed} == round_ | more
