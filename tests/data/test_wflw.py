from __future__ import annotations

import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from ldeq.data import WFLW98, WFLW_ATTRIBUTES, DataError, crop_box, load_hih, load_wflw, open_faces

LIST = Path("WFLW_annotations") / "list_98pt_rect_attr_train_test" / "list_98pt_rect_attr_test.txt"


def test_official_layout(tree_wflw: Path) -> None:
    faces = load_wflw(tree_wflw, "test")
    assert faces.name == "WFLW test"
    assert faces.layout is WFLW98
    assert len(faces) == 3
    record = faces.record(0)
    assert record.points.shape == (98, 2)
    assert record.points.dtype == np.float32
    assert record.rect == (10.0, 20.0, 150.0, 170.0)
    assert faces.read(0).shape == (200, 240, 3)


def test_labels_outside_the_picture_are_kept(tree_wflw: Path) -> None:
    assert load_wflw(tree_wflw, "test").record(0).points[0, 0] == np.float32(-12.5)


def test_attributes_come_in_the_official_order(tree_wflw: Path) -> None:
    faces = load_wflw(tree_wflw, "test")
    for i in range(3):
        assert [name for name, value in faces.record(i).attributes.items() if value] == [WFLW_ATTRIBUTES[i]]
    assert WFLW_ATTRIBUTES == ("pose", "expression", "illumination", "make-up", "occlusion", "blur")


def test_subset(tree_wflw: Path) -> None:
    for name in ("pose", "largepose"):
        faces = load_wflw(tree_wflw, "test", subset=name)
        assert len(faces) == 1
        assert faces.name == "WFLW test/pose"
    assert len(open_faces(f"wflw:{tree_wflw}#test,subset=expression")) == 1
    with pytest.raises(DataError, match=r"unknown WFLW subset 'poze' \(did you mean pose\?\): choose one of pose, expression"):
        load_wflw(tree_wflw, "test", subset="poze")
    with pytest.raises(DataError, match="it names no face of that kind"):
        load_wflw(tree_wflw, "test", subset="blur")


def test_missing_pictures_are_listed(tree_wflw: Path) -> None:
    (tree_wflw / "WFLW_images" / "0--Parade" / "one.jpg").unlink()
    faces = load_wflw(tree_wflw, "test")
    assert len(faces) == 1
    assert [(Path(path).name, reason) for path, reason in faces.skipped] == [("one.jpg", "the file does not exist")] * 2


def test_list_without_attributes_is_recognised(tree_wflw: Path) -> None:
    path = tree_wflw / LIST
    path.write_text("\n".join(" ".join(line.split()[:196]) for line in path.read_text().splitlines()))
    with pytest.raises(DataError) as caught:
        load_wflw(tree_wflw, "test")
    assert str(caught.value) == (
        f"207 columns expected, 196 found in line 1 of {path}: is this list_98pt_test instead of list_98pt_rect_attr?"
    )


@pytest.mark.parametrize("word", ["oops", "1_0"])
def test_bad_number_names_the_line(word: str, tree_wflw: Path) -> None:
    lines = (tree_wflw / LIST).read_text().splitlines()
    lines[1] = lines[1].replace(lines[1].split()[4], word, 1)
    (tree_wflw / LIST).write_text("\n".join(lines))
    with pytest.raises(DataError, match=r"line 2 of .* holds a word where a number is expected"):
        load_wflw(tree_wflw, "test")


def test_absent_list_says_what_is_there(tree_wflw: Path) -> None:
    with pytest.raises(DataError, match="only the test list is there, so choose split 'test'"):
        load_wflw(tree_wflw, "train")
    with pytest.raises(DataError, match=r"list_98pt_rect_attr_test.txt is missing in .*; found there: 0--Parade"):
        load_wflw(tree_wflw / "WFLW_images", "test")
    shutil.rmtree(tree_wflw / "WFLW_images")
    with pytest.raises(DataError, match=r"WFLW_images is missing in .*: unpack WFLW_images.tar.gz"):
        load_wflw(tree_wflw, "test")


def test_hih_crops(tmp_path: Path) -> None:
    (tmp_path / "test_blur").mkdir()
    cv2.imwrite(str(tmp_path / "test_blur" / "a.png"), np.zeros((256, 256, 3), np.uint8))
    unit = np.random.default_rng(0).uniform(-0.1, 1.1, (98, 2))
    row = " ".join(f"{v:.8f}" for v in unit.ravel())
    (tmp_path / "test_blur.txt").write_text(f"a.png {row}\nmissing.png {row}\n")
    faces = load_hih(tmp_path, "test_blur")
    assert len(faces) == 1
    assert len(faces.skipped) == 1
    assert faces.record(0).precropped
    np.testing.assert_allclose(faces.record(0).points, unit * 256, atol=1e-4)
    with pytest.raises(DataError, match=r"need train/ and train.txt in .*; found there: test_blur/, test_blur.txt"):
        load_hih(tmp_path, "train")
    with pytest.raises(DataError, match="looks like the HIH crops, load them with hih:"):
        load_wflw(tmp_path, "test")


def test_hih_crops_of_another_side_keep_their_own_scale(tmp_path: Path) -> None:
    (tmp_path / "test").mkdir()
    for name, height, width in (("a", 256, 256), ("b", 128, 128), ("c", 100, 128)):
        cv2.imwrite(str(tmp_path / "test" / f"{name}.png"), np.zeros((height, width, 3), np.uint8))
    unit = np.random.default_rng(0).uniform(0.1, 0.9, (98, 2))
    row = " ".join(f"{v:.8f}" for v in unit.ravel())
    (tmp_path / "test.txt").write_text("".join(f"{name}.png {row}\n" for name in "abc"))
    faces = load_hih(tmp_path, "test")
    np.testing.assert_allclose(faces.record(1).points, unit * 128, atol=1e-4)
    assert "128 x 100 pixels" in faces.skipped[0][1]


def test_real_photos(real_wflw: Path) -> None:
    faces = load_wflw(real_wflw, "test")
    if len(faces) != 2500:
        assert len(faces) == 113
    assert not faces.skipped
    for i in range(len(faces)):
        record = faces.record(i)
        assert record.points.shape == (98, 2)
        assert any(record.attributes.values()) or len(faces) == 2500
        box = crop_box("hih", points=record.points, rect=record.rect)
        inside = (record.points >= [box.x0, box.y0]) & (record.points <= [box.x0 + box.side, box.y0 + box.side])
        assert inside.all()
    subsets = sum(len(load_wflw(real_wflw, "test", name)) for name in WFLW_ATTRIBUTES)
    assert subsets == sum(sum(faces.record(i).attributes.values()) for i in range(len(faces)))
