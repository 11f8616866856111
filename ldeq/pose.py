"""How a head is turned, from its landmarks."""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from .data import Layout

HEAD = np.array(
    [[-.501, -.329, -.206], [-.187, -.313, -.144], [.187, -.313, -.144], [.501, -.329, -.206],
     [0, -.329, -.025], [0, -.187, .049], [0, -.046, .149], [0, .095, .258],
     [-.178, .150, .046], [-.093, .174, .096], [0, .189, .085], [.093, .174, .096], [.178, .150, .046]])  # fmt: skip
"""Corners of both eyes, ridge and lower edge of the nose, from left to right and downwards: the landmarks that expressions
move least. x to the right, y down, z to the viewer, in distances of the outer eye corners. They are the mean of drawn heads
(`ldeq.data.synthetic`), whose proportions are those of an average adult."""

RIGID = {
    "ibug-68": (36, 39, 42, 45, 27, 28, 29, 30, 31, 32, 33, 34, 35),
    "wflw-98": (60, 64, 68, 72, 51, 52, 53, 54, 55, 56, 57, 58, 59),
}
"""The same landmarks in each layout."""

FOCAL = 5.0
"""Focal length in sizes of the rigid part: a face that is seen from about a metre. Angles hardly depend on it."""


class HeadPose(NamedTuple):
    """Angles in degrees, against a head that looks straight into the camera.

    Attributes:
        yaw: above 0 the nose turns to the right of the picture.
        pitch: above 0 the nose goes down.
        roll: above 0 the head leans clockwise.
    """

    yaw: float
    pitch: float
    roll: float


def head_pose(points: ArrayLike, layout: Layout) -> HeadPose | None:
    """Angles of a head by the perspective of a rigid model, whose error `cv2.solvePnP` makes least.

    The camera looks at the middle of the face: for a face at the edge of the picture the angles are against the line of sight.

    Args:
        points: `(K, 2)` pixels.
        layout: of the points.

    Returns:
        The angles; None for a layout without these landmarks, and for points that no head has.
    """
    rigid = RIGID.get(layout.name)
    flat = np.asarray(points, np.float64)
    if rigid is None or flat.shape != (layout.count, 2):
        return None
    seen = flat[list(rigid)]
    if not np.isfinite(seen).all():
        return None
    middle, size = seen.mean(0), float(np.ptp(seen, axis=0).max())
    if size <= 0:
        return None
    # OpenCV's camera looks along z, ours has z towards the viewer.
    model = HEAD * (1, 1, -1)
    camera = np.array([[FOCAL, 0, 0], [0, FOCAL, 0], [0, 0, 1.0]])
    try:
        found, turn, shift = cv2.solvePnP(model, (seen - middle) / size, camera, None, flags=cv2.SOLVEPNP_SQPNP)
        if found:
            turn, shift = cv2.solvePnPRefineLM(model, (seen - middle) / size, camera, None, turn, shift)
    except cv2.error:
        return None
    rotation = np.asarray(cv2.Rodrigues(turn)[0]) * np.outer((1, 1, -1), (1, 1, -1))
    return _angles(rotation) if found and np.isfinite(rotation).all() else None


def _angles(rotation: NDArray[np.float64]) -> HeadPose:
    """Of a rotation that is roll after pitch after yaw."""
    r = rotation
    pitch = np.arcsin(np.clip(-r[2, 1], -1.0, 1.0))
    yaw, roll = np.arctan2(-r[2, 0], r[2, 2]), np.arctan2(-r[0, 1], r[1, 1])
    return HeadPose(*(float(np.degrees(angle)) for angle in (yaw, pitch, roll)))
