from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from ldeq.data import IBUG68, WFLW98, DataError, FaceSet, check, contact_sheet, draw_landmarks, load_wflw
from ldeq.data.check import exchanged


def test_whole_set_is_ok(make_faces: Callable[..., FaceSet], tmp_path: Path) -> None:
    calls = []
    report = check(make_faces(5), sheet=tmp_path / "sheet.png", columns=3, tile=64,
                   progress=lambda done, total: calls.append((done, total)))  # fmt: skip
    assert report.ok
    assert (report.faces, report.pictures, report.outside_points) == (5, 5, 0)
    assert calls[-1] == (5, 5)
    assert cv2.imread(str(tmp_path / "sheet.png")).shape == (2 * 66 + 2, 3 * 66 + 2, 3)
    json.dumps(report.to_dict())
    assert "5 faces in 5 pictures, layout wflw-98" in report.text()


def test_truncated_picture_is_listed(make_faces: Callable[..., FaceSet]) -> None:
    report = check(make_faces(4, broken=(2,)))
    assert not report.ok
    assert [Path(path).name for path, _ in report.unreadable] == ["face2.jpg"]
    assert "face2.jpg: the file is truncated" in report.text()


def test_labels_outside_are_counted_and_kept(tree_wflw: Path) -> None:
    report = check(load_wflw(tree_wflw, "test"))
    assert report.ok
    assert (report.outside_faces, report.outside_points) == (3, 3)
    assert report.pictures == 2
    assert report.attributes["pose"] == 1


def test_exchanged_sides_are_found_however_the_head_is_rolled(make_faces: Callable[..., FaceSet]) -> None:
    faces = make_faces(3, layout=IBUG68)
    angle = np.deg2rad(170)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    faces.record(0).points[:] = (faces.record(0).points - 80) @ turn.T + 80
    faces.record(1).points[:] = faces.record(1).points[IBUG68.mirror_index]
    faces.record(2).points[36] = faces.record(2).points[45]
    report = check(faces)
    assert [Path(path).name for path in report.mirrored] == ["face1.jpg"]
    assert [Path(path).name for path in report.degenerate] == ["face2.jpg"]


@pytest.mark.parametrize("at", [(0.0, 0.0), (3000.0, 40.0), (50.0, 5000.0), (-900.0, -900.0)])
def test_sides_are_told_apart_wherever_the_face_lies(make_faces: Callable[..., FaceSet], at: tuple[float, float]) -> None:
    for degrees in range(0, 360, 30):
        angle = np.deg2rad(degrees)
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        points = (make_faces(1, layout=IBUG68).record(0).points.astype(np.float64) - 80) @ turn.T + at
        assert not exchanged(points, IBUG68)
        assert exchanged(points[IBUG68.mirror_index], IBUG68)


def test_sheet_in_an_absent_folder_makes_it(make_faces: Callable[..., FaceSet], tmp_path: Path) -> None:
    check(make_faces(1), sheet=tmp_path / "absent" / "sheet.png")
    assert (tmp_path / "absent" / "sheet.png").is_file()


def test_a_sheet_that_cannot_be_written_is_named(make_faces: Callable[..., FaceSet], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"cannot write .*sheet\.png"):
        check(make_faces(1), sheet=tmp_path / "file" / "sheet.png")
    with pytest.raises(DataError, match=r"choose a name that ends in \.png or \.jpg"):
        check(make_faces(1), sheet=tmp_path / "sheet.docx")


def test_dots_are_drawn_to_a_fraction_of_a_pixel() -> None:
    points = np.full((98, 2), -100.0)
    points[0] = 40.25, 51.625
    drawn = draw_landmarks(np.zeros((96, 96, 3), np.uint8), points)[..., 0].astype(np.float64)
    ys, xs = np.mgrid[:96, :96]
    found = (drawn * xs).sum() / drawn.sum(), (drawn * ys).sum() / drawn.sum()
    np.testing.assert_allclose(found, points[0], atol=0.15)


def test_drawing_leaves_the_picture_alone_and_survives_odd_points() -> None:
    image = np.zeros((50, 60, 3), np.uint8)
    points = np.random.default_rng(0).uniform(-20, 80, (98, 2))
    points[3], points[4] = np.nan, 1e12
    drawn = draw_landmarks(image, points, WFLW98, std=np.full(98, 2.0))
    assert image.max() == 0
    assert drawn.max() > 0
    with pytest.raises(ValueError, match=r"points of shape \(68, 2\)"):
        draw_landmarks(image, points, IBUG68)


def test_lines_grow_with_the_face_without_a_jump() -> None:
    """Widths in whole pixels flickered in videos of a face near the size where they change."""
    image, points = np.zeros((640, 640, 3), np.uint8), np.random.default_rng(0).uniform(0.1, 0.4, (98, 2))
    sizes = np.linspace(700, 1000, 13)  # two widths and a half
    ink = np.array([draw_landmarks(image, points * size, WFLW98)[..., 1].astype(float).sum() / size for size in sizes])
    steps = np.diff(ink) / ink[:-1]
    assert ink[-1] > 1.15 * ink[0]
    assert np.abs(steps).max() < 0.08


def test_contact_sheet_takes_pictures_of_any_shape() -> None:
    images = [np.full(shape, 128, np.uint8) for shape in ((40, 90, 3), (200, 100, 3), (64, 64, 3))]
    sheet = contact_sheet(images, columns=2, tile=96, titles=["a", "b", "c"])
    assert sheet.shape == (2 * 98 + 2, 2 * 98 + 2, 3)
    with pytest.raises(ValueError, match="at least one picture"):
        contact_sheet([])
