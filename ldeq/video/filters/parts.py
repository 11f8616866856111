"""Other settings for some parts of the face: a lively mouth beside a calm jaw."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike

from .base import Array, Filter


class PartsFilter(Filter):
    """Several filters of one kind. Each sees the whole face, and its part of the answer is taken."""

    def __init__(self, rest: Filter, parts: Mapping[tuple[int, ...], Filter]) -> None:
        """
        Args:
            rest: for every landmark that no part names.
            parts: landmarks to their filter; of two parts that share a landmark the later one has it.
        """
        self.rest = rest
        self.parts = dict(parts)
        self.causal = rest.causal  # type: ignore[misc]  # a filter's own, not its class's

    def reset(self) -> None:
        for each in (self.rest, *self.parts.values()):
            each.reset()

    def step(self, points: ArrayLike, std: ArrayLike | None = None, dt: float = 1 / 30) -> Array:
        return self._joined(self.rest.step(points, std, dt), [f.step(points, std, dt) for f in self.parts.values()])

    def track(self, points: ArrayLike, std: ArrayLike | None, fps: float) -> Array:
        return self._joined(self.rest.track(points, std, fps), [f.track(points, std, fps) for f in self.parts.values()])

    def _joined(self, whole: Array, answers: Sequence[Array]) -> Array:
        out = np.array(whole)
        for landmarks, answer in zip(self.parts, answers, strict=True):
            out[..., list(landmarks), :] = answer[..., list(landmarks), :]
        return out
