"""Whatever a file of labels holds, a reader answers with faces or with one sentence, at once."""

from __future__ import annotations

import contextlib
import json
import os
import warnings
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from made_data import make_picture, make_points

from ldeq.data import WFLW98, DataError, LandmarkDataset, check, open_faces, read_layout
from ldeq.errors import LdeqError

PIECES = st.sampled_from(
    ["nan", "inf", "-1e39", "1e999", "0", "1", "-0", "1_0", "٣", "x", "", " ", "\n", "\r", "\0", ",", ";", "\t", "{", "}",
     "[", "]", '"', "'", ":", "#", "*a", "&a", "!!int ''", "!!binary x", "-", "0-3", "9-0", "../a.png", "/etc/passwd", "a.png",
     "true", "null", "99999999999999999999", "\ufeff", "\ud800", "é"]
)  # fmt: skip
EDITS = st.lists(st.tuples(st.floats(0, 1), st.integers(0, 30), PIECES), min_size=1, max_size=6)
# More cases on demand; a case that takes five seconds is a hang.
CASES = int(os.environ.get("LDEQ_FUZZ_CASES", "60"))
RELAXED = settings(max_examples=CASES, deadline=5000, suppress_health_check=[HealthCheck.function_scoped_fixture])


def edited(text: str, edits: list[tuple[float, int, str]]) -> bytes:
    for where, length, piece in edits:
        place = int(where * len(text))
        text = text[:place] + piece + text[place + length :]
    # A lone surrogate becomes bytes that are no UTF-8.
    return text.encode("utf-8", "surrogatepass")


def answer(spec: str) -> None:
    """Opens, checks and crops faces, or is told one sentence."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            faces = open_faces(spec)
            assert np.isfinite([faces.record(i).points for i in range(len(faces))]).all()
            check(faces)
            LandmarkDataset(faces, 32, on_error="replace")[0]
    except LdeqError as error:
        text = str(error)
        assert len(text) < 1500
        assert "\n" not in text.replace("\\n", "").strip() or "line" in text


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fuzz")
    cv2.imwrite(str(folder / "a.png"), make_picture(80, 100))
    (folder / "layout.yaml").write_text(LAYOUT)
    images = folder / "WFLW_images"
    images.mkdir()
    cv2.imwrite(str(images / "a.png"), make_picture(100, 100))
    (folder / "train").mkdir()
    cv2.imwrite(str(folder / "train" / "a.png"), make_picture(64, 64))
    (folder / "afw").mkdir()
    cv2.imwrite(str(folder / "afw" / "a.png"), make_picture(64, 64))
    return folder


LAYOUT = """\
name: five
landmarks: [a, b, c, d, e]
mirror: [[a, b], [3, 4]]
normaliser: [a, b]
parts: {mouth: [d, e], nose: {landmarks: [0-2], closed: true}}
"""
POINTS = "30,30,60,31,45,45,35,60,56,61"
TABLE = f"image,a_x,a_y,b_x,b_y,c_x,c_y,d_x,d_y,e_x,e_y,split\na.png,{POINTS},train\na.png,{POINTS},train\n"
COCO = json.dumps(
    {
        "images": [{"id": 1, "file_name": "a.png", "width": 100, "height": 80}],
        "annotations": [
            {
                "id": i,
                "image_id": 1,
                "bbox": [20, 20, 50, 50],
                "keypoints": [30, 30, 2, 60, 31, 2, 45, 45, 2, 35, 60, 1, 56, 61, 2],
            }
            for i in range(2)
        ],
        "categories": [{"id": 1, "name": "face", "keypoints": list("abcde")}],
    }
)
WFLW = "".join(
    " ".join(f"{v:.3f}" for v in make_points(WFLW98, 100, i).ravel()) + " 10 10 90 90 0 0 0 0 0 0 a.png\n" for i in range(2)
)
HIH = "".join("a.png " + " ".join(f"{v / 100:.5f}" for v in make_points(WFLW98, 100, i).ravel()) + "\n" for i in range(2))
PTS = "version: 1\nn_points: 68\n{\n" + "".join(f"{20 + i % 17} {20 + i // 3}\n" for i in range(68)) + "}\n"


@RELAXED
@given(edits=EDITS)
def test_tables(edits: list[tuple[float, int, str]], base: Path) -> None:
    (base / "labels.csv").write_bytes(edited(TABLE, edits))
    answer(f"csv:{base}")


@RELAXED
@given(edits=EDITS)
def test_coco_documents(edits: list[tuple[float, int, str]], base: Path) -> None:
    (base / "labels.json").write_bytes(edited(COCO, edits))
    answer(f"coco:{base}/labels.json")


@RELAXED
@given(edits=EDITS)
def test_wflw_lists(edits: list[tuple[float, int, str]], base: Path) -> None:
    (base / "list_98pt_rect_attr_train.txt").write_bytes(edited(WFLW, edits))
    answer(f"wflw:{base}")


@RELAXED
@given(edits=EDITS)
def test_lists_of_hih_crops(edits: list[tuple[float, int, str]], base: Path) -> None:
    (base / "train.txt").write_bytes(edited(HIH, edits))
    answer(f"hih:{base}")


@RELAXED
@given(edits=EDITS)
def test_pts_files(edits: list[tuple[float, int, str]], base: Path) -> None:
    (base / "afw" / "a.pts").write_bytes(edited(PTS, edits))
    answer(f"300w:{base}#afw")


@RELAXED
@given(edits=EDITS)
def test_layouts(edits: list[tuple[float, int, str]], base: Path) -> None:
    path = base / "other.yaml"
    path.write_bytes(edited(LAYOUT, edits))
    try:
        layout = read_layout(path)
        assert all(layout.mirror[j] == i for i, j in enumerate(layout.mirror))
    except DataError as error:
        assert "other.yaml" in str(error)


KINDS = ["csv:", "coco:", "pts:", "wflw:", "hih:", "300w:", "synthetic:"]
OPTIONS = ["#", "axis=", "base=", "units=fractions", "layout=", "split="]


@RELAXED
@given(spec=st.lists(PIECES | st.sampled_from(KINDS + OPTIONS), max_size=6).map("".join))
def test_specifications(spec: str) -> None:
    with contextlib.suppress(LdeqError):
        open_faces(spec)
