"""Fits the average head to the labels of a photo: its pose, then a smooth deformation that takes landmarks to labels."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ldeq.data.layouts import Layout
from ldeq.data.turned.head import mean_head

from ...errors import ArgumentError

Array = NDArray[np.float64]

# Rounds of pose, then outline: the outline depends on the pose.
_ROUNDS = 4

# A photo whose labels a turned average head does not explain, in face units.
_WORST = 0.25


class FittedHead:
    """A head in space whose projection are the labels of a photo.

    Args:
        points: `(K, 2)` labels in photo pixels.
        layout: of the labels.

    Attributes:
        rotation: `(3, 3)` of the head in the photo.
        scale: photo pixels in a face unit.
        mesh: `(R, C, 3)` the head's front in its own axes, in photo pixels, the origin between the eyes.
        landmarks: `(K, 3)` the landmarks in the same; those of the contour lie where the photo shows the outline.
        strips, sections: sections of the face in the same (see `MeanHead`).
        origin: `(2,)` where the head's origin is in the photo.

    Raises:
        ValueError: where no head has such landmarks, or the layout is unknown.
    """

    def __init__(self, points: Array, layout: Layout) -> None:
        self.layout, self.head = layout, mean_head(layout)
        head, target = self.head, np.asarray(points, np.float64)
        space, self.rotation, self.scale, self.origin = fit_pose(target, layout)
        error = target - (self.scale * space @ self.rotation.T)[:, :2] - self.origin
        self.mesh = self._personal(head.mesh, head.mesh_bend @ error)
        self.sections = self._personal(head.sections, head.section_bend @ error)
        self.strips = self._personal(head.strips, head.strip_bend @ error)
        self.landmarks = self._personal(space, error)

    @property
    def yaw(self) -> float:
        """Degrees; above 0 the nose turns to the right of the picture."""
        return yaw_of(self.rotation)

    def _personal(self, space: Array, moved: Array) -> Array:
        """Points of the average head in photo pixels, moved by `moved` in the plane of the photo."""
        turned = self.scale * space @ self.rotation.T
        turned[..., :2] += moved
        return np.asarray(turned @ self.rotation)


def fit_pose(points: Array, layout: Layout) -> tuple[Array, Array, float, Array]:
    """The average head as a photo shows it, before any deformation.

    Returns:
        The landmarks `(K, 3)`, those of the contour where its outline is seen; and the head's rotation, scale and origin.

    Raises:
        ValueError: where no head has such landmarks, or the layout is unknown.
    """
    head, target = mean_head(layout), np.asarray(points, np.float64)
    contour = list(head.contour)
    inner = np.setdiff1d(np.arange(layout.count), contour)
    space, sides = head.landmarks.copy(), np.sign(head.landmark_plane[contour, 0])
    rotation, scale, origin = _pose(space[inner], target[inner])
    for _ in range(_ROUNDS):
        space[contour] = head.strips[np.arange(len(contour)), outline(head.strips, rotation, sides)]
        rotation, scale, origin = _pose(space, target)
    error = target - (scale * space @ rotation.T)[:, :2] - origin
    if not float(np.sqrt((error**2).sum(1).mean())) < _WORST * scale:
        raise ArgumentError("the labels are not those of a face that a head can be fitted to.")
    return space, rotation, scale, origin


def yaw_of(rotation: Array) -> float:
    """Degrees; above 0 the nose turns to the right of the picture."""
    return float(np.degrees(np.arctan2(rotation[0, 2], rotation[2, 2])))


def across(rotation: Array) -> Array:
    """The direction in the picture that is square to the head's own vertical, `(2,)`, to the right if the head is upright."""
    along = rotation[:2, 1] / np.hypot(*rotation[:2, 1])
    return np.array([along[1], -along[0]])


def outline(strips: Array, rotation: Array, sides: Array) -> NDArray[np.int64]:
    """Which point of each section lies outermost: `(N, S, 3)`, `(3, 3)`, `(N,)` -1 or 1 -> `(N,)`."""
    # "Out" is the head's own left or right as the picture shows it, so that a leaning head changes nothing.
    long = float(np.hypot(*rotation[:2, 0]))
    way = rotation[:2, 0] / long if long > 0.3 else across(rotation)
    seen = (strips @ rotation.T)[..., :2] @ way
    return np.asarray((seen * sides[:, None]).argmax(1))


def _pose(space: Array, target: Array) -> tuple[Array, float, Array]:
    """Scaled orthography that takes `(N, 3)` to `(N, 2)` with the least squares: rotation, scale, shift."""
    centre, middle = space.mean(0), target.mean(0)
    affine = np.linalg.lstsq(space - centre, target - middle, rcond=None)[0].T
    u, s, vt = np.linalg.svd(affine, full_matrices=False)
    rows = u @ vt
    rotation = np.vstack([rows, np.cross(rows[0], rows[1])])
    scale = float(s.mean())
    if not scale > 0:
        raise ArgumentError("the labels of a face coincide.")
    # The nearest orthonormal rows of an affine map are a start; alternate to the least squares of the pose itself.
    for _ in range(6):
        depth = (scale * (space - centre) @ rotation.T)[:, 2:]
        full = np.concatenate([target - middle, depth], 1)
        u, s, vt = np.linalg.svd(full.T @ (space - centre))
        sign = np.diag([1.0, 1.0, float(np.sign(np.linalg.det(u @ vt)))])
        rotation = u @ sign @ vt
        scale = float((s * np.diag(sign)).sum() / ((space - centre) ** 2).sum())
    return rotation, scale, middle - (scale * rotation @ centre)[:2]
