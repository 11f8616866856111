"""``ldeq predict --labels`` writes what other tools and ldeq's own readers take, and replaces nobody's labels."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from ldeq.cli import main
from ldeq.data import WFLW98, FaceSet, load_coco, load_csv, load_pts, load_wflw
from ldeq.face import Face
from ldeq.label_files import FormatError, Found, check_format, named_faces, write_labels

Refused = Callable[..., str]


@pytest.fixture
def pictures(face: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in ("a.png", "b.png"):
        shutil.copy(face, folder / name)
    return folder


def predicted(pictures: Path, weights: Path, *more: str | Path) -> dict[str, np.ndarray]:
    """The points that --json tells, by the name of the picture, which is the reference for the other formats."""
    out = pictures.parent / "reference.json"
    words = ["predict", str(pictures), "--cropped", "--model", str(weights), "--json", str(out), *map(str, more)]
    assert main(words) == 0
    images = json.loads(out.read_text())["images"]
    return {Path(image["image"]).name: np.array(image["faces"][0]["points"]) for image in images}


def same(faces: FaceSet, points: dict[str, np.ndarray]) -> None:
    assert len(faces) == len(points)
    for record in faces.records:
        assert record.image is not None
        np.testing.assert_allclose(record.points, points[record.image.name], atol=0.011)


def test_csv_and_coco_are_data_sets_that_can_be_trained_on(pictures: Path, weights: Path) -> None:
    points = predicted(pictures, weights, "--labels", pictures / "found.csv")
    same(load_csv(pictures / "found.csv", layout="wflw-98"), points)
    rows = list(csv.DictReader((pictures / "found.csv").open()))
    assert [row["image"] for row in rows] == ["a.png", "b.png"]
    assert all(abs(float(row["yaw"])) <= 180 and float(row["mouth_open"]) >= 0 for row in rows)
    predicted(pictures, weights, "--labels", pictures / "found.coco.json", "--format", "coco")
    same(load_coco(pictures / "found.coco.json", layout="wflw-98"), points)


def test_pts_files_count_from_1_and_are_read_back(pictures: Path, weights: Path, tmp_path: Path) -> None:
    points = predicted(pictures, weights, "--labels", tmp_path / "labels")
    for path in (tmp_path / "labels").iterdir():
        shutil.copy(path, pictures)
    same(load_pts(pictures, layout="wflw-98"), points)


def test_wflw_lists_are_read_by_the_reader_of_wflw(pictures: Path, weights: Path, tmp_path: Path) -> None:
    root = tmp_path / "set"
    (root / "WFLW_images").mkdir(parents=True)
    for path in pictures.iterdir():
        shutil.copy(path, root / "WFLW_images")
    points = predicted(root / "WFLW_images", weights, "--labels", root / "WFLW_images" / "list.txt", "--format", "wflw")
    shutil.move(root / "WFLW_images" / "list.txt", root / "list_98pt_rect_attr_test.txt")
    same(load_wflw(root, "test"), points)


def test_wflw_lists_refuse_another_number_of_landmarks(face: Path, tmp_path: Path, refused: Refused) -> None:
    told = refused("predict", face, "--cropped", "--labels", tmp_path / "x.txt", "--format", "wflw")
    assert "98 landmarks and the model finds 68; choose csv" in told
    assert not (tmp_path / "x.txt").exists()


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--format", "csv"], "--format has no effect without --labels"),
        (["--labels", "x.csv", "--format", "xml"], "unknown --format 'xml'; choose one of json, csv"),
        (["--labels", "x.txt"], "does not tell its format; add --format"),
        (["--labels", "-"], "--labels - is no name of a folder"),
    ],
)
def test_a_format_that_is_not_clear_is_asked_for(
    words: list[str], sentence: str, face: Path, refused: Refused, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    assert sentence in refused("predict", face, "--cropped", *words)


def test_labels_do_not_replace_the_picture_or_labels_of_somebody(face: Path, pictures: Path, refused: Refused) -> None:
    assert "is the picture" in refused("predict", face, "--cropped", "--labels", face, "--format", "csv")
    (pictures / "a.pts").write_text("made by hand")
    assert "holds .pts files already" in refused("predict", pictures, "--cropped", "--labels", pictures, "--format", "pts")
    assert (pictures / "a.pts").read_text() == "made by hand"


def test_every_face_of_a_picture_has_a_file_of_its_own(tmp_path: Path) -> None:
    points = np.random.default_rng(0).uniform(0, 99, (98, 2)).astype(np.float32)
    faces = [Face.of(points + i, np.ones(98, np.float32), WFLW98) for i in range(2)]
    found = [Found("a.png", None, "a", 100, 100, faces), Found("b.png", None, "b", 100, 100, [])]
    assert [name for name, _ in named_faces(found)] == ["a.pts", "a-face2.pts"]
    written = write_labels(tmp_path / "pts", "pts", found, WFLW98, "m")
    assert len(written) == 2
    first = written[0].read_text().splitlines()
    assert first[:3] == ["version: 1", "n_points: 98", "{"]
    assert [float(v) for v in first[3].split()] == pytest.approx((points[0] + 1).tolist(), abs=1e-5)
    with pytest.raises(FormatError, match="unknown format 'x'"):
        check_format("x", WFLW98)
