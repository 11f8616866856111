"""OpenCV's `FaceDetectorYN` with a model file of the user's."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from ..files import user_path
from .base import DetectorError, OneThreadAtATime, largest_first, shrunk

# From the eyes' centres and the corners of the mouth to the tight box of the landmarks, medians over the labels of the 1,207
# training photos of HELEN and AFW (deviations 0.09, 0.19, 0.18). The centre lies so far from the eyes' middle to the mouth's;
# the unit of width and height is the longer of that distance and the eyes'.
YUNET_CENTRE = 0.65
YUNET_WIDTH = 2.18
YUNET_HEIGHT = 2.10
YUNET_SCORE = 0.7

SEARCH_SIDE = 1024


class YuNet:
    """Steadier than the cascade, and finds turned faces.

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
        picture, factor = shrunk(cv2.cvtColor(image, cv2.COLOR_RGB2BGR), SEARCH_SIDE)
        with self._nets.borrow() as net:
            net.setInputSize((picture.shape[1], picture.shape[0]))
            found = net.detect(picture)[1]
        if found is None:
            return np.zeros((0, 4))
        # Columns 4..13: right eye, left eye, tip of the nose, corners of the mouth.
        return largest_first(yunet_boxes(np.asarray(found, np.float64)[:, 4:14].reshape(-1, 5, 2) / factor))


def yunet_boxes(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Tight landmark boxes `(N, 4)` from eyes, nose and corners of the mouth `(N, 5, 2)`."""
    eyes, mouth = points[:, :2].mean(1), points[:, 3:].mean(1)
    apart = np.linalg.norm(points[:, 0] - points[:, 1], axis=1)
    unit = np.maximum(apart, np.linalg.norm(mouth - eyes, axis=1))[:, None]
    centre = eyes + YUNET_CENTRE * (mouth - eyes)
    half = unit * np.array([YUNET_WIDTH, YUNET_HEIGHT]) / 2
    return np.concatenate((centre - half, centre + half), axis=1)
