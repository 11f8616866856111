"""What callers hand over: numbers, pictures and boxes, checked before anything is computed from them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import ArgumentError

SLOWEST = 1e-6
"""Frames a second: a picture in eleven days. The arithmetic of the filters and the scores holds from here on."""

FASTEST = 100_000
"""Frames a second; high-speed cameras with faces before them stay below."""


class InputError(ArgumentError):
    """A picture, a box or a time that cannot be used; the message says what it must be."""


def is_finite(value: Any) -> bool:
    """Whether a value is a number that a float can hold; an integer may be too large."""
    try:
        return math.isfinite(value)
    except (TypeError, ValueError, OverflowError):
        return False


def checked_rate(fps: Any, name: str = "fps") -> float:
    """Frames a second of a video, a camera or a time lapse.

    Args:
        fps: whatever was handed over.
        name: of the argument, for the sentence.

    Raises:
        ArgumentError: if it is no number from `SLOWEST` to `FASTEST`.
    """
    if isinstance(fps, bool) or not is_finite(fps) or not SLOWEST <= fps <= FASTEST:
        raise ArgumentError(f"{name} must be frames a second, from {SLOWEST:g} to {FASTEST:,}, got {fps!r}")
    return float(fps)


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


def picture_from(image: Any) -> NDArray[np.uint8]:
    """A picture from what other libraries hold: `(H, W, 3)` RGB uint8.

    Args:
        image: an RGB array `(H, W, 3)` uint8; a Pillow image, turned upright as its EXIF data says; or a tensor `(3, H, W)`,
            on any device, of uint8 or of floats from 0 to 1.

    Raises:
        InputError: for anything else, and for floats outside of 0 to 1.
    """
    what = "image must be a path, a Pillow image, a tensor (3, H, W) or"
    if hasattr(image, "detach") and hasattr(image, "permute"):
        return _from_tensor(image, what)
    if hasattr(image, "getexif") and hasattr(image, "convert"):
        from PIL import ImageOps

        return np.asarray(ImageOps.exif_transpose(image).convert("RGB"), np.uint8)
    return checked_picture(image, what)


def _from_tensor(image: Any, what: str) -> NDArray[np.uint8]:
    if image.ndim != 3 or image.shape[0] != 3 or image.numel() == 0:
        raise InputError(f"{what} an RGB uint8 array (H, W, 3), got a tensor of shape {tuple(image.shape)}")
    array = image.detach().cpu().permute(1, 2, 0)
    if array.is_floating_point():
        array = array.float()
        low, high = float(array.min()), float(array.max())
        if not 0 <= low <= high <= 1:  # NaN is refused, too
            raise InputError(
                f"a tensor of floats must lie between 0 and 1, got {low:.3g} to {high:.3g}; undo its normalisation"
            )
        array = (array * 255).round()
    elif str(array.dtype) != "torch.uint8":
        raise InputError(
            f"{what} an RGB uint8 array (H, W, 3), got a tensor of {array.dtype}; use uint8, or floats from 0 to 1"
        )
    return np.ascontiguousarray(array.numpy().astype(np.uint8))


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
        array = np.asarray(boxes)
        if array.dtype.kind == "c":
            raise TypeError("complex numbers")  # NumPy would drop their imaginary parts
        array = array.astype(np.float64)
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
