"""A list stays inside its folder, whatever names it holds."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from made_data import make_picture, make_points

from ldeq.data import WFLW98, DataError, load_hih, load_wflw, load_wflw_v
from ldeq.data.paths import inside

LIST = Path("WFLW_annotations") / "list_98pt_rect_attr_train_test" / "list_98pt_rect_attr_test.txt"
OUTSIDE = [
    "/etc/passwd",
    "../secret/s.png",
    "a/../../s.png",
    "..",
    "C:/s.png",
    "C:s.png",
    "..\\s.png",
    "\\\\host\\share\\s.png",
]


@pytest.mark.parametrize("name", OUTSIDE)
def test_a_name_that_leads_out_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="in line 3 of train.txt leads out of"):
        inside(tmp_path, name, "line 3 of train.txt")


@pytest.mark.parametrize("name", ["", "  ", "a\0b", "x" * 300, "ä" * 200])
def test_a_name_that_no_file_has_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be the name of a file"):
        inside(tmp_path, name, "line 3 of train.txt")


@pytest.mark.parametrize("name", ["a.png", "0--Parade/a.png", "./a.png", "a..b.png", "...", "ä.png"])
def test_ordinary_names_are_taken(name: str, tmp_path: Path) -> None:
    assert inside(tmp_path, name, "a list") == tmp_path / name


@pytest.mark.parametrize("name", OUTSIDE[:3])
def test_a_wflw_list_reads_no_picture_outside_its_folder(name: str, tree_wflw: Path) -> None:
    (tree_wflw / "secret").mkdir()
    cv2.imwrite(str(tree_wflw / "secret" / "s.png"), make_picture(50, 50))
    path = tree_wflw / LIST
    path.write_text(path.read_text().replace("0--Parade/two.jpg", name))
    with pytest.raises(DataError, match=r"in line 3 of .*list_98pt_rect_attr_test.txt leads out of .*WFLW_images"):
        load_wflw(tree_wflw, "test")


@pytest.mark.parametrize("name", OUTSIDE[:3])
def test_a_list_of_hih_crops_reads_no_picture_outside_its_folder(name: str, tmp_path: Path) -> None:
    (tmp_path / "test").mkdir()
    row = " ".join(f"{v:.8f}" for v in (make_points(WFLW98, 256) / 256).ravel())
    (tmp_path / "test.txt").write_text(f"{name} {row}\n")
    with pytest.raises(DataError, match="in line 1 of .*test.txt leads out of"):
        load_hih(tmp_path, "test")


@pytest.mark.parametrize("name", OUTSIDE[:3])
def test_a_list_of_videos_reads_none_outside_its_folder(name: str, tmp_path: Path) -> None:
    for folder in ("videos", "bboxes", "landmarks"):
        (tmp_path / folder).mkdir()
    (tmp_path / "easy.txt").write_text(f"{name}\n")
    with pytest.raises(DataError, match="in line 1 of .*easy.txt leads out of"):
        load_wflw_v(tmp_path, "easy")


def test_links_that_the_user_laid_are_followed(tree_wflw: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Data sets are often links to a shared disk, file by file or folder by folder."""
    disk = tmp_path_factory.mktemp("disk")
    pictures = tree_wflw / "WFLW_images"
    (pictures / "0--Parade" / "two.jpg").rename(disk / "two.jpg")
    (pictures / "0--Parade" / "two.jpg").symlink_to(disk / "two.jpg")
    pictures.rename(disk / "pictures")
    pictures.symlink_to(disk / "pictures", target_is_directory=True)
    faces = load_wflw(tree_wflw, "test")
    assert len(faces) == 3
    assert np.shape(faces.read(2)) == (200, 240, 3)
