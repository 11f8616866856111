"""Where judgements of labels turn over: exact values, both sides of each, and the words that are said."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from ldeq.data import IBUG68, WFLW98, DataError, FaceRecord, FaceSet, check, open_faces, write_image
from ldeq.data.check import exchanged
from ldeq.data.clips.clip import usable
from ldeq.data.coco import CocoAnnotation, _points, _rect
from ldeq.data.layout_files import LayoutDocument
from ldeq.data.mistakes import exchanged_axes, first_pixel, labels_of_another_size
from ldeq.data.sources import _with_axis
from ldeq.data.wflw_v import load_wflw_v

FACE = Path(__file__).parent / "golden" / "points.json"


def face() -> np.ndarray:
    return np.array(json.loads(FACE.read_text()))


def flat(mouth: tuple[float, float]) -> np.ndarray:
    """Eyes at (10, 20) and (30, 20), all of the mouth at one place."""
    points = np.full((68, 2), 20.0)
    points[36], points[45] = (10.0, 20.0), (30.0, 20.0)
    points[list(IBUG68.parts["outer_lip"].indices)] = mouth
    return points


def test_sides_are_exchanged_if_the_mouth_does_not_lie_clockwise_of_the_eyes() -> None:
    assert not exchanged(flat((20.0, 20.1)), IBUG68)
    assert exchanged(flat((20.0, 19.9)), IBUG68)
    assert exchanged(flat((25.0, 20.0)), IBUG68)  # on the line of the eyes there is no telling
    # Far to one side, and rolled by a quarter turn, the line of the eyes and not the picture's decides.
    assert not exchanged(flat((400.0, 20.1)), IBUG68)
    turn = np.array([[0.0, -1.0], [1.0, 0.0]])
    assert not exchanged(flat((20.0, 24.0)) @ turn.T, IBUG68)
    assert exchanged(flat((20.0, 16.0)) @ turn.T, IBUG68)
    # The middle of the eyes counts, not their sum: a mouth just below it.
    assert not exchanged(flat((20.0, 20.1)) + 500.0, IBUG68)
    assert not exchanged(flat((20.0, 19.9)), dataclasses.replace(IBUG68, parts={}))


def test_a_landmark_is_outside_half_a_pixel_beyond_the_last_one(tmp_path: Path) -> None:
    points = face().astype(np.float32)
    write_image(tmp_path / "a.png", np.full((260, 270, 3), 90, np.uint8))
    for place, outside in (
        ((-0.5, 100.0), 0), ((-0.51, 100.0), 1), ((269.49, 100.0), 0), ((269.5, 100.0), 1), ((100.0, -0.5), 0),
        ((100.0, -0.51), 1), ((100.0, 259.49), 0), ((100.0, 259.5), 1),
    ):  # fmt: skip
        points[5] = place
        report = check(FaceSet("one", WFLW98, [FaceRecord(tmp_path / "a.png", points.copy())]))
        assert (report.outside_faces, report.outside_points) == (outside, outside), place
    assert report.picture_side == (260, 270)


def test_a_report_lists_ten_of_a_kind_and_counts_the_rest(tmp_path: Path) -> None:
    write_image(tmp_path / "a.png", np.full((260, 260, 3), 90, np.uint8))
    for count, more in ((10, None), (11, "    and 1 more"), (14, "    and 4 more")):
        gone = [FaceRecord(tmp_path / f"gone{i}.png", face().astype(np.float32)) for i in range(count)]
        report = check(FaceSet("some", WFLW98, [FaceRecord(tmp_path / "a.png", face().astype(np.float32)), *gone]))
        lines = report.text().splitlines()
        place = lines.index(f"  unreadable       {count}")
        assert [line for line in lines[place + 1 : place + 11] if "gone" in line] == lines[place + 1 : place + 11]
        assert (lines[place + 11] == more) if more else not lines[place + 11].startswith("    ")
        assert "  left out         none" in lines
        extent = np.ptp(face(), axis=0)
        assert f"{np.sqrt(extent.prod()):.0f} / " in lines[1]


def test_a_photo_that_is_refused_for_a_clip_says_why() -> None:
    points = face().astype(np.float32)
    size = (256, 256)
    room = 0.1 * float(np.ptp(points, axis=0).max())
    assert usable(points, WFLW98, size, 0.0) is None
    bad = points.copy()
    bad[7] = np.nan
    assert usable(bad, WFLW98, size) == "landmark 7 is not finite in float32"
    low, high = points.min(0), points.max(0)
    fits = (int(np.ceil(high[1] + 1 + room)) + 60, int(np.ceil(high[0] + 1 + room)) + 60)
    inner = points - low + room + 0.01
    assert usable(inner.astype(np.float32), WFLW98, fits) is None
    for axis in (0, 1):
        moved = inner.copy()
        moved[:, axis] -= 0.05
        assert usable(moved.astype(np.float32), WFLW98, fits) == "the face touches the edge of the picture"
        last = np.array(fits[::-1]) - 1 - room
        moved = inner.copy()
        moved[:, axis] += last[axis] - moved[:, axis].max() - 0.01
        assert usable(moved.astype(np.float32), WFLW98, fits) is None
        moved[:, axis] += 0.05
        assert usable(moved.astype(np.float32), WFLW98, fits) == "the face touches the edge of the picture"


def test_a_keypoint_without_visibility_has_no_label_and_a_box_without_area_is_none() -> None:
    table = [v for i in range(68) for v in (float(i), 2.0 * i, 2.0)]
    table[5 * 3 + 2], table[6 * 3 + 2] = 0.0, 1.0
    found = _points(table, IBUG68, Path("a.png"))
    assert np.isnan(found[5]).all()
    assert found[6].tolist() == [6.0, 12.0] and np.isfinite(np.delete(found, 5, 0)).all()

    def rect(*bbox: float) -> tuple[float, float, float, float] | None:
        return _rect(CocoAnnotation(image_id=1, bbox=list(bbox)))

    assert rect(3, 4, 10, 20) == (3, 4, 13, 24)
    assert rect(3, 4, 0.5, 0.5) == (3, 4, 3.5, 4.5)
    assert rect(0, 0, 1, 1) == (0, 0, 1, 1)
    assert rect(3, 4, 0, 20) is None and rect(3, 4, 10, 0) is None and rect(3, 4, 10, -1) is None


def test_a_layout_may_have_two_landmarks() -> None:
    document = {"name": "two", "mirror": [["a", "b"]], "normaliser": ["a", "b"]}
    assert LayoutDocument.model_validate({**document, "landmarks": ["a", "b"]}).layout().count == 2
    with pytest.raises(ValueError, match="2 to .* landmarks expected, 1 found"):
        LayoutDocument.model_validate({**document, "landmarks": ["a"]})


def test_an_offset_of_labels_is_taken_to_a_twentieth_of_the_face() -> None:
    faces = FaceSet("none", WFLW98, [])
    for text, value in (("0.05", 0.05), ("-0.05", -0.05), ("0", 0.0), ("0.01", 0.01)):
        assert _with_axis(faces, "csv:x", {"axis": text}).axis == value
    for text in ("0.0501", "-0.0501", "nan", "inf", "right"):
        with pytest.raises(DataError, match="from -0.05 to 0.05, not"):
            _with_axis(faces, "csv:x", {"axis": text})
    assert _with_axis(faces, "csv:x", {}) is faces


def test_synthetic_faces_of_a_test_split_are_others_and_their_numbers_are_bounded() -> None:
    train, test = open_faces("synthetic:2#seed=3,size=40", "train"), open_faces("synthetic:2#seed=3,size=40", "test")
    assert "seed 3," in train.name and f"seed {3 + 1_000_003}," in test.name
    assert len(open_faces("synthetic:1")) == 1 and len(open_faces("synthetic:100000000")) == 10**8
    for spec in ("synthetic:0", "synthetic:100000001"):
        with pytest.raises(DataError, match="must be at least 1 and at most 100000000"):
            open_faces(spec)
    assert open_faces("synthetic:1#size=4096").name
    with pytest.raises(DataError, match="must be at most 4096 pixels"):
        open_faces("synthetic:1#size=4097")


def upright(count: int = 10) -> np.ndarray:
    return np.repeat(face()[None], count, 0)


def test_axes_are_exchanged_where_four_fifths_of_the_faces_lie_on_their_side() -> None:
    lying = upright()[..., ::-1].copy()
    assert exchanged_axes(upright(), WFLW98) == []
    assert exchanged_axes(lying, WFLW98)[0].startswith("in 10 of 10 faces the mirror pairs stand above one another")
    for on_their_side, told in ((7, False), (8, True)):
        some = np.concatenate([lying[:on_their_side], upright(10 - on_their_side)])
        assert bool(exchanged_axes(some, WFLW98)) == told
    # At 45 degrees there is no telling, and nothing is said.
    diagonal = np.zeros((10, 98, 2))
    diagonal[:] = np.arange(98)[None, :, None]
    assert exchanged_axes(diagonal, WFLW98) == []


def test_labels_outside_or_in_a_corner_ask_for_the_pictures_size() -> None:
    points, sizes = upright(20), np.full((20, 2), 256)
    assert labels_of_another_size(points, sizes) == []
    for outside, told in ((5, False), (6, True)):
        some = points.copy()
        some[:outside] += 4000.0
        found = labels_of_another_size(some, sizes)
        assert bool(found) == told
        if told:
            assert found[0].startswith(f"in {outside} of 20 faces most landmarks lie outside the picture")
    last = points.max((0, 1))
    for factor, told in ((1 / 0.59, True), (1 / 0.61, False)):
        larger = np.tile(np.ceil(last[::-1] * factor).astype(int), (20, 1))
        assert bool(labels_of_another_size(points, larger)) == told
        assert labels_of_another_size(points[:19], larger[:19]) == []


def test_whole_numbers_that_count_from_one_ask_for_a_base() -> None:
    points, sizes = np.full((3, 98, 2), 7.0), np.full((3, 2), (60, 50))
    points[0, 0] = 1.0, 5.0
    assert first_pixel(points, sizes) == []
    for place in ((50.0, 9.0), (9.0, 60.0)):
        points[1, 1] = place
        assert "write base=1" in first_pixel(points, sizes)[0]
    points[2, 2] = 0.0, 3.0
    assert first_pixel(points, sizes) == []
    points[2, 2] = -1.0, 3.0
    assert "write base=0" in first_pixel(points, sizes)[0]
    points[2, 2] = -2.0, 3.0
    assert first_pixel(points, sizes) == []
    points[2, 2] = -1.0, 3.5
    assert first_pixel(points, sizes) == []


def video_folder(root: Path, points: np.ndarray, boxes: np.ndarray) -> Path:
    for folder in ("videos", "bboxes", "landmarks"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    (root / "videos" / "a.mp4").write_bytes(b"")
    np.save(root / "bboxes" / "a.npy", boxes, allow_pickle=True)
    np.save(root / "landmarks" / "a.npy", points)
    return root


def test_labels_of_a_video_are_refused_in_words_of_their_own(tmp_path: Path) -> None:
    points = np.repeat(face()[None], 3, 0)
    boxes = np.tile([10.0, 20.0, 200.0, 210.0], (3, 1))
    assert len(load_wflw_v(video_folder(tmp_path / "good", points, boxes), "all").records[0]) == 3
    wide = np.concatenate([boxes, np.full((3, 2), -5.0)], 1)
    assert load_wflw_v(video_folder(tmp_path / "wide", points, wide), "all").records[0].boxes.shape == (3, 4)
    flat_box, nan_box = boxes.copy(), boxes.copy()
    flat_box[1, 2] = flat_box[1, 0]
    nan_box[2, 3] = np.nan
    for number, (p, b, said) in enumerate(
        (
            (points, np.array(["a", "b", "c"]), "it is not an array of numbers"),
            (points, boxes[:2], "boxes of shape (3, 4) or wider expected, as there are 3 frames with landmarks; found (2, 4)"),
            (points, boxes[:, :3], "found (3, 3)"),
            (points[:, :97], boxes, "landmarks of shape (T, 68 or 98, 2) expected, found (3, 97, 2)"),
            (points[:0], boxes[:0], "landmarks of shape (T, 68 or 98, 2) expected, found (0, 98, 2)"),
            (points, flat_box, "box 1 is [10.0, 20.0, 10.0, 210.0]: finite x1 y1 x2 y2 with x1 < x2 and y1 < y2 expected"),
            (points, nan_box, "box 2 is [10.0, 20.0, 200.0, nan]: finite"),
        )
    ):
        with pytest.raises(DataError) as caught:
            load_wflw_v(video_folder(tmp_path / str(number), p, b), "all")
        assert said in str(caught.value)
        assert "cannot be read" not in str(caught.value)
