"""What is told of one face."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .data import Layout


@dataclass(frozen=True)
class Face:
    """One face.

    Attributes:
        points: `(K, 2)` float32, x and y in pixels of the picture; the centre of the first pixel is (0, 0).
        std: `(K,)` float32, the model's own standard deviation of each point, in the same pixels.
        box: (x1, y1, x2, y2), tight around the points, in pixels.
        layout: the landmarks' names, pairs and parts.
        id: of the face in a stream, from 0; None in a single picture.
        reset: in a stream, why the face does not continue from the last frame: ``"start"``, ``"cut"``, why it had been lost
            or drifted; None where it continues, and in a single picture.
        score: whether there is a face, from 0 (noise, background) to 1; above 0.5 it is more likely one than not. It is
            no error of the points; `ldeq.confidence` says what it is made of and how well it separates. In a stream it rests
            on the last full solve. None for a face that no model found.
    """

    points: NDArray[np.float32]
    std: NDArray[np.float32]
    box: tuple[float, float, float, float]
    layout: Layout
    id: int | None = None
    reset: str | None = None
    score: float | None = None

    @classmethod
    def of(
        cls,
        points: NDArray[np.float32],
        std: NDArray[np.float32],
        layout: Layout,
        id: int | None = None,
        reset: str | None = None,
        score: float | None = None,
    ) -> Face:
        """A face with the tight box of its points."""
        (x1, y1), (x2, y2) = points.min(0).tolist(), points.max(0).tolist()
        return cls(points, std, (x1, y1, x2, y2), layout, id, reset, score)
