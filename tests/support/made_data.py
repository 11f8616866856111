"""Landmarks, pictures and annotations that tests make on the spot."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from ldeq.data import Layout


def make_points(layout: Layout, side: float, seed: int = 0) -> np.ndarray:
    """Landmarks spread over the middle of a picture, eyes above mouth."""
    points = np.random.default_rng(seed).uniform(0.3 * side, 0.7 * side, (layout.count, 2))
    left, right = layout.outer_eyes
    points[left], points[right] = (0.3 * side, 0.35 * side), (0.7 * side, 0.35 * side)
    points[list(layout.parts["outer_lip"].indices), 1] = 0.7 * side
    return points.astype(np.float32)


def make_picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Smooth random colours: compressible, and different everywhere."""
    small = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC)


def write_pts(path: Path, points: np.ndarray, header: bool = True) -> None:
    lines = "\n".join(f"{x + 1:.3f} {y + 1:.3f}" for x, y in points)
    path.write_text(f"version: 1\nn_points: {len(points)}\n{{\n{lines}\n}}\n" if header else lines + "\n")
