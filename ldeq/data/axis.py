"""The labels' own mirror axis: how far labels lie to the right of the axis that the pictures show.

Annotators, or the convention of a tool, may put every label a little to one side. A mirrored picture then has its labels on the
other side of the face, and a model is taught both. The offset is found without any model: faces are aligned by their labels
alone, so that the labels' axis is the middle column, and averaged. A mean of many faces seen from the front is symmetric about
the pictures' own axis, and where that lies is measured: it is the column about which the mean face differs least from its
mirror image.

Offsets are fractions of the longer side of the landmarks' tight box, positive to the right. `CROP` times that is about the
offset in pixels of a crop of 128 pixels at scale 1.2.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from ldeq.data.crop import compose, transform_points, warp
from ldeq.data.errors import FaceError
from ldeq.data.labels import sound
from ldeq.data.layouts import Layout
from ldeq.data.records import Faces

Array = NDArray[np.float64]

CROP = 128 / 1.2

FEWEST = 40
"""Faces below which nothing is estimated."""

# Side of the aligned pictures, and of the face in them, in pixels.
_SIZE = 160
_FACE = 107.0

# Offsets that are sought, in pixels of the aligned pictures: a twentieth of the face.
_FARTHEST = 5.0

# Shading from one side, of light or of the turn of a head, is smoother than this, in pixels; edges of a face are not.
_SMOOTH = 5.0

# Parts of the faces whose estimates show how far chance moves the whole.
_PARTS = 8


@dataclass(frozen=True)
class AxisOffset:
    """How far the labels of a source lie to the right of the pictures' mirror axis.

    Attributes:
        offset: a fraction of the longer side of the landmarks' tight box.
        deviation: its standard deviation, from the estimates of parts of the faces.
        faces: how many faces it comes from, those whose labels are most symmetric.
    """

    offset: float
    deviation: float
    faces: int

    @property
    def clear(self) -> bool:
        """Whether chance does not explain it: at least three deviations."""
        return abs(self.offset) >= 3 * self.deviation

    def text(self) -> str:
        """The offset in words."""
        side = "right" if self.offset >= 0 else "left"
        return (
            f"labels lie {abs(self.offset) * 100:.2f} +- {self.deviation * 100:.2f} % of the face's longer side to the {side} "
            f"of the pictures' mirror axis ({abs(self.offset) * CROP:.2f} +- {self.deviation * CROP:.2f} pixels of a "
            f"128-pixel crop, {self.faces} faces)"
        )


def estimate_axis(faces: Faces, most: int = 600, progress: Callable[[int, int], None] | None = None) -> AxisOffset | None:
    """Estimates how far the labels of a set lie beside the pictures' mirror axis.

    Args:
        faces: the faces; their layout needs mirror pairs.
        most: evenly spaced faces that are looked at.
        progress: called with (done, total).

    Returns:
        The offset, or None where fewer than `FEWEST` faces can be used or the layout has no mirror pairs.
    """
    layout = faces.layout
    if not _pairs(layout).size:
        return None
    chosen = np.unique(np.linspace(0, len(faces) - 1, min(most, len(faces))).round().astype(int)).tolist()
    points = [np.asarray(faces.record(i).points, np.float64) for i in chosen]
    usable = [(i, p) for i, p in zip(chosen, points, strict=True) if sound(p, layout)]
    # Half of the faces, those seen most from the front: how a head turns need not be balanced in a set.
    order = np.argsort([asymmetry(p, layout) for _, p in usable])[: (len(usable) + 1) // 2]
    usable = [usable[k] for k in sorted(order.tolist())]
    pictures: list[Array] = []
    for done, (index, shape) in enumerate(usable, 1):
        try:
            pictures.append(_aligned(faces.read(index), shape, layout))
        except FaceError:
            continue
        finally:
            if progress is not None:
                progress(done, len(usable))
    if len(pictures) < FEWEST:
        return None
    parts = [_picture_axis(np.mean(pictures[k::_PARTS], axis=0)) for k in range(_PARTS)]
    deviation = float(np.std(parts, ddof=1) / np.sqrt(_PARTS))
    return AxisOffset(-_picture_axis(np.mean(pictures, axis=0)) / _FACE, deviation / _FACE, len(pictures))


def asymmetry(points: Array, layout: Layout) -> float:
    """How far labels `(K, 2)` are from their own mirror image, as a fraction of their extent."""
    frame = transform_points(_to_frame(points, layout), points)
    mirrored = frame[layout.mirror_index] * (-1.0, 1.0)
    return float(np.sqrt(np.mean((frame - mirrored) ** 2)))


def _pairs(layout: Layout) -> NDArray[np.int64]:
    """`(P, 2)` mirror pairs."""
    return np.array([(i, j) for i, j in enumerate(layout.mirror) if i < j], np.int64).reshape(-1, 2)


def _to_frame(points: Array, layout: Layout) -> Array:
    """`(2, 3)`: from pixels to the face's own frame, whose axis is x = 0 and in which the face's longer side is 1."""
    first, second = points[_pairs(layout)].transpose(1, 0, 2)
    across = second - first
    # Which of a pair has the lower number says nothing. All are brought to one side, and that is the right one in a picture in
    # which the face is upright to within a quarter turn.
    right = (across * np.where(across @ across.sum(0) >= 0, 1.0, -1.0)[:, None]).sum(0)
    right *= (1.0 if right[0] >= 0 else -1.0) / np.linalg.norm(right)
    turn = np.array([right, (-right[1], right[0])])
    turned = points @ turn.T
    middle = np.array([((first + second) @ turn.T)[:, 0].mean() / 2, (turned[:, 1].max() + turned[:, 1].min()) / 2])
    scale = 1.0 / np.ptp(turned, axis=0).max()
    return np.column_stack([turn * scale, -middle * scale])


def _aligned(image: NDArray[np.uint8], points: Array, layout: Layout) -> Array:
    """The picture in the face's own frame, its edges alone: `(_SIZE, _SIZE)`."""
    centre = (_SIZE - 1) / 2
    to_crop = compose(np.array([[_FACE, 0, centre], [0, _FACE, centre]]), _to_frame(points, layout))
    grey = cv2.cvtColor(warp(image, to_crop, _SIZE), cv2.COLOR_RGB2GRAY).astype(np.float64)
    edges = grey - cv2.GaussianBlur(grey, (0, 0), _SMOOTH)
    # A picture of high contrast counts no more than others.
    return np.asarray(edges / (edges.std() + 1.0), np.float64)


def _picture_axis(mean: Array) -> float:
    """How far to the right of the middle the mirror axis of a mean face lies, in pixels."""
    rows, columns = np.mgrid[:_SIZE, :_SIZE] - (_SIZE - 1) / 2
    window = np.exp(-(((rows**2 + columns**2) / (2 * (0.4 * _FACE) ** 2)) ** 2))

    def difference(offset: float) -> float:
        # The mean moved to the left by the offset, so that the axis that is tried is the middle column.
        moved = cv2.warpAffine(mean, np.array([[1.0, 0, -offset], [0, 1, 0]]), (_SIZE, _SIZE), flags=cv2.INTER_CUBIC)
        return float((window * (moved - moved[:, ::-1]) ** 2).sum() / (window * moved**2).sum())

    tried = np.arange(-_FARTHEST, _FARTHEST + 0.25, 0.5)
    values = np.array([difference(v) for v in tried])
    best = int(np.argmin(values[1:-1])) + 1
    below, here, above = values[best - 1 : best + 2]
    curvature = below - 2 * here + above
    return float(tried[best] + (0.5 * 0.5 * (below - above) / curvature if curvature > 0 else 0.0))
