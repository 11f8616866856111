"""Detectors: threads, and what a detector of the caller's may return."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Lock
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from ldeq import Landmarker
from ldeq.data import open_faces
from ldeq.detection import DetectorError, OneThreadAtATime, YuNet, detect_faces, make_detector
from ldeq.errors import LdeqError

Picture = NDArray[np.uint8]


@pytest.fixture(scope="module")
def lm() -> Landmarker:
    return Landmarker.load("small-68", "cpu")


def pictures(count: int) -> list[Picture]:
    """Different pictures of different sizes, some with a drawn face."""
    faces = open_faces(f"synthetic:{count}#seed=3,size=160", "test")
    return [np.pad(faces.read(i), ((i, 3 * i), (2 * i, 0), (0, 0)), mode="edge") for i in range(count)]


def test_the_largest_face_of_the_cascade_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    class Cascade:
        def detectMultiScale(self, image: Picture, **_: Any) -> NDArray[np.int32]:
            return np.array([[10, 10, 40, 40], [100, 20, 90, 90], [5, 5, 60, 60]], np.int32)

    monkeypatch.setattr("ldeq.detection.haar._cascades", OneThreadAtATime(Cascade))
    boxes = detect_faces(np.zeros((200, 200, 3), np.uint8))
    assert np.allclose(boxes[:, 2] - boxes[:, 0], 0.86 * np.array([90, 60, 40]))
    assert np.allclose((boxes[:, 0] + boxes[:, 2]) / 2, [145, 35, 30])


def test_threads_do_not_get_the_boxes_of_another_picture() -> None:
    images = pictures(8) * 6
    alone = [detect_faces(image) for image in images]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(detect_faces, images))
    for one, other in zip(alone, together, strict=True):
        np.testing.assert_array_equal(one, other)


def test_one_landmarker_in_eight_threads_answers_as_in_one_bit_for_bit(lm: Landmarker) -> None:
    """LDEQ_THREAD_CALLS=1000 asks more often."""
    calls = int(os.environ.get("LDEQ_THREAD_CALLS", "48"))
    images = pictures(6)

    def answer(i: int) -> list[NDArray[np.float32]]:
        image = images[i % len(images)]
        # The detector's turn and a box's: both ways in.
        faces = lm(image) if i % 2 else lm(image, [[30, 30, 130, 140], [10, 20, 90, 110]])
        return [array for face in faces for array in (face.points, face.std)]

    alone = [answer(i) for i in range(12)]
    assert sum(len(a) for a in alone) > 24
    with ThreadPoolExecutor(8) as pool:
        for i, found in enumerate(pool.map(answer, range(calls))):
            assert len(found) == len(alone[i % 12])
            for one, other in zip(alone[i % 12], found, strict=True):
                np.testing.assert_array_equal(one, other)


def test_a_native_object_is_lent_to_one_thread_at_a_time_and_used_again() -> None:
    made: list[list[int]] = []
    busy: set[int] = set()
    lock = Lock()

    def make() -> list[int]:
        thing = [len(made)]
        made.append(thing)
        return thing

    lender = OneThreadAtATime(make)

    def use(_: int) -> None:
        with lender.borrow() as thing:
            with lock:
                assert id(thing) not in busy
                busy.add(id(thing))
            time.sleep(0.001)
            with lock:
                busy.remove(id(thing))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(use, range(200)))
    assert 1 < len(made) <= 8
    with pytest.raises(ValueError, match="inside"), lender.borrow() as broken:
        raise ValueError("inside")
    with lender.borrow() as other:
        assert other is not broken


def test_yunet_is_not_shared_between_threads(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    """A network whose size is set by one call and used by the next, as OpenCV's is."""

    class Net:
        def setInputSize(self, size: tuple[int, int]) -> None:
            self.size = size
            time.sleep(0.002)

        def detect(self, image: Picture) -> tuple[int, NDArray[np.float32]]:
            width, height = getattr(self, "size", (64, 64))
            assert image.shape[:2] == (height, width)
            row = np.zeros((1, 15), np.float32)
            row[0, 4:14] = np.array([[0, 0], [20, 0], [10, 10], [2, 20], [18, 20]]).ravel() + width
            return 1, row

    monkeypatch.setattr(cv2.FaceDetectorYN, "create", lambda *_: Net())
    (tmp_path / "net.onnx").touch()
    yunet = YuNet(tmp_path / "net.onnx")
    sizes = [40 + i % 7 for i in range(64)]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda side: yunet(np.zeros((side, side, 3), np.uint8)), sizes))
    lefts = [float(boxes[0, 0]) - side for boxes, side in zip(found, sizes, strict=True)]
    assert lefts == pytest.approx([lefts[0]] * 64)


