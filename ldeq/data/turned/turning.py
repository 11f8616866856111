"""Draws a photographed face as it would be seen from the side, and says where its landmarks are.

The face and the skull are a mesh over the photo, turned in space and drawn with hidden surfaces removed. What is about the head
stays in place and is bent only as far as the new outline of the head asks for, so that no hole opens beside it (as Zhu et al.,
"Face Alignment Across Large Poses", CVPR 2016, do with points about the face).

Labels follow the annotators of 300-W and WFLW. The contour lies on the outline that is seen: on the far side on the cheek, and
not on the nose. Landmarks of the far side that are hidden are put at the outline next to them.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from ldeq.data.synthetic.mesh import seen_texels
from ldeq.data.turned.fitting import FittedHead, across, outline

Array = NDArray[np.float64]
Image = NDArray[np.uint8]

FACE = 0.5
"""Longer side of the landmarks' box over the side of the picture."""

# What a head turns about, in face units: the middle of the skull.
_PIVOT = np.array([0.0, 0.3, -0.75])

# Beyond this distance from the pivot nothing moves, in face units.
_CALM = 2.4

# Landmarks farther from the middle of the face than this, in face units, belong to one of its sides.
_MIDDLE = 0.02

_GRID = 8  # pixels between places at which the bending of the background is computed


class TurnedFace:
    """One photo with its face turned.

    Args:
        fitted: the head in the photo.
        rotation: `(3, 3)` the head's new rotation.
        size: side of the square picture in pixels.

    Attributes:
        points: `(K, 2)` the labels in pixels of the picture.
    """

    def __init__(self, fitted: FittedHead, rotation: Array, size: int) -> None:
        self.fitted, self.rotation, self.size = fitted, np.asarray(rotation, np.float64), size
        unit = fitted.scale
        pivot = _PIVOT * unit
        # The pivot stays where it is in the photo.
        self._shift = (fitted.rotation @ pivot)[:2] - (self.rotation @ pivot)[:2] + fitted.origin
        self._centre = (fitted.rotation @ pivot)[:2] + fitted.origin
        labels = self._labels()
        low, high = labels.min(0), labels.max(0)
        self._zoom = FACE * size / float((high - low).max())
        self._offset = (size - 1) / 2 - self._zoom * (low + high) / 2
        self.points: Array = self._zoom * labels + self._offset

    def _turned(self, space: Array) -> tuple[Array, Array]:
        """Where points of the head are in the photo's pixels, and how near they are."""
        moved = space @ self.rotation.T
        return moved[..., :2] + self._shift, moved[..., 2]

    def _labels(self) -> Array:
        fitted, head = self.fitted, self.fitted.head
        labels, _ = self._turned(fitted.landmarks)
        contour = list(head.contour)
        sides = np.sign(head.landmark_plane[contour, 0])
        chosen = outline(fitted.strips, self.rotation, sides)
        strips, _ = self._turned(fitted.strips)
        labels[contour] = strips[np.arange(len(chosen)), chosen]
        inner = np.setdiff1d(np.arange(len(labels)), contour)
        labels[inner] = self._to_outline(labels[inner], inner)
        return labels

    def _to_outline(self, labels: Array, which: NDArray[np.int64]) -> Array:
        """Landmarks of the far side that the middle of the face hides, moved out to where that ends."""
        far = 1.0 if self.rotation[0, 2] > 0 else -1.0
        way = far * across(self.rotation)
        sections, _ = self._turned(self.fitted.sections[which])
        behind = (sections @ way).max(1) - labels @ way
        on_far_side = far * self.fitted.head.landmark_plane[which, 0] > _MIDDLE
        return np.asarray(labels + (np.maximum(behind, 0) * on_far_side)[:, None] * way)

    def draw(self, photo: Image) -> Image:
        """The picture, `(size, size, 3)`, of the photo that was fitted, `(H, W, 3)` RGB uint8."""
        # A mirrored edge goes on for as far as any crop shows it; what lies farther out repeats.
        pad = max(photo.shape[:2]) // 3
        canvas = np.asarray(cv2.copyMakeBorder(photo, pad, pad, pad, pad, cv2.BORDER_REFLECT_101), np.uint8)
        front, seen = self._front()
        places = np.where(seen[..., None], front, self._background())
        drawn = _sample(canvas, places + pad)
        # The outline is as soft as other edges of a photo.
        edge = cv2.morphologyEx(seen.astype(np.uint8), cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8)) > 0
        drawn[edge] = cv2.blur(drawn, (3, 3))[edge]
        return drawn

    def _front(self) -> tuple[Array, NDArray[np.bool_]]:
        """Photo place of the head that each pixel shows, and whether it shows any."""
        fitted = self.fitted
        places, depth = self._turned(fitted.mesh)
        source = (fitted.mesh @ fitted.rotation.T)[..., :2] + fitted.origin
        return seen_texels(self._zoom * places + self._offset, depth, source, self.size)

    def _background(self) -> Array:
        """Photo place of what is about the head, for each pixel."""
        fitted = self.fitted
        before = (fitted.mesh @ fitted.rotation.T)[..., :2] + fitted.origin
        after, _ = self._turned(fitted.mesh)
        ends_after, ends_before = [], []
        for sign in (-1.0, 1.0):
            way = sign * fitted.rotation[:2, 0] / np.hypot(*fitted.rotation[:2, 0])
            rows = np.arange(len(before))
            ends_before.append(before[rows, (before @ way).argmax(1)])
            ends_after.append(after[rows, (after @ way).argmax(1)])
        old, new = np.concatenate(ends_before), np.concatenate(ends_after)
        angle = np.linspace(0, 2 * np.pi, 24, endpoint=False)
        calm = self._centre + _CALM * fitted.scale * np.stack([np.cos(angle), np.sin(angle)], 1)
        places, moved = np.concatenate([new, calm]), np.concatenate([old - new, np.zeros_like(calm)])
        nodes = np.arange(0, self.size + _GRID, _GRID, dtype=np.float64)
        grid = (np.stack(np.meshgrid(nodes, nodes), -1) - self._offset) / self._zoom
        square = ((grid[:, :, None] - places) ** 2).sum(-1) + (0.02 * fitted.scale) ** 2
        weight = square**-1.5
        bend = (weight @ moved) / weight.sum(-1, keepdims=True)
        # Far away the weights of all points are alike; there nothing moves.
        distance = np.sqrt(((grid - self._centre) ** 2).sum(-1)) / (_CALM * fitted.scale)
        bend *= np.clip(2.5 - 2.0 * distance, 0, 1)[..., None]
        coarse = (grid + bend).astype(np.float32)
        span = (self.size - 1) / _GRID
        at = np.linspace(0, span, self.size, dtype=np.float32)
        x, y = np.meshgrid(at, at)
        return np.asarray(cv2.remap(coarse, x, y, cv2.INTER_LINEAR), np.float64)


def _sample(canvas: Image, places: Array) -> Image:
    where = places.astype(np.float32)
    found = cv2.remap(canvas, where, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)  # type: ignore[call-overload]
    return np.asarray(found, np.uint8)
