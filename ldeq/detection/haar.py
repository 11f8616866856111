"""OpenCV's Haar cascade: finds faces that look towards the camera, and needs nothing besides OpenCV."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from .base import DetectorError, OneThreadAtATime, largest_first, shrunk

# From the cascade's square (side h) to the tight box of the landmarks, medians over 222 training photos of HELEN and AFW:
# centre 0.14 h below (deviation 0.05 h), width 0.86 h, height 0.83 h (deviation 0.10 h).
LANDMARK_CENTRE_DOWN = 0.14
LANDMARK_WIDTH = 0.86
LANDMARK_HEIGHT = 0.83

# The cascade is searched in a picture of at most this many pixels a side: its time grows with the area, and a face that is
# smaller than 30 pixels there has no landmarks worth the name.
SEARCH_SIDE = 1024
SMALLEST_FACE = 30

# Windows that must agree on a face.
NEIGHBOURS = 6


def _make_cascade() -> cv2.CascadeClassifier:
    folder = getattr(getattr(cv2, "data", None), "haarcascades", None)
    path = Path(folder or "") / "haarcascade_frontalface_default.xml"
    if folder is None or not path.is_file():
        raise DetectorError(
            f"OpenCV {cv2.__version__} comes without Haar cascades; install opencv-python-headless>=4.9,<5, or pass boxes"
        )
    return cv2.CascadeClassifier(str(path))


_cascades = OneThreadAtATime(_make_cascade)


def check_haar() -> None:
    """
    Raises:
        DetectorError: if OpenCV comes without its cascades.
    """
    with _cascades.borrow():
        pass


def detect_faces(image: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Tight landmark boxes of the faces in a picture, by the Haar cascade. Several threads may call it at the same time.

    Args:
        image: `(H, W, 3)` RGB uint8.

    Returns:
        `(N, 4)`, x1 y1 x2 y2 in pixels, largest first; boxes may reach outside the image.

    Raises:
        DetectorError: if OpenCV comes without its cascades.
    """
    return _search(image, NEIGHBOURS)


def eager_faces(image: NDArray[np.uint8]) -> NDArray[np.float64]:
    """As `detect_faces`, and a great deal that is no face besides: what such a detector mistakes for one."""
    return _search(image, 1)


def _search(image: NDArray[np.uint8], neighbours: int) -> NDArray[np.float64]:
    gray, factor = shrunk(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), SEARCH_SIDE)
    with _cascades.borrow() as cascade:
        found = cascade.detectMultiScale(
            cv2.equalizeHist(gray), scaleFactor=1.1, minNeighbors=neighbours, minSize=(SMALLEST_FACE, SMALLEST_FACE)
        )
    if len(found) == 0:
        return np.zeros((0, 4))
    squares = np.asarray(found, np.float64) / factor
    h = squares[:, 2]
    cx, cy = squares[:, 0] + h / 2, squares[:, 1] + h * (0.5 + LANDMARK_CENTRE_DOWN)
    half_w, half_h = h * LANDMARK_WIDTH / 2, h * LANDMARK_HEIGHT / 2
    return largest_first(np.stack((cx - half_w, cy - half_h, cx + half_w, cy + half_h), axis=1))
