"""Finds faces in a picture with OpenCV's detectors, as boxes that a landmark model can start from."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Generic, TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

from .errors import LdeqError
from .files import user_path

# From the cascade's square (side h) to the tight box of the landmarks, medians over 222 training photos of HELEN and AFW:
# centre 0.14 h below (deviation 0.05 h), width 0.86 h, height 0.83 h (deviation 0.10 h).
LANDMARK_CENTRE_DOWN = 0.14
LANDMARK_WIDTH = 0.86
LANDMARK_HEIGHT = 0.83

# The cascade is searched in a picture of at most this many pixels a side: its time grows with the area, and a face that is
# smaller than 30 pixels there has no landmarks worth the name.
SEARCH_SIDE = 1024
SMALLEST_FACE = 30


Detector = Callable[[NDArray[np.uint8]], NDArray[np.float64]]
"""An RGB picture `(H, W, 3)` uint8 to the tight landmark boxes of its faces, `(N, 4)`, x1 y1 x2 y2, largest first."""


class DetectorError(LdeqError, RuntimeError):
    """No detector can be used here; the message says what to install or to pass instead."""


Native = TypeVar("Native")


class OneThreadAtATime(Generic[Native]):
    """Lends native objects that only one thread may use at a time, such as OpenCV's detectors.

    A cascade that two threads share raises from inside OpenCV, or returns the boxes of another picture. Each call borrows an
    object of its own instead; there are as many as there were calls at the same time, and they are used again.
    """

    def __init__(self, make: Callable[[], Native]) -> None:
        self._make = make
        self._free: deque[Native] = deque()  # its methods are atomic

    @contextmanager
    def borrow(self) -> Iterator[Native]:
        """An object that no other thread uses; after an error it is not lent again."""
        try:
            thing = self._free.pop()
        except IndexError:
            thing = self._make()
        yield thing
        self._free.append(thing)


def _make_cascade() -> cv2.CascadeClassifier:
    folder = getattr(getattr(cv2, "data", None), "haarcascades", None)
    path = Path(folder or "") / "haarcascade_frontalface_default.xml"
    if folder is None or not path.is_file():
        raise DetectorError(
            f"OpenCV {cv2.__version__} comes without Haar cascades; install opencv-python-headless>=4.9,<5, or pass boxes"
        )
    return cv2.CascadeClassifier(str(path))


_cascades = OneThreadAtATime(_make_cascade)


def detector_name() -> str:
    """What finds faces here, for `ldeq doctor`; raises `DetectorError` if nothing can."""
    with _cascades.borrow():
        pass
    return f"Haar cascade of OpenCV {cv2.__version__}"


def detect_faces(image: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Tight landmark boxes of the faces in a picture, largest first. Several threads may call it at the same time.

    Args:
        image: `(H, W, 3)` RGB uint8.

    Returns:
        `(N, 4)`, x1 y1 x2 y2 in pixels; boxes may reach outside the image.

    Raises:
        DetectorError: if OpenCV comes without its cascades.
    """
    gray = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    shrink = min(1.0, SEARCH_SIDE / max(gray.shape))
    if shrink < 1.0:
        gray = cv2.resize(gray, _shrunk(gray, shrink), interpolation=cv2.INTER_AREA)
    with _cascades.borrow() as cascade:
        found = cascade.detectMultiScale(
            cv2.equalizeHist(gray), scaleFactor=1.1, minNeighbors=6, minSize=(SMALLEST_FACE, SMALLEST_FACE)
        )
    if len(found) == 0:
        return np.zeros((0, 4))
    squares = np.asarray(found, np.float64) / shrink
    squares = squares[np.argsort(-squares[:, 2])]
    h = squares[:, 2]
    cx, cy = squares[:, 0] + h / 2, squares[:, 1] + h * (0.5 + LANDMARK_CENTRE_DOWN)
    half_w, half_h = h * LANDMARK_WIDTH / 2, h * LANDMARK_HEIGHT / 2
    return np.stack((cx - half_w, cy - half_h, cx + half_w, cy + half_h), axis=1)


def _shrunk(image: NDArray[Any], shrink: float) -> tuple[int, int]:
    """Width and height of a picture made smaller; a long thin one keeps at least a pixel."""
    return max(1, round(image.shape[1] * shrink)), max(1, round(image.shape[0] * shrink))


