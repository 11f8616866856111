"""The first mistakes with labels of one's own: `ldeq data check` names each, and is silent about labels that are right."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
import pytest
from made_data import make_picture

from ldeq.cli import main
from ldeq.data import (
    IBUG68,
    WFLW98,
    FaceRecord,
    FaceSet,
    Layout,
    check,
    load_300w,
    open_faces,
    write_csv,
    write_image,
)
from ldeq.data.mistakes import find_mistakes, wrong_pairs
from ldeq.data.synthetic import SyntheticFaces

SIDE = 128


@lru_cache(maxsize=1)
def drawn(count: int = 60) -> np.ndarray:
    faces = SyntheticFaces(count, seed=2, size=SIDE)
    return np.stack([faces.record(i).points for i in range(count)]).astype(np.float64)


def sizes(points: np.ndarray, height: int = SIDE, width: int = SIDE) -> np.ndarray:
    return np.tile([[height, width]], (len(points), 1))


@pytest.mark.parametrize("count", [1, 5, 10, 60])
def test_labels_that_are_right_are_left_in_peace(count: int) -> None:
    for start in range(0, 60 - count + 1, 10):
        points = drawn()[start : start + count]
        assert find_mistakes(points, sizes(points), WFLW98) == []


def test_real_labels_are_left_in_peace(real_300w: Path) -> None:
    for split in ("helen-train", "helen-test", "afw"):
        faces = load_300w(real_300w, split)
        points = np.stack([r.points for r in faces.records]).astype(np.float64)
        headers = np.full((len(points), 2), 384)
        assert wrong_pairs(points, IBUG68) == []
        assert find_mistakes(points, headers, IBUG68) == []


@pytest.mark.parametrize("count", [10, 60])
def test_exchanged_coordinates_are_named(count: int) -> None:
    points = drawn()[:count, :, ::-1]
    (found,) = find_mistakes(points, sizes(points), WFLW98)
    assert f"in {count} of {count} faces the mirror pairs stand above one another: are x and y exchanged" in found


def with_mirror(mirror: list[int], names: tuple[str, ...] = ()) -> Layout:
    return Layout("own", 98, tuple(mirror), (60, 72), {}, names=names)


def test_wrong_mirror_pairs_are_named_with_the_right_ones() -> None:
    mirror = list(WFLW98.mirror)
    # Corners of the mouth (76, 82) and peaks of the upper lip (78, 80), crosswise.
    mirror[76], mirror[78], mirror[80], mirror[82] = 78, 76, 82, 80
    found = wrong_pairs(drawn(), with_mirror(mirror, tuple(f"p{i}" for i in range(98))))
    assert len(found) == 4
    assert found[0].startswith(
        "landmark 76 (p76) is paired with 78 (p78), and in the mean of all faces its mirror image is 82 (p82)"
    )


def test_a_layout_whose_pairs_were_forgotten_is_named() -> None:
    found = wrong_pairs(drawn(), with_mirror(list(range(98))))
    named = {int(text.split()[1]) for text in found}
    pairs = {i for i, j in enumerate(WFLW98.mirror) if i != j}
    assert named <= pairs
    assert len(named) > 0.9 * len(pairs)


def test_a_contour_that_is_paired_one_place_off_is_named() -> None:
    mirror = list(WFLW98.mirror)
    for i in range(33):
        mirror[i] = 31 - i if i < 32 else 32
    found = wrong_pairs(drawn(), with_mirror(mirror))
    # The shift lies along the contour: where it runs alongside the axis it is plain, at the chin it is smallest.
    assert len(found) >= 10
    assert all(int(text.split()[1]) <= 32 for text in found)


def test_labels_of_a_larger_or_smaller_picture_are_named() -> None:
    for factor, message in (
        (3.0, "were the labels made on larger pictures"),
        (0.4, "were the labels made on smaller pictures?"),
    ):
        points = drawn() * factor
        (found,) = find_mistakes(points, sizes(points), WFLW98)
        assert message in found


def test_pixels_counted_from_one_are_named() -> None:
    points = np.clip(np.round(drawn()), 0, SIDE - 1)
    points[0, :, 0] -= points[0, :, 0].min()
    points[1, 5, 0] = SIDE - 1
    assert find_mistakes(points, sizes(points), WFLW98) == []
    (found,) = find_mistakes(points + 1, sizes(points), WFLW98)
    assert "counts the first pixel as 1, write base=1" in found
    (found,) = find_mistakes(points - 1, sizes(points), WFLW98)
    assert "counts the first pixel as 0, write base=0" in found


@pytest.fixture
def own(tmp_path: Path) -> FaceSet:
    """Twelve drawn faces with five points and their table."""
    five = [96, 97, 54, 76, 82]
    layout = Layout("five", 5, (1, 0, 2, 4, 3), (0, 1), {}, names=("le", "re", "nose", "lm", "rm"))
    faces = SyntheticFaces(12, seed=3, size=96)
    records = []
    for i in range(12):
        write_image(tmp_path / f"{i}.png", faces.read(i))
        records.append(FaceRecord(tmp_path / f"{i}.png", faces.record(i).points[five]))
    result = FaceSet("own", layout, records)
    write_csv(tmp_path / "labels.csv", result)
    (tmp_path / "layout.yaml").write_text(
        "name: five\nlandmarks: [le, re, nose, lm, rm]\nmirror: [[le, re], [lm, rm]]\nnormaliser: [le, re]\n"
    )
    return result


def test_the_check_of_a_table_names_its_mistakes(own: FaceSet, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["data", "check", f"csv:{tmp_path}"]
    assert main(command) == 0, capsys.readouterr().out
    layout = tmp_path / "layout.yaml"
    layout.write_text(layout.read_text().replace("[[le, re], [lm, rm]]", "[[le, rm], [lm, re]]"))
    assert main(command) == 1
    told = capsys.readouterr().out
    assert "landmark 0 (le) is paired with 4 (rm), and in the mean of all faces its mirror image is 1 (re)" in told


def test_a_check_judges_labels_beside_their_picture(own: FaceSet) -> None:
    own.records[4].points[2] = 5000
    own.records[5].points[:] = np.nan
    report = check(own)
    assert not report.ok
    assert [Path(path).name for path, _ in report.unusable] == ["4.png", "5.png"]
    assert "far outside the picture" in report.unusable[0][1]


def test_a_check_tells_of_pictures_that_exif_turns(own: FaceSet, tmp_path: Path) -> None:
    from PIL import Image

    exif = Image.Exif()
    exif[0x0112] = 6
    with Image.open(tmp_path / "0.png") as picture:
        picture.convert("RGB").save(tmp_path / "0.jpg", exif=exif)
    records = [FaceRecord(tmp_path / "0.jpg", own.records[0].points), *own.records[1:]]
    report = check(FaceSet("turned", own.layout, records))
    assert report.turned == 1
    assert "1 pictures are to be turned" in report.text()


def test_a_check_reports_the_labels_own_axis(tmp_path: Path) -> None:
    faces = SyntheticFaces(100, seed=4, size=96, difficulty="easy")
    records = []
    for i in range(100):
        write_image(tmp_path / f"{i}.png", faces.read(i))
        points = faces.record(i).points
        shifted = points + np.array([0.02 * np.ptp(points, axis=0).max(), 0], np.float32)
        records.append(FaceRecord(tmp_path / f"{i}.png", shifted))
    report = check(FaceSet("own", WFLW98, records))
    assert report.axis is not None and "to the right of the pictures' mirror axis" in report.axis
    assert report.axis in report.text()
    assert 0.013 < float(report.axis.split()[2]) / 100 < 0.027


def test_one_face_and_odd_layouts_are_checked_all_the_same(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), make_picture(60, 60))
    layout = Layout("two", 2, (0, 1), (0, 1), {})
    report = check(FaceSet("two", layout, [FaceRecord(tmp_path / "a.png", np.float32([[10, 10], [40, 30]]))]))
    assert report.ok
    assert report.axis is None
    assert open_faces("synthetic:3#size=48").name in check(open_faces("synthetic:3#size=48")).text()
