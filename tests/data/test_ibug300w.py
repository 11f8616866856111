from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from ldeq.data import IBUG68, DataError, load_300w, open_faces
from ldeq.data.ibug300w import read_pts


def test_points_are_brought_to_zero_based_pixels(tmp_path: Path) -> None:
    rows = "\n".join(f"{i + 1} {2 * i + 1}" for i in range(68))
    for name, text in (
        ("braces", f"version: 1\nn_points:  68\n{{\n{rows}\n}}\n"),
        ("bare", rows),
        ("header", f"version: 1\nn_points: 68\n{rows}\n"),
        ("windows", f"version: 1\r\nn_points: 68\r\n{{\r\n{rows}\r\n}}".replace("\n", "\r\n")),
    ):
        path = tmp_path / f"{name}.pts"
        path.write_text(text)
        points = read_pts(path)
        assert points.dtype == np.float32
        np.testing.assert_array_equal(points, [[i, 2 * i] for i in range(68)])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1 2\n" * 67, "68 points (x, y) expected, 67 points found"),
        ("1 2 3\n" * 68, "68 points (x, y) expected, 68 lines found"),
        ("1 1_0\n" * 68, "is not made of lines with two numbers"),
        ("1 two\n" * 68, "is not made of lines with two numbers"),
        ("1 2\n3\n" * 34, "is not made of lines with two numbers"),
        ("", "expected"),
    ],
)
def test_bad_annotation_is_named_in_a_sentence(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "bad face.pts"
    path.write_text(text)
    with pytest.raises(DataError) as caught:
        read_pts(path)
    assert message in str(caught.value)
    assert "bad face.pts" in str(caught.value)


def test_what_is_present_is_used_and_what_is_absent_is_said(tree_300w: Path) -> None:
    faces = load_300w(tree_300w, "train")
    assert [faces.record(i).image.stem for i in range(len(faces))] == list("abcde")
    assert faces.layout is IBUG68
    assert faces.name == "300-W train without lfpw/trainset"
    assert len(faces.notes) == 1
    assert not faces.skipped
    assert faces.read(1).shape == (120, 100, 3)


def test_pictures_without_labels_and_labels_without_pictures_are_listed(tree_300w: Path) -> None:
    (tree_300w / "afw" / "lonely.pts").write_text("1 1\n" * 68)
    cv2.imwrite(str(tree_300w / "afw" / "bare.jpg"), np.zeros((9, 9, 3), np.uint8))
    faces = load_300w(tree_300w, "afw")
    assert len(faces) == 1
    assert {(Path(path).name, reason) for path, reason in faces.skipped} == {
        ("lonely.pts", "no picture beside the .pts file"),
        ("bare.jpg", "no .pts file beside the picture"),
    }


def test_wrong_root_names_expected_and_found(tree_300w: Path) -> None:
    with pytest.raises(DataError, match=r"needs helen/trainset or lfpw/trainset or afw in .*; found there: trainset/"):
        load_300w(tree_300w / "helen", "train")
    with pytest.raises(DataError, match=r"'ibug' needs ibug in .*; found there: afw/, helen/"):
        load_300w(tree_300w, "ibug")
    with pytest.raises(DataError, match="does not exist"):
        load_300w(tree_300w / "nowhere")
    with pytest.raises(DataError, match="unknown 300-W split 'val': choose one of train"):
        load_300w(tree_300w, "val")


def test_specifications(tree_300w: Path) -> None:
    assert len(open_faces(f"300w:{tree_300w}#afw", split="train")) == 1
    assert len(open_faces(f"300w:{tree_300w}", split="helen-train")) == 4
    for spec, message in (
        ("300v:x", r"unknown kind of data '300v' in '300v:x' \(did you mean 300w\?\)"),
        ("300w:", "does not say where the data is: write 300w:FOLDER"),
        (f"300w:{tree_300w}#splt=afw", r"unknown option 'splt' .*did you mean split"),
        ("synthetic:many", "must be a whole number, not 'many'"),
    ):
        with pytest.raises(DataError, match=message):
            open_faces(spec)


def test_real_photos(real_300w: Path) -> None:
    for split, count in (("train", 1207), ("helen-train", 870), ("helen-test", 330), ("afw", 337)):
        faces = load_300w(real_300w, split)
        assert len(faces) >= count
        points = faces.record(0).points
        height, width = faces.read(0).shape[:2]
        assert points.shape == (68, 2)
        assert (points > 0).all()
        assert (points < [width, height]).all()
