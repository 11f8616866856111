"""Labels that no model can be trained with: one such face is left out and told, and the others go on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from made_data import make_picture, make_points, write_pts

from ldeq.data import (
    IBUG68,
    WFLW98,
    DataError,
    FaceRecord,
    FaceSet,
    LabelError,
    LandmarkDataset,
    Layout,
    load_300w,
    load_hih,
    load_wflw,
    load_wflw_v,
    write_wflw_v,
)
from ldeq.data.clips import SequenceDataset
from ldeq.data.labels import FARTHEST_SIDES, label_fault, sound

LIST = Path("WFLW_annotations") / "list_98pt_rect_attr_train_test" / "list_98pt_rect_attr_test.txt"


def one_point(points: np.ndarray) -> None:
    points[:] = 40.0


def eyes_together(points: np.ndarray) -> None:
    left, right = (WFLW98 if len(points) == 98 else IBUG68).outer_eyes
    points[left] = points[right]


def put(value: float) -> Callable[[np.ndarray], None]:
    def change(points: np.ndarray) -> None:
        with np.errstate(over="ignore"):
            points[7, 1] = value

    return change


def fractions(points: np.ndarray) -> None:
    points /= 200.0


BAD: list[tuple[Callable[[np.ndarray], None], str]] = [
    (put(1e39), "landmark 7 is not finite in float32"),
    (put(float("nan")), "landmark 7 is not finite"),
    (put(-float("inf")), "landmark 7 is not finite"),
    (put(3e7), "farther out than any picture"),
    (one_point, "all landmarks lie at one point"),
    (fractions, "fractions of the picture's size"),
    (eyes_together, "whose distance normalises errors, coincide"),
]


@pytest.mark.parametrize(("spoil", "message"), [*BAD, (put(1e5), ", 100000), far from all others about (")])
@pytest.mark.parametrize("layout", [WFLW98, IBUG68])
def test_the_judge_says_why(spoil: Callable[[np.ndarray], None], message: str, layout: Layout) -> None:
    points = make_points(layout, 180).astype(np.float64)
    assert label_fault(points, layout) is None
    assert sound(points, layout)
    spoil(points)
    reason = label_fault(points, layout)
    assert reason is not None and message in reason
    assert not sound(points, layout)


def test_a_landmark_some_pictures_away_is_no_landmark() -> None:
    points = make_points(WFLW98, 180)
    points[3, 0] = -FARTHEST_SIDES * 240 + 1
    assert label_fault(points, WFLW98, size=(200, 240)) is None
    points[3, 0] -= 2
    assert "landmark 3 lies at" in (label_fault(points, WFLW98, size=(200, 240)) or "")
    assert label_fault(points, WFLW98) is None


@pytest.mark.parametrize("rect", [(0, 0, np.nan, 9), (0, 0, np.inf, 9), (9, 0, 1, 9), (5, 5, 5, 5), (0, 0, 1e30, 9)])
def test_a_rectangle_that_is_none(rect: tuple[float, ...]) -> None:
    points = make_points(WFLW98, 180)
    assert label_fault(points, WFLW98, (1, 2, 8, 9)) is None
    assert "rectangle" in (label_fault(points, WFLW98, rect) or "")


def test_points_of_another_number_are_no_labels_of_a_layout() -> None:
    assert "98 points (x, y) expected" in (label_fault(make_points(IBUG68, 180), WFLW98) or "")


def spoil_line(path: Path, number: int, spoil: Callable[[np.ndarray], None], first: int = 0) -> None:
    rows = path.read_text().splitlines()
    columns = rows[number - 1].split()
    points = np.array(columns[first : first + 196], np.float64).reshape(98, 2)
    spoil(points)
    rows[number - 1] = " ".join([*columns[:first], *(repr(float(v)) for v in points.ravel()), *columns[first + 196 :]])
    path.write_text("\n".join(rows) + "\n")


@pytest.mark.parametrize(("spoil", "message"), BAD)
def test_a_wflw_list_with_one_bad_face_loads_the_others(
    spoil: Callable[[np.ndarray], None], message: str, tree_wflw: Path
) -> None:
    spoil_line(tree_wflw / LIST, 2, spoil)
    faces = load_wflw(tree_wflw, "test")
    assert len(faces) == 2
    ((path, reason),) = faces.skipped
    assert path == f"{tree_wflw / LIST}, line 2"
    assert message in reason
    assert np.isfinite([faces.record(i).points for i in range(2)]).all()


def test_a_list_in_which_nothing_is_left_is_an_error_that_names_the_first(tree_wflw: Path) -> None:
    for number in (1, 2, 3):
        spoil_line(tree_wflw / LIST, number, one_point)
    with pytest.raises(DataError, match=r"none of the 3 found can be used.*line 1.*all landmarks lie at one point"):
        load_wflw(tree_wflw, "test")


def test_a_wflw_rectangle_that_is_none_is_one_face_left_out(tree_wflw: Path) -> None:
    path = tree_wflw / LIST
    path.write_text(path.read_text().replace(" 10 20 150 170 ", " 150 20 10 170 ", 1))
    faces = load_wflw(tree_wflw, "test")
    assert len(faces) == 2
    assert "rectangle" in faces.skipped[0][1]


@pytest.mark.parametrize(("spoil", "message"), [BAD[0], BAD[1], BAD[4], BAD[6]])
def test_hih_crops_with_one_bad_face_load_the_others(spoil: Callable[[np.ndarray], None], message: str, tmp_path: Path) -> None:
    (tmp_path / "test").mkdir()
    cv2.imwrite(str(tmp_path / "test" / "a.png"), make_picture(256, 256))
    row = " ".join(f"{v:.8f}" for v in (make_points(WFLW98, 256) / 256).ravel())
    (tmp_path / "test.txt").write_text(f"a.png {row}\na.png {row}\n")
    spoil_line(tmp_path / "test.txt", 2, spoil, first=1)
    faces = load_hih(tmp_path, "test")
    assert len(faces) == 1
    ((path, reason),) = faces.skipped
    assert path.endswith("test.txt, line 2")
    assert message in reason
    spoil_line(tmp_path / "test.txt", 1, spoil, first=1)
    with pytest.raises(DataError, match="none of the 2 found can be used"):
        load_hih(tmp_path, "test")


@pytest.mark.parametrize(("spoil", "message"), BAD)
def test_photos_of_300w_with_one_bad_face_load_the_others(
    spoil: Callable[[np.ndarray], None], message: str, tree_300w: Path
) -> None:
    points = make_points(IBUG68, 100).astype(np.float64)
    spoil(points)
    write_pts(tree_300w / "helen" / "trainset" / "b.pts", points)
    faces = load_300w(tree_300w, "train")
    assert len(faces) == 4
    ((path, reason),) = faces.skipped
    assert path.endswith("b.pts")
    # Written to three digits, the eyes stay together and all else far out.
    assert message in reason


def test_an_annotation_of_another_layout_is_one_face_left_out(tree_300w: Path) -> None:
    (tree_300w / "afw" / "f.pts").write_text("1 1\n" * 67)
    cv2.imwrite(str(tree_300w / "afw" / "f.png"), make_picture(50, 50))
    faces = load_300w(tree_300w, "afw")
    assert len(faces) == 1
    assert faces.skipped[0][1] == "68 points (x, y) expected, 67 points found"


@pytest.mark.parametrize(("spoil", "message"), BAD)
def test_videos_with_one_bad_frame_load_the_others(spoil: Callable[[np.ndarray], None], message: str, tmp_path: Path) -> None:
    pictures = [make_picture(96, 96, i) for i in range(3)]
    points = np.stack([make_points(WFLW98, 96, i) for i in range(3)])
    boxes = np.concatenate([points.min(1), points.max(1)], 1)
    for name in ("a", "b"):
        write_wflw_v(tmp_path, name, pictures, points, boxes, 25, (96, 96))
    bad = points.astype(np.float64)
    spoil(bad[1])
    np.save(tmp_path / "landmarks" / "b.npy", bad)
    videos = load_wflw_v(tmp_path)
    assert [record.name for record in videos.records] == ["a"]
    ((path, reason),) = videos.skipped
    assert path.endswith("b.npy")
    assert reason.startswith("in frame 1, ") and message in reason


def test_an_array_that_says_it_is_larger_than_its_file_takes_no_memory(tmp_path: Path) -> None:
    pictures = [make_picture(96, 96, i) for i in range(2)]
    points = np.stack([make_points(WFLW98, 96, i) for i in range(2)])
    write_wflw_v(tmp_path, "a", pictures, points, np.concatenate([points.min(1), points.max(1)], 1), 25, (96, 96))
    path = tmp_path / "landmarks" / "a.npy"
    path.write_bytes(path.read_bytes().replace(b"(2, 98, 2)", b"(9999999999, 98, 2)")[: path.stat().st_size])
    with pytest.raises(DataError, match="it cannot be read"):
        load_wflw_v(tmp_path)
    for wrong in (np.array(["x"]), np.zeros(3, complex)):
        np.save(path, wrong)
        with pytest.raises(DataError, match="it is not an array of numbers"):
            load_wflw_v(tmp_path)


@pytest.mark.parametrize(("spoil", "message"), [*BAD, (put(5000.0), "far outside the picture of 160 x 160 pixels")])
def test_a_bad_face_of_ones_own_set_is_replaced_as_a_bad_picture_is(
    spoil: Callable[[np.ndarray], None], message: str, make_faces: Callable[..., FaceSet]
) -> None:
    faces = make_faces(3)
    spoil(faces.record(1).points)
    with pytest.raises(LabelError, match=message):
        LandmarkDataset(faces, 32)[1]
    data = LandmarkDataset(faces, 32, on_error="replace")
    item = data[1]
    assert (item["index"], item["source"], item["skipped"]) == (1, 2, True)
    assert message in data.skipped[0][1]
    assert message in data.fault(1)
    assert data.fault(0) == ""


def test_a_first_face_that_is_bad_does_not_hide_a_crop_rule_that_cannot_be_served(make_faces: Callable[..., FaceSet]) -> None:
    faces = make_faces(2)
    one_point(faces.record(0).points)
    LandmarkDataset(faces, 32)
    plain = FaceSet("plain", WFLW98, [FaceRecord(r.image, r.points) for r in faces.records])
    with pytest.raises(ValueError, match="needs a rectangle"):
        LandmarkDataset(plain, 32, crop="rect")


def test_a_face_without_the_rectangle_that_others_have_is_left_out(make_faces: Callable[..., FaceSet]) -> None:
    faces = make_faces(2)
    records = [faces.record(0), FaceRecord(faces.record(1).image, faces.record(1).points)]
    data = LandmarkDataset(FaceSet("half", WFLW98, records), 32, crop="rect", on_error="replace")
    assert data[1]["skipped"]
    assert "no rectangle" in data.skipped[0][1]


def test_a_bad_face_is_not_set_in_motion(make_faces: Callable[..., FaceSet]) -> None:
    faces = make_faces(2)
    for i in range(2):
        one_point(faces.record(i).points)
    with pytest.raises(DataError, match="can be moved"):
        SequenceDataset(faces, 32)
