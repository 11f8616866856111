"""Data of one's own: the same faces as a table, as COCO keypoints and as .pts files, and the mistakes in each."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml
from made_data import make_picture

from ldeq.data import (
    IBUG68,
    WFLW98,
    DataError,
    FaceRecord,
    FaceSet,
    Layout,
    layout_document,
    layout_from,
    open_faces,
    read_layout,
    write_coco,
    write_csv,
    write_pts,
)

FIVE = """\
name: five
landmarks: [left_eye, right_eye, nose, left_mouth, right_mouth]
mirror: [[left_eye, right_eye], [left_mouth, right_mouth]]
normaliser: [left_eye, right_eye]
parts: {mouth: [left_mouth, right_mouth]}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three pictures of 100 x 80 pixels and a layout of five landmarks."""
    for i in range(3):
        cv2.imwrite(str(tmp_path / f"p{i}.png"), make_picture(80, 100, i))
    (tmp_path / "layout.yaml").write_text(FIVE)
    return tmp_path


def faces_in(folder: Path, layout: Layout | None = None) -> FaceSet:
    shape = np.array([[30, 30], [60, 31], [45.25, 45], [35, 60], [56, 61]], np.float32)
    records = [
        FaceRecord(folder / f"p{i}.png", shape + np.float32(i) + np.float32(0.1), (20.0, 20.0, 70.0, 72.0)) for i in range(3)
    ]
    return FaceSet("five", layout or read_layout(folder / "layout.yaml"), records)


def write(folder: Path, kind: str) -> str:
    faces = faces_in(folder)
    if kind == "csv":
        return f"csv:{write_csv(folder / 'labels.csv', faces)}"
    if kind == "coco":
        return f"coco:{write_coco(folder / 'labels.json', faces)}"
    for record in faces.records:
        assert record.image is not None
        write_pts(record, record.image.with_suffix(".pts"))
    return f"pts:{folder}"


@pytest.mark.parametrize("kind", ["csv", "coco", "pts"])
def test_what_was_written_is_read_back(kind: str, folder: Path) -> None:
    expected, faces = faces_in(folder), open_faces(write(folder, kind))
    assert len(faces) == 3
    assert faces.layout.names == ("left_eye", "right_eye", "nose", "left_mouth", "right_mouth")
    for i in range(3):
        assert faces.record(i).image == expected.record(i).image
        np.testing.assert_allclose(faces.record(i).points, expected.record(i).points, atol=2e-6)
        assert faces.record(i).rect == (None if kind == "pts" else expected.record(i).rect)
        assert faces.read(i).shape == (80, 100, 3)


@pytest.mark.parametrize("kind", ["csv", "coco", "pts"])
def test_a_first_pixel_of_one_is_taken_where_it_is_said(kind: str, folder: Path) -> None:
    spec = write(folder, kind)
    moved = open_faces(f"{spec}#base={0 if kind == 'pts' else 1}").record(0).points - open_faces(spec).record(0).points
    np.testing.assert_allclose(moved, 1 if kind == "pts" else -1, atol=1e-5)


def test_fractions_of_the_picture_are_taken_where_they_are_said(folder: Path) -> None:
    path = write_csv(folder / "labels.csv", faces_in(folder))
    rows = [row.split(",") for row in path.read_text().splitlines()]
    for row in rows[1:]:
        row[1:11] = [repr(float(v) / (100, 80)[i % 2]) for i, v in enumerate(row[1:11])]
    path.write_text("".join(",".join(row) + "\n" for row in rows))
    with pytest.raises(DataError, match=r"fractions of the picture's size\?; write #units=fractions"):
        open_faces(f"csv:{path}")
    np.testing.assert_allclose(
        open_faces(f"csv:{path}#units=fractions").record(1).points, faces_in(folder).record(1).points, atol=1e-4
    )


def test_columns_are_found_by_name_in_any_order_and_with_any_separator(folder: Path) -> None:
    spec = write(folder, "csv")
    expected = open_faces(spec).record(2).points
    path = folder / "labels.csv"
    rows = [row.split(",") for row in path.read_text().splitlines()]
    for separator in (";", "\t", ","):
        turned = "".join(separator.join(["note" if i == 0 else "x y", *row[::-1]]) + "\r\n" for i, row in enumerate(rows))
        path.write_bytes(b"\xef\xbb\xbf" + turned.encode())
        np.testing.assert_array_equal(open_faces(spec).record(2).points, expected)
    numbered = [["File", *(f"{a}{i}" for i in range(5) for a in "xy")], *(row[:11] for row in rows[1:])]
    path.write_text("".join(",".join(row) + "\n" for row in numbered))
    np.testing.assert_array_equal(open_faces(spec).record(2).points, expected)


def test_a_column_split_and_tables_of_splits_choose_faces(folder: Path) -> None:
    write(folder, "csv")
    path = folder / "labels.csv"
    assert "has no column split" in open_faces(f"csv:{folder}", "test").notes[0]  # type: ignore[attr-defined]
    rows = path.read_text().splitlines()
    path.write_text("\n".join(f"{row},{name}" for row, name in zip(rows, ["split", "train", "test", "train"], strict=True)))
    assert [len(open_faces(f"csv:{folder}", split)) for split in ("train", "test")] == [2, 1]
    with pytest.raises(DataError, match="no line is of the split 'val'; there are test, train"):
        open_faces(f"csv:{folder}#val")
    (folder / "test.csv").write_text("\n".join(rows))
    assert len(open_faces(f"csv:{folder}", "test")) == 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.replace("image,", "photo,"), "has no column image: write 'image,x0,y0,x1,y1,...' above the faces"),
        (lambda t: t.replace("nose_x", "nase_x"), "lacks the column nose_x of the layout 'five'"),
        (lambda t: t.replace("nose_x", "nose_y"), "two columns of .* are named 'nose_y'"),
        (
            lambda t: t.replace("p1.png,31.1000004", "p1.png,oops"),
            r"line 3 of .*labels.csv holds 'oops' where a number is expected\.",
        ),
        (lambda t: t.replace("p1.png,31.1000004", "p1.png,3_1"), "holds '3_1' where a number is expected"),
        (lambda t: t.replace("p1.png,31.1", 'p1.png,"31,1"'), "write a decimal point, not a comma"),
        (lambda t: t.replace("p1.png", "p1.png,5"), "line 3 of .* has 16 columns, the first line 15"),
        (lambda t: t.replace("p1.png", "../p1.png"), "'../p1.png' in line 3 of .* leads out of"),
        (lambda t: t.replace("p1.png", "/etc/passwd"), "leads out of"),
        (lambda t: t.split("\n")[0], "no face to load from .*labels.csv: it has no line"),
        (lambda t: "", "has no column image"),
        (lambda t: t.replace(".png", ".jpg"), r"none of the 3 found can be used.*line 2.*p0.jpg: the file does not exist"),
    ],
)
def test_a_mistake_in_a_table_is_told(change, message: str, folder: Path) -> None:  # type: ignore[no-untyped-def]
    spec = write(folder, "csv")
    path = folder / "labels.csv"
    path.write_text(change(path.read_text()))
    with pytest.raises(DataError, match=message):
        open_faces(spec)


@pytest.mark.parametrize(
    ("cells", "reason"),
    [
        ("1e39", "landmark 0 is not finite"),
        ("", "landmark 0 has no label, as 1 of 5"),
        ("99999", "far outside the picture of 100 x 80 pixels"),
    ],
)
def test_one_bad_line_of_a_table_is_left_out(cells: str, reason: str, folder: Path) -> None:
    spec = write(folder, "csv")
    path = folder / "labels.csv"
    path.write_text(path.read_text().replace("p1.png,31.1000004", f"p1.png,{cells}"))
    faces = open_faces(spec)
    assert len(faces) == 2
    ((place, why),) = faces.skipped  # type: ignore[attr-defined]
    assert place == f"{path}, line 3"
    assert reason in why


def edit(path: Path, change) -> None:  # type: ignore[no-untyped-def]
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.pop("images"), "is no COCO keypoints document: images: Field required"),
        (lambda d: d["annotations"][0].update(keypoints="x"), "annotations.0.keypoints: Input should be a valid"),
        (lambda d: d["images"][1].update(file_name="../p1.png"), "'../p1.png' in annotation 1 of .* leads out of"),
        (lambda d: d["categories"][0]["keypoints"].reverse(), "landmark 0 is 'right_mouth' in .* and 'left_eye' in the layout"),
        (lambda d: d.update(annotations=[]), "no annotation has keypoints"),
    ],
)
def test_a_mistake_in_a_coco_document_is_told(change, message: str, folder: Path) -> None:  # type: ignore[no-untyped-def]
    spec = write(folder, "coco")
    edit(folder / "labels.json", change)
    with pytest.raises(DataError, match=message):
        open_faces(spec)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda d: d["annotations"][1]["keypoints"].__setitem__(5, 0), "landmark 1 has no label, as 1 of 5"),
        (lambda d: d["annotations"][1]["keypoints"].append(1), "15 numbers .* expected, 16 found"),
        (lambda d: d["annotations"][1].update(image_id=99), "there is no image 99"),
        (
            lambda d: d["images"][1].update(width=200, height=160),
            "the document says 200 x 160 pixels and the picture has 100 x 80",
        ),
        (lambda d: d["images"][1].update(file_name="gone.png"), "gone.png: the file does not exist"),
    ],
)
def test_one_bad_annotation_is_left_out(change, reason: str, folder: Path) -> None:  # type: ignore[no-untyped-def]
    spec = write(folder, "coco")
    edit(folder / "labels.json", change)
    faces = open_faces(spec)
    assert len(faces) == 2
    ((place, why),) = faces.skipped  # type: ignore[attr-defined]
    assert place == f"annotation 1 of {folder / 'labels.json'}"
    import re

    assert re.search(reason, why), why


def test_a_name_that_no_picture_can_have_is_a_sentence(folder: Path) -> None:
    """The first name says where the pictures lie."""
    spec = write(folder, "coco")
    edit(folder / "labels.json", lambda d: d["images"][0].update(file_name="x" * 5000))
    with pytest.raises(DataError, match="in annotation 0 of .* cannot be the name of a file"):
        open_faces(spec)


@pytest.mark.parametrize("text", ["", "[", "[" * 100_000, "{}", "null", '{"images": [], "annotations": [NaN]}', "\ufeff{"])
def test_what_is_no_json_document_ends_in_a_sentence(text: str, folder: Path) -> None:
    write(folder, "coco")
    (folder / "labels.json").write_text(text)
    with pytest.raises(DataError, match=r"labels.json is no COCO keypoints document"):
        open_faces(f"coco:{folder / 'labels.json'}")


def test_pictures_of_a_coco_document_may_lie_in_images(folder: Path) -> None:
    spec = write(folder, "coco")
    (folder / "images").mkdir()
    for i in range(3):
        (folder / f"p{i}.png").rename(folder / "images" / f"p{i}.png")
    assert len(open_faces(spec)) == 3


def test_a_coco_document_of_each_split(folder: Path) -> None:
    write(folder, "coco")
    (folder / "labels.json").rename(folder / "face_test.json")
    assert len(open_faces(f"coco:{folder}/face_{{split}}.json", "test")) == 3
    with pytest.raises(DataError, match=r"cannot read .*face_train.json"):
        open_faces(f"coco:{folder}/face_{{split}}.json", "train")


def test_a_folder_of_pts_files_for_each_split(folder: Path) -> None:
    spec = write(folder, "pts")
    (folder / "test").mkdir()
    for suffix in ("png", "pts"):
        (folder / f"p2.{suffix}").rename(folder / "test" / f"p2.{suffix}")
    assert [len(open_faces(spec, split)) for split in ("train", "test")] == [2, 1]
    (folder / "p0.pts").write_text("1 2\n")
    assert open_faces(spec).skipped == [(str(folder / "p0.pts"), "5 points (x, y) expected, 1 points found")]  # type: ignore[attr-defined]


def test_known_layouts_need_no_file(folder: Path) -> None:
    (folder / "layout.yaml").unlink()
    points = np.random.default_rng(0).uniform(10, 70, (68, 2)).astype(np.float32)
    write_pts(FaceRecord(folder / "p0.png", points), folder / "p0.pts")
    with pytest.raises(DataError, match=r"layout.yaml is missing in .*#layout=NAME for one of wflw-98, ibug-68"):
        open_faces(f"pts:{folder}")
    assert open_faces(f"pts:{folder}#layout=ibug-68").layout is IBUG68
    with pytest.raises(DataError, match="the layout 'ibug68' is neither one of wflw-98, ibug-68 nor a file"):
        open_faces(f"pts:{folder}#layout=ibug68")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("csv:{}#base=2", "base is the coordinate of the first pixel, 0 or 1, not 2"),
        ("csv:{}#base=x", "base in .* must be a whole number"),
        ("csv:{}#units=cm", "units are pixels or fractions, not 'cm'"),
        ("csv:{}#units=fractions,base=1", "leave out base"),
        ("pts:{}#units=fractions", "leave out units"),
        ("csv:{}/nowhere.csv", "cannot read .*nowhere.csv|layout.yaml is missing"),
        ("coco:{}", "is a folder"),
        ("pts:{}/nowhere", "does not exist"),
        ("csv:{}#layot=x", "unknown option 'layot' .*did you mean layout"),
    ],
)
def test_a_source_that_cannot_be_opened_says_why(spec: str, message: str, folder: Path) -> None:
    write(folder, "csv")
    with pytest.raises(DataError, match=message):
        open_faces(spec.format(folder))


@pytest.mark.parametrize("layout", [WFLW98, IBUG68])
def test_known_layouts_survive_their_document(layout: Layout) -> None:
    again = layout_from(yaml.safe_load(yaml.safe_dump(layout_document(layout))), "a file")
    assert again == layout
    assert again.parts == layout.parts and again.openings == layout.openings


def test_runs_pair_a_contour_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "layout.yaml"
    path.write_text("name: long\nlandmarks: 106\nmirror: [[0-15, 32-17], [40, 41]]\nnormaliser: [40, 41]\n"
                    "parts:\n  contour: [0-32]\n  eye: {landmarks: [50-53, 55], closed: true}\n")  # fmt: skip
    layout = read_layout(path)
    assert layout.mirror[:33] == WFLW98.mirror[:33]
    assert layout.mirror[40:43] == (41, 40, 42)
    assert layout.parts["contour"].indices == tuple(range(33))
    assert layout.parts["eye"].indices == (50, 51, 52, 53, 55) and layout.parts["eye"].closed


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.replace("normaliser", "normalizer"), "is no layout: normalizer: there is no such key"),
        (
            lambda t: t.replace("mirror: [[left_eye, right_eye], ", "mirror: [[left_eye, right_ey], "),
            "there is no landmark 'right_ey'",
        ),
        (
            lambda t: t.replace("mirror: [[left_eye, right_eye], ", "mirror: [[left_eye, nose], [nose, 1], "),
            "2 stands in two pairs",
        ),
        (lambda t: t.replace("normaliser: [left_eye, right_eye]", "normaliser: [0, 0]"), "two different landmarks"),
        (lambda t: t.replace("normaliser: [left_eye, right_eye]", "normaliser: [0, 5]"), "numbered from 0 to 4"),
        (lambda t: t.replace("nose, left_mouth", "nose, nose"), "the name 'nose' stands there twice"),
        (lambda t: t.replace("name: five", "name: wflw-98"), "is the name of another layout"),
        (lambda t: t.replace("[left_eye, right_eye, nose, left_mouth, right_mouth]", "1e9"), "landmarks: "),
        (lambda t: "a: &a [1]\nb: *a", "line 2 holds an alias"),
        (lambda t: "!!int ''", "is not valid YAML"),
        (lambda t: "[" * 20_000, "nested too deeply"),
        (lambda t: "!!python/object/apply:os.system [exit]", "could not determine a constructor"),
        (lambda t: "", "is no layout: it: "),
    ],
)
def test_a_mistake_in_a_layout_is_told(change, message: str, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path / "layout.yaml"
    path.write_text(change(FIVE))
    with pytest.raises(DataError, match=message) as caught:
        read_layout(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("split", ["9" * 300, "../other/train", "a\0b", "é" * 101])
def test_a_split_that_can_be_no_name_of_a_list_is_a_sentence(tmp_path: Path, split: str) -> None:
    with pytest.raises(DataError, match="split must be the name of a list in the folder"):
        open_faces(f"csv:{tmp_path}", split)


def test_a_table_of_another_name_in_a_folder_is_told_with_the_way_to_name_it(tmp_path: Path) -> None:
    (tmp_path / "found.csv").write_text("image,x0,y0\n")
    with pytest.raises(DataError, match=r"train.csv or labels.csv expected .*: csv:.*found\.csv\."):
        open_faces(f"csv:{tmp_path}")
