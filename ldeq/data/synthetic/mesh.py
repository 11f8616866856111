"""Textured meshes: which texel each pixel of a picture shows."""

from __future__ import annotations

import cv2
import numpy as np

from ldeq.data.synthetic.canvas import SHIFT, fixed

# A quad that covers less of the picture, in pixels, or is seen from behind, is not drawn.
_LEAST_AREA = 1e-4

# Where no quad is seen the places lie outside of every texture.
_NOWHERE = -10


def seen_texels(places: np.ndarray, depth: np.ndarray, texels: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """What each pixel of a square picture sees of a mesh, hidden surfaces removed.

    Quads are drawn from the farthest to the nearest, and the affine map of a quad gives the texel of each of its pixels.

    Args:
        places: `(R, C, 2)` where the vertices are in the picture, in pixels.
        depth: `(R, C)`, larger nearer to the viewer.
        texels: `(R, C, 2)` what the vertices show.
        size: side of the picture.

    Returns:
        `(size, size, 2)` float32 texels, and `(size, size)` bool, whether the mesh is seen there.
    """
    corners, shown = _quads(places), _quads(texels)
    (across, down), (t_across, t_down) = _sides(corners), _sides(shown)
    area = across[:, 0] * down[:, 1] - across[:, 1] * down[:, 0]
    order = np.argsort(((depth[:-1, :-1] + depth[1:, 1:]) / 2).ravel())
    order = order[area[order] > _LEAST_AREA]
    ids = np.full((size, size), -1, np.int32)
    whole = fixed(corners)
    for quad in order.tolist():
        cv2.fillConvexPoly(ids, whole[quad], quad, cv2.LINE_8, SHIFT)
    # Texel = A (pixel - centre of the quad) + texel of the centre.
    safe = np.maximum(area, _LEAST_AREA)
    inverse = np.stack([down[:, 1], -down[:, 0], -across[:, 1], across[:, 0]], 1) / safe[:, None]
    by_x = t_across * inverse[:, 0:1] + t_down * inverse[:, 2:3]
    by_y = t_across * inverse[:, 1:2] + t_down * inverse[:, 3:4]
    centre = corners.mean(1)
    constant = shown.mean(1) - by_x * centre[:, 0:1] - by_y * centre[:, 1:2]
    table = np.concatenate([by_x, by_y, constant], 1).astype(np.float32)
    seen = ids >= 0
    ys, xs = np.nonzero(seen)
    row = table[ids[ys, xs]]
    found = np.full((size, size, 2), _NOWHERE, np.float32)
    found[ys, xs] = row[:, 0:2] * xs[:, None] + row[:, 2:4] * ys[:, None] + row[:, 4:6]
    return found, seen


def _quads(points: np.ndarray) -> np.ndarray:
    """`(R, C, 2)` -> `(Q, 4, 2)` corners, clockwise from the upper left."""
    return np.stack([points[:-1, :-1], points[:-1, 1:], points[1:, 1:], points[1:, :-1]], 2).reshape(-1, 4, 2)


def _sides(corners: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean ways across and down of quads `(Q, 4, 2)`."""
    a, b, c, d = corners.transpose(1, 0, 2)
    return (b - a + c - d) / 2, (d - a + c - b) / 2
