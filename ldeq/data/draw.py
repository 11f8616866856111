"""Landmarks drawn on pictures, and pictures arranged on a sheet."""

from __future__ import annotations

import math
from collections.abc import Sequence

import cv2
import numpy as np

from ldeq.data.crop import transform_points
from ldeq.data.layouts import Layout

from ..errors import ArgumentError

Colour = tuple[int, int, int]

LINE_COLOUR: Colour = (72, 226, 160)
DOT_COLOUR: Colour = (255, 255, 255)
STD_COLOUR: Colour = (255, 196, 64)
BACKGROUND: Colour = (24, 26, 30)

_SHIFT = 4
_UNIT = 1 << _SHIFT
# cv2.circle draws small circles as diamonds; a polygon of sixteen corners stays round.
_CIRCLE = np.stack([np.cos(np.arange(16) * math.pi / 8), np.sin(np.arange(16) * math.pi / 8)], axis=1)
# Coordinates far outside would overflow OpenCV's fixed-point numbers; nothing of them is visible anyway.
_LIMIT = 1e6


def draw_landmarks(
    image: np.ndarray,
    points: np.ndarray,
    layout: Layout | None = None,
    std: np.ndarray | None = None,
    color: Colour = LINE_COLOUR,
    dot_color: Colour = DOT_COLOUR,
) -> np.ndarray:
    """Draw landmarks to a sixteenth of a pixel, with the lines of the face where the layout is known.

    Lines and dots grow with the face.

    Args:
        image: `(H, W, 3)` RGB uint8; it is not changed.
        points: `(K, 2)` pixels, index based; points outside the picture and points that are not finite are left out.
        layout: for the lines between the landmarks, or None for dots only.
        std: `(K,)` standard deviation of each landmark in pixels, drawn as a translucent disc, or None.
        color: RGB colour of the lines.
        dot_color: RGB colour of the dots.

    Returns:
        `(H, W, 3)` RGB uint8.

    Raises:
        ValueError: for arrays of another shape.
    """
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise ArgumentError(f"draw_landmarks needs an (H, W, 3) uint8 image, not {image.shape} {image.dtype}.")
    points = np.asarray(points, dtype=np.float64)
    if points.ndim != 2 or points.shape[1] != 2 or (layout is not None and len(points) != layout.count):
        raise ArgumentError(f"draw_landmarks needs points of shape ({layout.count if layout else 'K'}, 2), "
                         f"not {points.shape}.")  # fmt: skip
    result = np.ascontiguousarray(image).copy()
    visible = np.isfinite(points).all(1) & (np.abs(points) < _LIMIT).all(1)
    if not visible.any():
        return result
    extent = max(24.0, math.sqrt(float(np.prod(np.maximum(np.ptp(points[visible], axis=0), 1.0)))))
    fixed = np.where(visible[:, None], np.rint(points * _UNIT), 0).astype(np.int32)
    if std is not None:
        _discs(result, fixed, np.asarray(std, dtype=np.float64), visible)
    if layout is not None:
        chains = [
            (fixed[list(part.indices)], part.closed) for part in layout.parts.values() if visible[list(part.indices)].all()
        ]
        # OpenCV's lines are whole pixels wide: between two widths, one fades into the other, or they would flicker in a video.
        width = max(1.0, extent / 170)
        thin, more = _lines(result, chains, color, int(width)), width % 1
        lines = cv2.addWeighted(_lines(result, chains, color, int(width) + 1), more, thin, 1 - more, 0.0) if more else thin
        # Opaque lines hide the very edge that they are judged by.
        result = cv2.addWeighted(lines, 0.75, result, 0.25, 0.0)
    radius = max(0.6, extent / 150)
    for point, seen in zip(fixed, visible, strict=True):
        if seen:
            outline = np.rint(point + radius * _UNIT * _CIRCLE).astype(np.int32)
            cv2.fillConvexPoly(result, outline, dot_color, cv2.LINE_AA, _SHIFT)
    return result