# From the eyes' centres and the corners of the mouth to the tight box of the landmarks, medians over the labels of the 1,207
# training photos of HELEN and AFW (deviations 0.09, 0.19, 0.18). The centre lies so far from the eyes' middle to the mouth's;
# the unit of width and height is the longer of that distance and the eyes'.
YUNET_CENTRE = 0.65
YUNET_WIDTH = 2.18
YUNET_HEIGHT = 2.10
YUNET_SCORE = 0.7


class YuNet:
    """OpenCV's `FaceDetectorYN` with a model file of the user's: steadier than the cascade, and finds turned faces.

    Several threads may call it at the same time; each call has a network of its own.
    """

    def __init__(self, path: str | Path) -> None:
        """
        Args:
            path: the ONNX file, such as ``face_detection_yunet_2023mar.onnx`` from OpenCV's model zoo.

        Raises:
            DetectorError: if the file is missing or OpenCV cannot read it.
        """
        path = user_path(path)
        if not path.is_file():
            raise DetectorError(
                f"there is no YuNet model {path}; get face_detection_yunet_2023mar.onnx from OpenCV's model zoo, or use haar"
            )
        self._nets = OneThreadAtATime(lambda: cv2.FaceDetectorYN.create(str(path), "", (64, 64), YUNET_SCORE))
        try:
            with self._nets.borrow() as net:
                net.detect(np.zeros((64, 64, 3), np.uint8))  # any ONNX file loads; only YuNet has these outputs
        except (cv2.error, AttributeError) as error:
            raise DetectorError(
                f"OpenCV {cv2.__version__} cannot use {path} as a YuNet model; get face_detection_yunet_2023mar.onnx from "
                "OpenCV's model zoo, or use haar"
            ) from error

    def __call__(self, image: NDArray[np.uint8]) -> NDArray[np.float64]:
        """Tight landmark boxes `(N, 4)`, largest first, of an RGB picture `(H, W, 3)` uint8."""
        shrink = min(1.0, SEARCH_SIDE / max(image.shape[:2]))
        picture = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
        if shrink < 1.0:
            picture = cv2.resize(picture, _shrunk(picture, shrink), interpolation=cv2.INTER_AREA)
        with self._nets.borrow() as net:
            net.setInputSize((picture.shape[1], picture.shape[0]))
            found = net.detect(picture)[1]
        if found is None:
            return np.zeros((0, 4))
        # Columns 4..13: right eye, left eye, tip of the nose, corners of the mouth.
        boxes = yunet_boxes(np.asarray(found, np.float64)[:, 4:14].reshape(-1, 5, 2) / shrink)
        return boxes[np.argsort(boxes[:, 0] - boxes[:, 2])]


def yunet_boxes(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Tight landmark boxes `(N, 4)` from eyes, nose and corners of the mouth `(N, 5, 2)`."""
    eyes, mouth = points[:, :2].mean(1), points[:, 3:].mean(1)
    apart = np.linalg.norm(points[:, 0] - points[:, 1], axis=1)
    unit = np.maximum(apart, np.linalg.norm(mouth - eyes, axis=1))[:, None]
    centre = eyes + YUNET_CENTRE * (mouth - eyes)
    half = unit * np.array([YUNET_WIDTH, YUNET_HEIGHT]) / 2
    return np.concatenate((centre - half, centre + half), axis=1)


def make_detector(name: str | Detector) -> Detector:
    """A detector by its name: ``"haar"``, or ``"yunet:FILE"`` with the path of a YuNet ONNX file; a function stays as it is.

    Raises:
        DetectorError: for another name, or if the file cannot be used.
    """
    if callable(name):
        return name
    if not isinstance(name, str):
        raise DetectorError(
            f"detector must be haar, yunet:FILE, or a function from a picture to boxes, got {type(name).__name__}"
        )
    kind, _, path = name.partition(":")
    if name == "haar":
        return detect_faces
    if kind == "yunet" and path:
        return YuNet(path)
    raise DetectorError(f"unknown detector {name!r}; use haar, or yunet:FILE with a YuNet ONNX file")
