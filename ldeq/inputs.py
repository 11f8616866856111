"""What callers hand over to find landmarks in: pictures and boxes, checked before anything is computed from them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import LdeqError


class InputError(LdeqError, ValueError):
    """A picture, a box or a time that cannot be used; the message says what it must be."""


def checked_picture(image: Any, what: str = "image must be") -> NDArray[np.uint8]:
    """The picture itself, `(H, W, 3)` uint8.

    Args:
        image: whatever was handed over.
        what: the argument and what else it may be, for the sentence.

    Raises:
        InputError: if it is no RGB uint8 array with at least one pixel.
    """
    if not isinstance(image, np.ndarray) or image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        found = f"{image.dtype} {image.shape}" if isinstance(image, np.ndarray) else type(image).__name__
        raise InputError(f"{what} an RGB uint8 array (H, W, 3), got {found}")
    if image.size == 0:
        raise InputError(f"{what} an RGB uint8 array (H, W, 3) with at least one pixel, got {image.shape}")
    return image


# Boxes reach outside their picture where a face does. One that is this many times as far away, or as large, is in other units.
FARTHEST_BOX = 32


def checked_boxes(boxes: Any, shape: tuple[int, ...] | None = None, what: str = "boxes") -> NDArray[np.float64]:
    """Boxes as `(N, 4)` float64, whatever holds them.

    Args:
        boxes: anything like `(N, 4)`, x1 y1 x2 y2 in pixels: an array, a list, a tensor on any device. None, and whatever is
            empty, is no box.
        shape: of the picture, height first; None where it is not known yet.
        what: name of the argument, for the sentence.

    Raises:
        InputError: for another shape, for what is no number, and for boxes without extent or far outside the picture.
    """
    if boxes is None:
        return np.zeros((0, 4))
    if hasattr(boxes, "detach"):
        boxes = boxes.detach().cpu().numpy()
    try:
        array = np.array(boxes, np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        raise InputError(f"{what} must have shape (N, 4), x1 y1 x2 y2 in pixels, got {type(boxes).__name__}") from error
    if array.size == 0:
        return np.zeros((0, 4))
    if array.ndim != 2 or array.shape[1] != 4:
        raise InputError(f"{what} must have shape (N, 4), x1 y1 x2 y2 in pixels, got {array.shape}")
    if not np.isfinite(array).all():
        raise InputError(f"{what} must be finite, x1 y1 x2 y2 in pixels, got {array[~np.isfinite(array).all(1)][0].tolist()}")
    if not ((array[:, 2] > array[:, 0]) & (array[:, 3] > array[:, 1])).all():
        raise InputError(f"{what} must be x1, y1, x2, y2 with x1 < x2 and y1 < y2")
    if shape is not None:
        height, width = shape[:2]
        far = np.abs(array).max(1) > FARTHEST_BOX * max(height, width)
        if far.any():
            raise InputError(f"{what} must be in pixels of the picture, {width} x {height}, got {array[far][0].tolist()}")
    return array
