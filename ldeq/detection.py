"""Finds faces in a picture with OpenCV's Haar cascade, as boxes that a landmark model can start from."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

# From the cascade's square (side h) to the tight box of the landmarks, medians over 222 training photos of HELEN and AFW:
# centre 0.14 h below (deviation 0.05 h), width 0.86 h, height 0.83 h (deviation 0.10 h).
LANDMARK_CENTRE_DOWN = 0.14
LANDMARK_WIDTH = 0.86
LANDMARK_HEIGHT = 0.83

# The cascade is searched in a picture of at most this many pixels a side: its time grows with the area, and a face that is
# smaller than 30 pixels there has no landmarks worth the name.
SEARCH_SIDE = 1024
SMALLEST_FACE = 30


class DetectorError(RuntimeError):
    """No detector can be used here; the message says what to install or to pass instead."""


@cache
def _cascade() -> cv2.CascadeClassifier:
    folder = getattr(getattr(cv2, "data", None), "haarcascades", None)
    path = Path(folder or "") / "haarcascade_frontalface_default.xml"
    if folder is None or not path.is_file():
        raise DetectorError(
            f"OpenCV {cv2.__version__} comes without Haar cascades; install opencv-python-headless>=4.9,<5, or pass boxes"
        )
    return cv2.CascadeClassifier(str(path))


def detector_name() -> str:
    """What finds faces here, for `ldeq doctor`; raises `DetectorError` if nothing can."""
    _cascade()
    return f"Haar cascade of OpenCV {cv2.__version__}"


def detect_faces(image: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Tight landmark boxes of the faces in a picture, largest first.

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
        gray = cv2.resize(gray, None, fx=shrink, fy=shrink, interpolation=cv2.INTER_AREA)
    found = _cascade().detectMultiScale(
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
