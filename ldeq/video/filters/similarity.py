"""The face's own frame: similarities (translation, rotation, scale) fitted to landmarks."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .base import Array


class Similarity(NamedTuple):
    """x -> shift + exp(log_scale) R(angle) x; every entry has the same leading shape `(...)`, `shift` a trailing 2."""

    shift: Array
    log_scale: Array
    angle: Array

    def _linear(self) -> tuple[Array, Array]:
        scale = np.exp(self.log_scale)
        return (scale * np.cos(self.angle))[..., None], (scale * np.sin(self.angle))[..., None]

    def apply(self, points: Array) -> Array:
        """`(..., K, 2)` -> `(..., K, 2)`."""
        a, b = self._linear()
        x, y = points[..., 0], points[..., 1]
        return np.stack([a * x - b * y, b * x + a * y], -1) + self.shift[..., None, :]

    def undo(self, points: Array) -> Array:
        """The inverse of `apply`."""
        a, b = self._linear()
        moved = points - self.shift[..., None, :]
        x, y = moved[..., 0], moved[..., 1]
        n = a * a + b * b
        return np.stack([(a * x + b * y) / n, (a * y - b * x) / n], -1)


def fit_similarity(reference: Array, points: Array, weights: Array) -> Similarity:
    """The weighted least-squares similarity that takes `reference` to `points` (Procrustes in the plane, in closed form).

    In complex numbers the linear part is sum w conj(r) p / sum w |r|^2 about the weighted means.

    Args:
        reference, points: `(..., K, 2)`.
        weights: `(..., K)`, not negative, with more than one point above zero.
    """
    w = weights / weights.sum(-1, keepdims=True)
    r, p = _complex(reference), _complex(points)
    mean_r, mean_p = (w * r).sum(-1, keepdims=True), (w * p).sum(-1, keepdims=True)
    r = r - mean_r
    linear = (w * r.conj() * (p - mean_p)).sum(-1) / np.maximum((w * np.abs(r) ** 2).sum(-1), 1e-30)
    # Points that coincide have no size; any scale above zero keeps the arithmetic finite.
    log_scale = np.log(np.maximum(np.abs(linear), 1e-12))
    shift = mean_p[..., 0] - linear * mean_r[..., 0]
    return Similarity(np.stack([shift.real, shift.imag], -1), log_scale, np.angle(linear))


def _complex(points: Array) -> np.ndarray:
    return points[..., 0] + 1j * points[..., 1]
