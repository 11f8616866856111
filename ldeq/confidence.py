r"""What a model's answer is worth: a score for the face, a deviation for each landmark, from what the solve knows anyway.

$$\mathrm{score} = \sigma(a_0 + a_1 \ln r + a_2 \ln s) \qquad
\ln d_k = b_k + b_{\mathrm{std}} \ln (s_k / e) + b_r \ln r + b_s \ln s + \ln e$$

r is the residual ||f(z) - z|| / ||f(z)|| of a full solve: a cell that sees no face does not settle. s_k is the deviation of
landmark k's heatmap, e the longer side of the landmarks' extent, s the mean of s_k / e: a cell that is not sure spreads its
heatmaps. The numbers belong to one model. `ldeq calibrate` fits them and writes them into the file of the weights; a model
without them has no score.

d_k is a mean distance. If errors go in all directions alike (a Rayleigh distribution), half of the points lie within 0.94 d_k,
nine in ten within 1.71 d_k, and 0.80 d_k is their standard deviation along x or y.

What the score is not: an error of the points, a probability where faces are rare, or an identity.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .brief import brief_repr
from .errors import ArgumentError
from .inputs import is_finite

# Logarithms of less say nothing more: float32 heatmaps do not settle further.
SMALLEST = 1e-6

# Where the logistic function is 0 or 1 in every printed digit.
_LARGEST = 60.0


@dataclass(frozen=True)
class Calibration:
    """The numbers by which the answers of one model are judged.

    Attributes:
        bias: a_0 of the score.
        residual: a_1.
        spread: a_2.
        min_score: what the fit found to be the best limit; faces that a detector finds are left out below it.
        offsets: b_k of the deviation, one a landmark.
        by_std: b_std.
        by_residual: b_r.
        by_spread: b_s.
        data: what it was fitted on, in words.
    """

    bias: float
    residual: float
    spread: float
    min_score: float
    offsets: tuple[float, ...]
    by_std: float
    by_residual: float
    by_spread: float
    data: str = ""

    __repr__ = brief_repr

    def score(self, residual: float, points: NDArray[np.float32], std: NDArray[np.float32]) -> float:
        """Whether there is a face on which the landmarks lie, from 0 (none) to 1.

        Args:
            residual: ||f(z) - z|| / ||f(z)|| of the last full solve. That of a solve that starts from another frame's state
                measures motion instead.
            points: `(K, 2)` pixels.
            std: `(K,)`, the model's deviations in the same pixels.
        """
        spread = relative_spread(points, std)
        if not (math.isfinite(residual) and math.isfinite(spread)):
            return 0.0
        x = self.bias + self.residual * _log(residual) + self.spread * _log(spread)
        return 1 / (1 + math.exp(-min(max(x, -_LARGEST), _LARGEST)))

    def deviation(self, residual: float, points: NDArray[np.float32], std: NDArray[np.float32]) -> NDArray[np.float32]:
        """How far each landmark is expected to lie from where a person would put it, if there is a face.

        Args:
            residual: as in `score`.
            points: `(K, 2)` pixels.
            std: `(K,)` in the same pixels.

        Returns:
            `(K,)`, mean distances in the same pixels; NaN where residual or points are not finite.

        Raises:
            ArgumentError: if K is not the number of landmarks that this was fitted for.
        """
        if std.shape != (len(self.offsets),):
            raise ArgumentError(f"std must have shape ({len(self.offsets)},), as this calibration was fitted, got {std.shape}")
        size = extent(points)
        if not (math.isfinite(residual) and math.isfinite(size)):
            return np.full(std.shape, np.nan, np.float32)
        relative = np.log(np.maximum(std.astype(np.float64) / size, SMALLEST))
        spread = _log(relative_spread(points, std))
        logs = np.array(self.offsets) + self.by_std * relative + self.by_residual * _log(residual) + self.by_spread * spread
        return (size * np.exp(np.clip(logs, -_LARGEST, 0.0))).astype(np.float32)


def extent(points: NDArray[np.float32]) -> float:
    """The longer side of the box of landmarks `(K, 2)`, and never 0."""
    return max(float(np.ptp(points, axis=0).max()), SMALLEST)


def relative_spread(points: NDArray[np.float32], std: NDArray[np.float32]) -> float:
    """s: the mean deviation of the heatmaps `(K,)` as a share of the extent of the landmarks `(K, 2)`."""
    return float(std.mean()) / extent(points)


def check_min_score(value: float | None, name: str = "min_score") -> None:
    """
    Raises:
        ArgumentError: if it is neither None nor a score, under the name that the user knows it by.
    """
    if value is not None and not (is_finite(value) and 0 <= value <= 1):
        raise ArgumentError(f"{name} must lie between 0 and 1, got {value!r:.60}")


def _log(value: float) -> float:
    return math.log(max(value, SMALLEST))