def _lines(image: np.ndarray, chains: Sequence[tuple[np.ndarray, bool]], color: Colour, thickness: int) -> np.ndarray:
    lines = image.copy()
    for chain, closed in chains:
        if len(chain) > 1:
            cv2.polylines(lines, [chain], closed, color, thickness, cv2.LINE_AA, _SHIFT)
    return lines


def _discs(image: np.ndarray, fixed: np.ndarray, std: np.ndarray, visible: np.ndarray) -> None:
    overlay = image.copy()
    for point, deviation, seen in zip(fixed, std, visible, strict=True):
        if seen and 0 < deviation < _LIMIT:
            centre = (int(point[0]), int(point[1]))
            cv2.circle(overlay, centre, round(deviation * _UNIT), STD_COLOUR, cv2.FILLED, cv2.LINE_AA, _SHIFT)
    cv2.addWeighted(overlay, 0.35, image, 0.65, 0.0, dst=image)


def contact_sheet(
    images: Sequence[np.ndarray],
    points: Sequence[np.ndarray] | None = None,
    layout: Layout | None = None,
    columns: int = 6,
    tile: int = 192,
    titles: Sequence[str] | None = None,
) -> np.ndarray:
    """Pictures in rows, each fitted into a square tile, with their landmarks.

    Args:
        images: `(H, W, 3)` RGB uint8, of any sizes.
        points: one `(K, 2)` array in pixels for each picture, or None.
        layout: for the lines, as in `draw_landmarks`.
        columns: tiles in a row.
        tile: side of a tile in pixels.
        titles: a short text for the corner of each tile, or None.

    Returns:
        `(H, W, 3)` RGB uint8.

    Raises:
        ValueError: without pictures, or where the sequences differ in length.
    """
    if not images:
        raise ArgumentError("a contact sheet needs at least one picture.")
    for name, other in (("points", points), ("titles", titles)):
        if other is not None and len(other) != len(images):
            raise ArgumentError(f"a contact sheet of {len(images)} pictures needs as many {name}, not {len(other)}.")
    columns = max(1, min(columns, len(images)))
    rows = -(-len(images) // columns)
    gap = max(2, tile // 64)
    sheet = np.empty((gap + rows * (tile + gap), gap + columns * (tile + gap), 3), dtype=np.uint8)
    sheet[:] = BACKGROUND
    for i, image in enumerate(images):
        picture, matrix = _fit(image, tile)
        if points is not None:
            picture = draw_landmarks(picture, transform_points(matrix, points[i]), layout)
        if titles is not None:
            _title(picture, titles[i])
        y, x = gap + (i // columns) * (tile + gap), gap + (i % columns) * (tile + gap)
        sheet[y : y + tile, x : x + tile] = picture
    return sheet


def _fit(image: np.ndarray, tile: int) -> tuple[np.ndarray, np.ndarray]:
    height, width = image.shape[:2]
    ratio = tile / max(height, width)
    size = max(1, round(width * ratio)), max(1, round(height * ratio))
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA if ratio < 1 else cv2.INTER_CUBIC)
    x, y = (tile - size[0]) // 2, (tile - size[1]) // 2
    result = np.empty((tile, tile, 3), dtype=np.uint8)
    result[:] = BACKGROUND
    result[y : y + size[1], x : x + size[0]] = small
    rx, ry = size[0] / width, size[1] / height
    return result, np.array([[rx, 0, 0.5 * rx - 0.5 + x], [0, ry, 0.5 * ry - 0.5 + y]])


def _title(picture: np.ndarray, text: str) -> None:
    scale = picture.shape[0] / 480
    origin = (round(14 * scale), picture.shape[0] - round(16 * scale))
    for colour, width in (((0, 0, 0), max(2, round(5 * scale))), ((255, 255, 255), max(1, round(2 * scale)))):
        cv2.putText(picture, text, origin, cv2.FONT_HERSHEY_SIMPLEX, scale, colour, width, cv2.LINE_AA)
