"""How a face moves beyond a similarity: smooth fields for pose, and openings of mouth and eyes.

The fields are made from the face's own first shape, so that no statistics of other faces are needed and any layout with the
usual parts will do. The frame: x along the outer eye corners, y down the face, RMS radius of the rigid landmarks 1.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ...data import Layout
from .base import Array

EYES = ("left_eye", "right_eye")
LIPS = ("outer_lip", "inner_lip")
PUPILS = ("left_pupil", "right_pupil")


class Modes(NamedTuple):
    """Displacement fields of a shape.

    - `fields`: `(..., K, 2, M)`, the landmarks' displacement per unit of each mode; the largest step of a landmark is 1.
    - `bend`: which of the M belong to the pose.
    - `opening`: which of the M open and close mouth and eyes.
    """

    fields: Array
    bend: NDArray[np.intp]
    opening: NDArray[np.intp]


def rigid_landmarks(layout: Layout) -> NDArray[np.bool_]:
    """`(K,)`: the landmarks that expressions move least: all but eyelids, pupils, lips, and the contour about the chin."""
    rigid = np.ones(layout.count, bool)
    for name in (*EYES, *LIPS, *PUPILS):
        if name in layout.parts:
            rigid[list(layout.parts[name].indices)] = False
    rigid[list(layout.outer_eyes)] = True
    if "contour" in layout.parts:
        contour = np.array(layout.parts["contour"].indices)
        n = len(contour)
        rigid[contour[n // 4 : n - n // 4]] = False
    # A layout of one's own may hold nothing but what moves; a similarity needs two landmarks.
    return rigid if rigid.sum() >= 2 else np.ones(layout.count, bool)


def opening_landmarks(layout: Layout) -> NDArray[np.bool_]:
    """`(K,)`: lids, pupils and lips."""
    moving = np.zeros(layout.count, bool)
    for name in (*EYES, *LIPS, *PUPILS):
        if name in layout.parts:
            moving[list(layout.parts[name].indices)] = True
    return moving


def face_modes(layout: Layout, shape: Array) -> Modes:
    """Fields about a shape `(..., K, 2)` in the face's frame.

    - *bend*: stretch, shear, and the quadratic fields x^2, xy, y^2 in x and in y: a turn or a nod of a convex head, to second
      order.
    - *opening*: for each eye the upper and the lower lid, as parabolas between the corners; for the mouth the upper and the
      lower lip, the width, and the jaw.
    """
    x, y = shape[..., 0], shape[..., 1]
    zero = np.zeros_like(x)
    bend = [(x, -y), (y, x)]
    for quadratic in (x * x, x * y, y * y):
        bend += [(quadratic, zero), (zero, quadratic)]
    opening: list[tuple[Array, Array]] = []
    for name in EYES:
        if name in layout.parts:
            opening += [(zero, field) for field in _lids(shape, list(layout.parts[name].indices))]
    lips = [list(layout.parts[name].indices) for name in LIPS if name in layout.parts]
    if lips:
        # Each closed line has its own corners; both move as one pair of lips.
        halves = [_lids(shape, line) for line in lips]
        upper, lower = (np.sum([half[i] for half in halves], axis=0) for i in (0, 1))
        members = np.zeros(layout.count, bool)
        members[[i for line in lips for i in line]] = True
        centre = np.where(members, x, 0).sum(-1, keepdims=True) / members.sum()
        width = np.where(members, x - centre, 0)
        opening += [(zero, upper), (zero, lower), (width, zero), (zero, np.where(members, 1.0, 0.0) * np.ones_like(x))]
        if "contour" in layout.parts:
            opening.append((zero, _jaw(shape, list(layout.parts["contour"].indices))))
    fields = np.stack([np.stack(f, -1) for f in (*bend, *opening)], -1)
    largest = np.maximum(np.linalg.norm(fields, axis=-2).max(-2), 1e-9)
    m = len(bend)
    return Modes(fields / largest[..., None, None, :], np.arange(m), np.arange(m, m + len(opening)))


def _lids(shape: Array, line: list[int]) -> tuple[Array, Array]:
    """Parabolas of height 1 on the upper and on the lower half of a closed line, 0 at its corners: two `(..., K)`."""
    ring = shape[..., line, :]
    x, y = ring[..., 0], ring[..., 1]
    left, right = x.min(-1, keepdims=True), x.max(-1, keepdims=True)
    s = (x - left) / np.maximum(right - left, 1e-9)
    bump = 4 * s * (1 - s)
    # Upper or lower by the order along the line, which holds for a closed eye too: the first half runs over the upper lid.
    n = len(line)
    corners = n // 2
    is_upper = np.arange(n) < corners
    # The line may start at either corner or run the other way round; the mean height settles it.
    up = np.where((y * is_upper).sum(-1) / corners <= (y * ~is_upper).sum(-1) / (n - corners), 1, 0)[..., None].astype(bool)
    upper = np.where(up, is_upper, ~is_upper)
    fields = []
    for half in (upper, ~upper):
        field = np.zeros(shape.shape[:-1])
        field[..., line] = np.where(half, bump, 0.0)
        fields.append(field)
    return fields[0], fields[1]


def _jaw(shape: Array, contour: list[int]) -> Array:
    """cos^2 along the contour, 1 at the chin and 0 a quarter of the line away from its ends."""
    n = len(contour)
    t = np.clip((np.arange(n) - (n - 1) / 2) / (n / 4), -1, 1)
    field = np.zeros(shape.shape[:-1])
    field[..., contour] = np.cos(np.pi / 2 * t) ** 2
    return field
