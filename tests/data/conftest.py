"""Small data sets written on the spot, and the folders of the real ones where this machine has them."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import cv2
import pytest
from made_data import make_picture, make_points, write_pts

from ldeq.data import IBUG68, WFLW98, FaceRecord, FaceSet, Layout


def _real(variable: str, folder: str) -> Path:
    given = os.environ.get(variable)
    root = Path(given).expanduser() if given else Path(__file__).resolve().parents[2].parent / "shared" / "data" / folder
    if not root.is_dir():
        pytest.skip(f"no {folder} data here: set {variable} to its folder")
    return root


@pytest.fixture
def real_300w() -> Path:
    return _real("LDEQ_300W", "300w")


@pytest.fixture
def real_wflw() -> Path:
    return _real("LDEQ_WFLW", "wflw")


@pytest.fixture
def tree_300w(tmp_path: Path) -> Path:
    """HELEN train (4 faces, one of them a .png) and AFW (1 face), without LFPW."""
    for folder, stems in (("helen/trainset", "abcd"), ("afw", "e")):
        (tmp_path / folder).mkdir(parents=True)
        for i, stem in enumerate(stems):
            suffix = ".png" if stem == "b" else ".jpg"
            cv2.imwrite(str(tmp_path / folder / f"{stem}{suffix}"), make_picture(120, 100, i))
            write_pts(tmp_path / folder / f"{stem}.pts", make_points(IBUG68, 100, i), header=stem != "c")
    return tmp_path


@pytest.fixture
def tree_wflw(tmp_path: Path) -> Path:
    """A WFLW test list of three faces in two pictures."""
    lists = tmp_path / "WFLW_annotations" / "list_98pt_rect_attr_train_test"
    lists.mkdir(parents=True)
    (tmp_path / "WFLW_images" / "0--Parade").mkdir(parents=True)
    lines = []
    for i, name in enumerate(("one", "one", "two")):
        file = f"0--Parade/{name}.jpg"
        cv2.imwrite(str(tmp_path / "WFLW_images" / file), make_picture(200, 240, i))
        points = make_points(WFLW98, 180, i)
        points[0, 0] = -12.5
        marks = ["0"] * 6
        marks[i] = "1"
        rect = ["10", "20", "150", "170"]
        lines.append(" ".join([f"{v:.6f}" for v in points.ravel()] + rect + marks + [file]))
    (lists / "list_98pt_rect_attr_test.txt").write_text("\n".join(lines) + "\n")
    return tmp_path


@pytest.fixture
def make_faces(tmp_path: Path) -> Callable[..., FaceSet]:
    """A face set of `count` pictures on disk; those numbered in `broken` are truncated JPEGs."""

    def make(count: int = 4, broken: tuple[int, ...] = (), layout: Layout = WFLW98, side: int = 160) -> FaceSet:
        records = []
        for i in range(count):
            path = tmp_path / f"face{i}.jpg"
            cv2.imwrite(str(path), make_picture(side, side, i))
            if i in broken:
                data = path.read_bytes()
                path.write_bytes(data[: len(data) // 2])
            records.append(FaceRecord(path, make_points(layout, side, i), rect=(30.0, 30.0, 130.0, 140.0)))
        return FaceSet("made up", layout, records)

    return make
