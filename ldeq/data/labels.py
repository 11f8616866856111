"""The one judge of labels: whether a face can be trained and scored with.

Readers ask it for every face that they load, and training samples ask it again once the size of the picture is known.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ldeq.data.layouts import Layout

FARTHEST_PIXEL = 1e6
"""Largest coordinate in pixels where the size of the picture is not known; no picture that can be read is so wide."""

FARTHEST_SIDES = 5.0
"""Where the size is known: how far outside the picture a landmark may lie, in longer sides of it. Faces that are cut off have
landmarks outside by less than their own size."""

SMALLEST_EXTENT = 1.0
"""Least extent of the landmarks in pixels; below it they are no pixels but fractions of the picture."""

SMALLEST_NORMALISER = 1e-3
"""Least distance between the outer eye corners, as a fraction of the landmarks' extent."""

_FAR = 20.0
"""A landmark is at fault if it lies so many times as far from the middle as the next one."""


def label_fault(
    points: NDArray[Any],
    layout: Layout,
    rect: Sequence[float] | None = None,
    size: tuple[int, int] | None = None,
) -> str | None:
    """Why the labels of a face cannot be used, or None where they can.

    Args:
        points: `(K, 2)` pixels; they are judged as float32, which is how they are kept.
        layout: what they mean.
        rect: the face's rectangle (x1, y1, x2, y2) in pixels, where it has one.
        size: (height, width) of the picture, where it is known.
    """
    if np.shape(points) != (layout.count, 2):
        return f"{layout.count} points (x, y) expected, an array of shape {np.shape(points)} found"
    array = np.asarray(points, np.float64)
    fault = None if sound(points, layout) else _fault(array, layout)
    return fault or _outside(array, size) or _rect_fault(rect, size)


def sound(points: NDArray[Any], layout: Layout) -> NDArray[np.bool_]:
    """Whether labels are finite in float32, of this world, have an extent and eyes apart: `(..., K, 2)` -> `(...)`."""
    with np.errstate(over="ignore", invalid="ignore"):
        array = np.asarray(points, np.float64).astype(np.float32).astype(np.float64)
        extent = np.ptp(array, axis=-2).max(-1)
        # Comparisons with NaN are false.
        near = np.abs(array).max((-1, -2)) <= FARTHEST_PIXEL
        return near & (extent >= SMALLEST_EXTENT) & (layout.inter_ocular(array) >= SMALLEST_NORMALISER * extent)


def _fault(points: NDArray[np.float64], layout: Layout) -> str:
    """The words for labels that are not sound."""
    with np.errstate(over="ignore"):
        finite = np.isfinite(points.astype(np.float32)).all(1)
    if not finite.all():
        return f"landmark {int(np.argmin(finite))} is not finite in float32"
    farthest = int(np.argmax(np.abs(points).max(1)))
    if np.abs(points[farthest]).max() > FARTHEST_PIXEL:
        return f"landmark {farthest} lies at {_place(points[farthest])}, farther out than any picture reaches"
    extent = float(np.ptp(points, axis=0).max())
    if extent == 0.0:
        return f"all landmarks lie at one point, {_place(points[0])}"
    if extent < SMALLEST_EXTENT:
        return f"the landmarks span {extent:.3g} pixels; are they fractions of the picture's size?"
    a, b = layout.outer_eyes
    # Beside one that lies far away, the eyes coincide, too: the far one is at fault.
    middle = np.median(points, axis=0)
    away = np.abs(points - middle).max(1)
    if away.max() > _FAR * np.sort(away)[-2]:
        odd = int(np.argmax(away))
        return f"landmark {odd} lies at {_place(points[odd])}, far from all others about {_place(middle)}"
    return f"landmarks {a} and {b}, whose distance normalises errors, coincide"


def _outside(points: NDArray[np.float64], size: tuple[int, int] | None) -> str | None:
    if size is None:
        return None
    height, width = size
    room = FARTHEST_SIDES * max(height, width)
    out = ((points < -room) | (points > np.array([width + room, height + room]))).any(1)
    if not out.any():
        return None
    first = int(np.argmax(out))
    return f"landmark {first} lies at {_place(points[first])}, far outside the picture of {width} x {height} pixels"


def _rect_fault(rect: Sequence[float] | None, size: tuple[int, int] | None) -> str | None:
    if rect is None:
        return None
    x1, y1, x2, y2 = (float(v) for v in rect)
    limit = FARTHEST_PIXEL if size is None else (FARTHEST_SIDES + 1) * max(size)
    # A comparison with NaN is false.
    if not all(abs(v) <= limit for v in (x1, y1, x2, y2)):
        return f"the rectangle {_numbers(rect)} is not finite or lies far outside the picture"
    if x2 < x1 or y2 < y1 or (x2 == x1 and y2 == y1):
        return f"the rectangle {_numbers(rect)} is not (x1, y1, x2, y2) with x1 < x2 and y1 < y2"
    return None


def _place(point: NDArray[np.float64]) -> str:
    return f"({float(point[0]):g}, {float(point[1]):g})"


def _numbers(values: Sequence[float]) -> str:
    return f"({', '.join(f'{float(v):g}' for v in values)})"
