"""The one crop function that training, evaluation and demonstrations share, and the affine maps behind it.

**Pixel convention.** Coordinates are indices: the centre of the top-left pixel is (0, 0), as in ``cv2.warpAffine``, so
the pixel's own square reaches from -0.5 to 0.5. Unit crop coordinates are index / S for a crop of S x S pixels, without
a half-pixel offset, as the model's readout gives them (column / W). A mirror maps index x to S - 1 - x, hence unit
coordinate u to (S - 1) / S - u.

A crop follows the resize convention: the outer edges of the square meet the outer edges of the crop,
x' = (x - x0 + 0.5) * S / side - 0.5.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import cv2
import numpy as np

from ..errors import ArgumentError
from ..spelling import did_you_mean

CropRule = Literal["hih", "landmarks", "rect", "box"]
CROP_RULES: tuple[str, ...] = get_args(CropRule)

Rect = tuple[float, float, float, float]


@dataclass(frozen=True)
class SquareBox:
    """A square region of an image.

    Attributes:
        x0: index of its first column; its left edge is ``x0 - 0.5``.
        y0: index of its first row.
        side: width and height in pixels; for integers it covers columns x0 .. x0 + side - 1.
    """

    x0: float
    y0: float
    side: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.x0) and math.isfinite(self.y0) and math.isfinite(self.side) and self.side > 0):
            raise ArgumentError(
                f"a crop needs finite coordinates and a positive side, not x0={self.x0}, y0={self.y0}, "
                f"side={self.side}: check that the box or the landmarks span more than one point."
            )

    @classmethod
    def about(cls, cx: float, cy: float, side: float) -> SquareBox:
        """The square of a side (pixels) whose centre is the index (cx, cy)."""
        return cls(cx - (side - 1) / 2, cy - (side - 1) / 2, side)

    @property
    def cx(self) -> float:
        """Index of the centre, horizontally."""
        return self.x0 + (self.side - 1) / 2

    @property
    def cy(self) -> float:
        """Index of the centre, vertically."""
        return self.y0 + (self.side - 1) / 2


def crop_box(
    rule: CropRule | str,
    *,
    points: np.ndarray | None = None,
    rect: Rect | Sequence[float] | np.ndarray | None = None,
    box: Rect | Sequence[float] | np.ndarray | None = None,
    scale: float = 1.2,
) -> SquareBox:
    """The square to cut out of an image.

    Rules:

    - ``"hih"``: the rule behind the HIH crops of WFLW. Minimum and maximum over the landmarks **and** the two corners
      of the data set's rectangle, cut to integers; wh = max - min + 1; side = int(max(wh) * scale); centre =
      int(min + wh / 2); first pixel = centre - side // 2.
    - ``"landmarks"``: the tight extent of the landmarks times `scale`, about its centre, without rounding.
    - ``"rect"``: the data set's rectangle, in the same way.
    - ``"box"``: a box that the caller gives (a detector's, a tracker's), in the same way.

    Args:
        rule: one of the four names.
        points: `(K, 2)` landmarks in pixels, for ``"hih"`` and ``"landmarks"``.
        rect: (x1, y1, x2, y2) in pixels, for ``"hih"`` and ``"rect"``.
        box: (x1, y1, x2, y2) in pixels, for ``"box"``.
        scale: side over the longer side of the extent.

    Raises:
        ValueError: for an unknown rule, for an input that the rule needs and did not get, for a region without extent.
    """
    if rule not in CROP_RULES:
        raise ArgumentError(
            f"unknown crop rule {rule!r}{did_you_mean(rule, CROP_RULES)}: choose one of {', '.join(map(repr, CROP_RULES))}."
        )
    if not (math.isfinite(scale) and scale > 0):
        raise ArgumentError(f"the crop scale must be a positive number, not {scale}.")
    if rule == "hih":
        corners = _rect_array(rect, rule, "rect").reshape(2, 2)
        every = np.concatenate([_points_array(points, rule), corners])
        # Integers by truncation, as the published crops were made, negative coordinates included.
        low, high = np.trunc(every.min(0)), np.trunc(every.max(0))
        extent = high - low + 1
        side = int(extent.max() * scale)
        centre = np.trunc(low + extent / 2)
        return SquareBox(float(centre[0] - side // 2), float(centre[1] - side // 2), float(side))
    if rule == "landmarks":
        array = _points_array(points, rule)
        x1, y1, x2, y2 = (float(v) for v in (*array.min(0), *array.max(0)))
    else:
        x1, y1, x2, y2 = (float(v) for v in _rect_array(rect if rule == "rect" else box, rule, rule))
    return SquareBox.about((x1 + x2) / 2, (y1 + y2) / 2, max(x2 - x1, y2 - y1) * scale)


def _points_array(points: np.ndarray | None, rule: str) -> np.ndarray:
    if points is None:
        raise ArgumentError(f"crop rule {rule!r} needs landmarks: pass points=, or choose 'rect' or 'box'.")
    array = np.asarray(points, dtype=np.float64)
    if array.ndim != 2 or array.shape[1] != 2 or len(array) == 0 or not np.isfinite(array).all():
        raise ArgumentError(f"crop rule {rule!r} needs finite landmarks of shape (K, 2), not shape {array.shape}.")
    return array


def _rect_array(rect: Rect | Sequence[float] | np.ndarray | None, rule: str, name: str) -> np.ndarray:
    if rect is None:
        other = "'landmarks'" if name == "rect" else "'landmarks' or 'rect'"
        raise ArgumentError(f"crop rule {rule!r} needs a rectangle, and this face has none: pass {name}=, or use {other}.")
    array = np.asarray(rect, dtype=np.float64)
    if array.shape != (4,) or not np.isfinite(array).all():
        raise ArgumentError(f"{name} must be four finite numbers (x1, y1, x2, y2), not {rect}.")
    if array[2] < array[0] or array[3] < array[1]:
        raise ArgumentError(f"{name} must be (x1, y1, x2, y2) with x1 <= x2 and y1 <= y2, not {tuple(array.tolist())}.")
    return array


def crop_matrix(square: SquareBox, size: int) -> np.ndarray:
    """The map from image index to crop index, x' = (x - x0 + 0.5) * size / side - 0.5: `(2, 3)` float64."""
    ratio = size / square.side
    return np.array(
        [[ratio, 0.0, (0.5 - square.x0) * ratio - 0.5], [0.0, ratio, (0.5 - square.y0) * ratio - 0.5]],
        dtype=np.float64,
    )


