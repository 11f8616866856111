"""Drawing on arrays: anti-aliased shapes, blending, blur and noise."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

SHIFT = 4  # fractional bits of cv2's fixed-point coordinates
ONE = 1 << SHIFT


def fixed(points: np.ndarray) -> np.ndarray:
    """Pixels (N, 2) to cv2's fixed-point integers."""
    return np.rint(points * ONE).astype(np.int32)


def fill(image: np.ndarray, points: np.ndarray, colour: Sequence[float] | float) -> None:
    """Anti-aliased polygon."""
    cv2.fillPoly(image, [fixed(points)], colour, cv2.LINE_AA, SHIFT)


def strokes(image: np.ndarray, lines: Sequence[np.ndarray], colour: Sequence[float] | float, thickness: float = 1) -> None:
    """Anti-aliased open polylines; `thickness` in pixels, at least one."""
    cv2.polylines(image, [fixed(p) for p in lines], False, colour, max(1, round(thickness)), cv2.LINE_AA, SHIFT)


def to_bytes(image: np.ndarray) -> np.ndarray:
    """Any image to contiguous uint8, cut at 0 and 255, as cv2 draws on."""
    if image.dtype == np.uint8:
        return np.ascontiguousarray(image)
    whole = np.ascontiguousarray(image)
    # The saturating cast of OpenCV, many times faster than clip and astype.
    return np.asarray(cv2.addWeighted(whole, 1.0, whole, 0.0, 0.0, dtype=cv2.CV_8U))


def rgb(colour: Sequence[float] | np.ndarray) -> np.ndarray:
    """Colour as float32, so that whole images computed from it stay float32."""
    return np.array(colour, np.float32)


def blend(image: np.ndarray, colour: np.ndarray | Sequence[float], alpha: np.ndarray) -> np.ndarray:
    """Lay `colour` (a triple or an image) over `image` with `alpha` (H, W) in 0-1; the type of `image` is kept."""
    top = np.asarray(colour, np.float32)
    if top.shape != image.shape:
        top = np.broadcast_to(top, image.shape)
    top = to_bytes(top) if image.dtype == np.uint8 else np.ascontiguousarray(top, np.float32)
    a = np.clip(alpha, 0, 1).astype(np.float32)
    return np.asarray(cv2.blendLinear(top, np.ascontiguousarray(image), a, 1 - a))


def soften(mask: np.ndarray, sigma: float) -> np.ndarray:
    """Gaussian blur by `sigma` pixels; a wide one is made on a small copy, which looks the same and costs little."""
    if sigma < 0.3:
        return mask
    if sigma <= 3 or min(mask.shape[:2]) < 24:
        return np.asarray(cv2.GaussianBlur(mask, (0, 0), sigma))
    share = 1.5 / sigma
    small = cv2.resize(mask, None, fx=share, fy=share, interpolation=cv2.INTER_AREA)
    return np.asarray(cv2.resize(cv2.GaussianBlur(small, (0, 0), 1.5), mask.shape[1::-1], interpolation=cv2.INTER_LINEAR))


def coverage(mask: np.ndarray) -> np.ndarray:
    """uint8 mask to float32 0-1."""
    return np.asarray(mask.astype(np.float32) * np.float32(1 / 255))


def noise(rng: np.random.Generator, shape: tuple[int, int], cells: tuple[float, float]) -> np.ndarray:
    """Smooth noise in about -1..1, (rows, columns) float32, with about `cells` bumps down and across."""
    small = (max(2, int(min(cells[0], shape[0]))), max(2, int(min(cells[1], shape[1]))))
    raw = rng.integers(0, 256, small, np.uint8).astype(np.float32) / 127.5 - 1
    # Linear interpolation shows as a lattice only where the bumps are wide.
    fine = small[0] * small[1] * 12 > shape[0] * shape[1]
    return np.asarray(cv2.resize(raw, (shape[1], shape[0]), interpolation=cv2.INTER_LINEAR if fine else cv2.INTER_CUBIC))