BOX = (40.0, 40.0, 120.0, 125.0)


@pytest.mark.parametrize(
    "returned",
    [
        [BOX],
        (BOX,),
        [list(BOX)],
        [[40, 40, 120, 125]],
        np.array([BOX], np.float32),
        np.array([BOX], np.int64),
        torch.tensor([BOX], requires_grad=True),
    ],
    ids=["list", "tuple", "lists", "ints", "float32", "int64", "tensor"],
)
def test_a_detector_of_the_callers_may_return_anything_that_holds_boxes(lm: Landmarker, returned: Any) -> None:
    image = pictures(2)[1]
    with lm.stream(detector=lambda picture: returned) as stream:  # type: ignore[arg-type, return-value]
        (face,) = stream(image)
    with lm.stream(detector=lambda picture: np.array([BOX])) as stream:
        np.testing.assert_array_equal(stream(image)[0].points, face.points)


@pytest.mark.parametrize("returned", [None, [], (), np.zeros((0, 4)), np.zeros((0, 5)), torch.zeros(0, 4)], ids=repr)
def test_a_detector_that_finds_nothing_may_say_so_in_any_way(lm: Landmarker, returned: Any) -> None:
    with lm.stream(detector=lambda picture: returned) as stream:
        assert [stream(image) for image in pictures(2)] == [[], []]


@pytest.mark.parametrize(
    ("returned", "sentence"),
    [
        (BOX, "must have shape (N, 4)"),
        ([(*BOX, 0.9)], "got (1, 5)"),
        ([[BOX]], "got (1, 1, 4)"),
        ([(1, 2, 3), BOX], "must have shape (N, 4)"),
        ((np.array([BOX]), np.array([0.9])), "must have shape (N, 4)"),
        ({"box": BOX}, "got dict"),
        ("1,2,3,4", "got str"),
        (7, "got ()"),
        ([(1, 2, float("nan"), 9)], "must be finite"),
        ([(1, 2, float("inf"), 9)], "must be finite"),
        ([(50, 50, 40, 60)], "x1 < x2 and y1 < y2"),
        ([(0, 0, 4e6, 4e6)], "in pixels of the picture, 160 x 160"),
    ],
    ids=str,
)
def test_what_a_detector_may_not_return_is_a_sentence_and_the_stream_goes_on(
    lm: Landmarker, returned: Any, sentence: str
) -> None:
    answers: list[Any] = [returned, np.array([BOX])]
    with lm.stream(detector=lambda picture: answers.pop(0)) as stream:
        with pytest.raises(LdeqError) as caught:
            stream(pictures(1)[0])
        assert "what the detector returns" in str(caught.value)
        assert sentence in str(caught.value)
        found = [stream(pictures(1)[0]) for _ in range(6)]
    assert len(found[-1]) == 1


def test_what_is_no_detector_is_a_sentence(lm: Landmarker) -> None:
    with pytest.raises(DetectorError, match=r"haar, yunet:FILE, or a function .*, got int"):
        lm.stream(detector=7)  # type: ignore[arg-type]
    assert make_detector(detect_faces) is detect_faces


def test_long_thin_pictures_are_searched() -> None:
    assert detect_faces(np.zeros((1, 40_000, 3), np.uint8)).shape == (0, 4)
    assert detect_faces(np.zeros((9000, 2, 3), np.uint8)).shape == (0, 4)


@pytest.mark.parametrize(
    "smooth",
    [lambda p: p.tolist(), lambda p: p.astype(np.float64), lambda p: torch.from_numpy(p)],
    ids=["list", "float64", "tensor"],
)
def test_a_filter_of_the_callers_may_return_anything_that_holds_points(lm: Landmarker, smooth: Callable[[Any], Any]) -> None:
    with lm.stream(boxes=[BOX], smooth=lambda: Smooth(smooth)) as stream:
        (face,) = stream(pictures(2)[1])
    assert face.points.shape == (68, 2) and face.points.dtype == np.float32


@pytest.mark.parametrize("smooth", [lambda p: None, lambda p: p[:5], lambda p: p * np.nan, lambda p: "points"])
def test_what_a_filter_may_not_return_is_a_sentence(lm: Landmarker, smooth: Callable[[Any], Any]) -> None:
    with (
        lm.stream(boxes=[BOX], smooth=lambda: Smooth(smooth)) as stream,
        pytest.raises(LdeqError, match=r"a filter must return finite points of shape \(68, 2\)"),
    ):
        stream(pictures(2)[1])


class Smooth:
    def __init__(self, function: Callable[[Any], Any]) -> None:
        self.function = function

    def reset(self) -> None:
        pass

    def step(self, points: Any, std: Any = None, dt: float = 0.03) -> Any:
        return self.function(points)
