"""What is told of one face."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from .brief import brief_repr
from .data import Layout
from .pose import HeadPose, head_pose


@dataclass(frozen=True)
class Face:
    """One face. In a stream with a filter, pose and openings come from the filtered points.

    Attributes:
        points: `(K, 2)` float32, x and y in pixels of the picture; the centre of the first pixel is (0, 0).
        std: `(K,)` float32, the model's own standard deviation of each point, in the same pixels.
        box: (x1, y1, x2, y2), tight around the points, in pixels.
        layout: the landmarks' names, pairs and parts.
        id: of the face in a stream, from 0; None in a single picture.
        reset: in a stream, why the face does not continue from the last frame: ``"start"``, ``"cut"``, why it had been lost
            or drifted; None where it continues, and in a single picture.
        score: whether there is a face and the landmarks lie on it, from 0 (noise, background) to 1; above 0.5 it is more
            likely so than not. It is no error of the points; `ldeq.confidence` says what it is made of. In a stream it rests
            on the last full solve. None for a model without a calibration (`ldeq calibrate`).
        deviation: `(K,)` float32, how far each point is expected to lie from where a person would put it, in pixels: the
            calibrated form of `std`, and large where a point cannot be seen. None as for `score`.
    """

    points: NDArray[np.float32]
    std: NDArray[np.float32]
    box: tuple[float, float, float, float]
    layout: Layout
    id: int | None = None
    reset: str | None = None
    score: float | None = None
    deviation: NDArray[np.float32] | None = None

    __repr__ = brief_repr

    @cached_property
    def pose(self) -> HeadPose | None:
        """How the head is turned, in degrees (`ldeq.pose`); None for a layout of one's own."""
        return head_pose(self.points, self.layout)

    @cached_property
    def openings(self) -> dict[str, float]:
        """How far the ``"mouth"``, the ``"left_eye"`` and the ``"right_eye"`` are open, over the distance of their corners.

        0 is closed; an eye at rest has about 0.3. Empty for a layout without them. Left is as seen in the picture.
        """
        found = {}
        for name, opening in self.layout.openings.items():
            width = float(np.linalg.norm(self.points[opening.upper[-1]] - self.points[opening.upper[0]]))
            found[name] = float(opening.width(self.points)) / width if width > 0 else 0.0
        return found

    def part(self, *names: str) -> NDArray[np.float32]:
        """The points of some parts, `(n, 2)` pixels, in the order of the layout.

        Args:
            names: parts of the layout, such as ``"left_eye"``, or ``"jaw"``, ``"brows"``, ``"nose"``, ``"eyes"``, ``"mouth"``.

        Raises:
            UnknownPartError: for an unknown name.
        """
        return self.points[list(self.layout.indices(*names))]

    @classmethod
    def of(
        cls,
        points: NDArray[np.float32],
        std: NDArray[np.float32],
        layout: Layout,
        id: int | None = None,
        reset: str | None = None,
        score: float | None = None,
        deviation: NDArray[np.float32] | None = None,
    ) -> Face:
        """A face with the tight box of its points."""
        (x1, y1), (x2, y2) = points.min(0).tolist(), points.max(0).tolist()
        return cls(points, std, (x1, y1, x2, y2), layout, id, reset, score, deviation)