def compose(second: np.ndarray, first: np.ndarray) -> np.ndarray:
    """The map that applies `first`, then `second`; all are `(2, 3)`, the result is float64."""
    a, b = np.asarray(second, dtype=np.float64), np.asarray(first, dtype=np.float64)
    result = a[:, :2] @ b
    result[:, 2] += a[:, 2]
    return result


def invert(matrix: np.ndarray) -> np.ndarray:
    """The inverse of an affine map: `(2, 3)` -> `(2, 3)` float64.

    Raises:
        ValueError: where the map is singular.
    """
    (a, b, tx), (c, d, ty) = np.asarray(matrix, dtype=np.float64).tolist()
    determinant = a * d - b * c
    if determinant == 0 or not math.isfinite(determinant):
        raise ArgumentError("this affine map cannot be inverted: its determinant is zero or not finite.")
    a, b, c, d = d / determinant, -b / determinant, -c / determinant, a / determinant
    return np.array([[a, b, -(a * tx + b * ty)], [c, d, -(c * tx + d * ty)]], dtype=np.float64)


def transform_points(matrix: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Points under an affine map: `(2, 3)` and `(..., 2)` -> `(..., 2)`, computed in float64.

    float32 points give float32 back; any other dtype gives float64.
    """
    points = np.asarray(points)
    matrix = np.asarray(matrix, dtype=np.float64)
    moved = points.astype(np.float64) @ matrix[:, :2].T + matrix[:, 2]
    return moved.astype(np.float32) if points.dtype == np.float32 else moved


def reduce_region(image: np.ndarray, x0: int, y0: int, x1: int, y1: int, factor: int) -> tuple[np.ndarray, np.ndarray] | None:
    """Cut a region out of an image and shrink it by a whole factor, each pixel the mean of a block.

    Blocks start at (x0, y0); those wholly outside the image are left out, those partly outside count black there.

    Args:
        image: `(H, W)` or `(H, W, C)` uint8.
        x0, y0, x1, y1: the region in pixels, x1 and y1 exclusive; it may reach outside the image.
        factor: side of a block in pixels, at least 1.

    Returns:
        The region and the `(2, 3)` float64 map from index in `image` to index in the region, or None where the region
        does not meet the image. With factor 1 the region is a view.
    """
    height, width = image.shape[:2]
    x0, y0 = x0 + max(0, -x0 // factor) * factor, y0 + max(0, -y0 // factor) * factor
    columns = -(-(min(x1, width) - x0) // factor)
    rows = -(-(min(y1, height) - y0) // factor)
    if columns <= 0 or rows <= 0:
        return None
    x1, y1 = x0 + columns * factor, y0 + rows * factor
    region = image[max(y0, 0) : min(y1, height), max(x0, 0) : min(x1, width)]
    if region.size == 0:
        return None
    pad = (max(-y0, 0), max(y1 - height, 0), max(-x0, 0), max(x1 - width, 0))
    if any(pad):
        region = cv2.copyMakeBorder(region, *pad, cv2.BORDER_CONSTANT, value=(0, 0, 0, 0))
    if factor > 1:
        region = cv2.resize(region, (columns, rows), interpolation=cv2.INTER_AREA)
    ratio = 1.0 / factor
    to_region = np.array([[ratio, 0.0, (0.5 - x0) * ratio - 0.5], [0.0, ratio, (0.5 - y0) * ratio - 0.5]])
    return region, to_region


# The longest side that OpenCV's warp takes; a larger picture is cut to what the crop needs first.
LONGEST_WARPED = 32_766

# A picture is not averaged down below about this many pixels a side. A crop that is many times as large as its picture would
# otherwise be padded to whole blocks of that size: gigabytes for a picture of a few kilobytes.
FEWEST_BLOCKS = 8


def warp(image: np.ndarray, matrix: np.ndarray, size: int) -> np.ndarray:
    """Resample an image through an affine map, black outside it.

    Bilinear. Where one crop pixel spans two source pixels or more, the source is first averaged over blocks, so that
    fine texture does not alias; the map stays exact.

    Args:
        image: `(H, W, 3)` or `(H, W)` uint8.
        matrix: `(2, 3)`, from index in `image` to index in the crop.
        size: side of the crop in pixels.

    Returns:
        `(size, size, 3)` or `(size, size)` uint8.
    """
    matrix = np.asarray(matrix, dtype=np.float64)
    determinant = abs(matrix[0, 0] * matrix[1, 1] - matrix[0, 1] * matrix[1, 0])
    factor = int(1.0 / math.sqrt(determinant)) if determinant > 0 else 1
    longest = max(image.shape[:2])
    factor = max(1, min(factor, longest // FEWEST_BLOCKS))
    if factor >= 2 or longest > LONGEST_WARPED:
        corners = np.array([[0, 0], [size, 0], [0, size], [size, size]], dtype=np.float64) - 0.5
        corners = transform_points(invert(matrix), corners)
        low = np.floor(corners.min(0)).astype(int) - factor
        high = np.ceil(corners.max(0)).astype(int) + factor + 1
        reduced = reduce_region(image, int(low[0]), int(low[1]), int(high[0]), int(high[1]), factor)
        if reduced is None:
            return np.zeros((size, size, *image.shape[2:]), dtype=image.dtype)
        image, to_region = reduced
        matrix = compose(matrix, invert(to_region))
    return cv2.warpAffine(
        image, matrix, (size, size), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT, borderValue=(0, 0, 0, 0)
    )
