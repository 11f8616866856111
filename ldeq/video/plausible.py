"""Whether landmarks can be those of the face that a crop was made for."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ..data import SquareBox

# A face whose middle is this share of the crop's side off the crop's middle has leapt: it is looked at again, from zeros, in a
# crop around where it is now. Fast heads and dropped frames do that; the head of a made clip stays below it but for a frame.
LEAP = 0.1

# Landmarks whose extent leaves this range, in shares of the extent that the crop was made for, are of no face. On the faces
# that `tracking.SETTLED` was measured on, off centre by 30 % of the crop, they stay within 0.78 .. 1.04.
EXTENT = (0.5, 1.3)

# Share of a face's box that must lie inside the picture, and its shortest useful side in pixels.
INSIDE = 0.35
SMALLEST = 12.0


def has_leapt(points: NDArray[np.float32], square: SquareBox) -> bool:
    """Whether landmarks `(K, 2)`, of a face at all, lie farther off the middle of their crop than `LEAP` of its side."""
    low, high = points.min(0), points.max(0)
    if not np.isfinite(points).all() or (high - low).max() < SMALLEST:
        return False
    off = (low + high) / 2 - (square.cx, square.cy)
    return bool(np.hypot(*off) > LEAP * square.side)


def impossible(points: NDArray[np.float32], std: NDArray[np.float32], size: float, shape: Sequence[int]) -> str | None:
    """Why these landmarks cannot be of the face that the crop was made for, or None.

    Args:
        points: `(K, 2)` pixels.
        std: `(K,)`, their deviations.
        size: longer side of the face's box that the crop was made for, in pixels.
        shape: height and width of the picture.
    """
    if not (np.isfinite(points).all() and np.isfinite(std).all()):
        return "the model answered with NaN"
    low, high = points.min(0), points.max(0)
    side = float((high - low).max())
    if side < SMALLEST:
        return f"the face is {side:.0f} pixels small"
    if not EXTENT[0] < side / size < EXTENT[1]:
        return f"the face's size changed by a factor of {side / size:.2f}"
    edge = np.array([shape[1], shape[0]]) - 0.5
    inside = np.prod(np.clip(np.minimum(high, edge) - np.maximum(low, -0.5), 0, None)) / max(np.prod(high - low), 1e-6)
    if inside < INSIDE:
        return f"{100 * (1 - inside):.0f} % of the face left the picture"
    return None
