"""Landmark metrics: normalised mean error (NME), failure rate (FR) and area under the error curve (AUC).

Definitions as in the WFLW and 300-W literature. All functions take and return NumPy arrays, in float64.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import ArgumentError

Array = NDArray[np.float64]


def nme(predicted: ArrayLike, points: ArrayLike, normaliser: ArrayLike) -> Array:
    """Mean over the landmarks of the L2 error, divided by a length; a fraction, not percent.

    Args:
        predicted, points: `(N, K, 2)` in the same pixels.
        normaliser: `(N,)` in those pixels, for example `Layout.inter_ocular`.

    Returns:
        `(N,)`, one figure an image; their mean in percent is the published NME.

    Raises:
        ValueError: where shapes differ or a normaliser is not positive.
    """
    a, b, d = (np.asarray(v, np.float64) for v in (predicted, points, normaliser))
    if a.shape != b.shape or a.ndim != 3 or a.shape[-1] != 2:
        raise ArgumentError(f"predicted and points must both have shape (N, K, 2), got {a.shape} and {b.shape}")
    if d.shape != a.shape[:1]:
        raise ArgumentError(f"normaliser must have shape ({a.shape[0]},), got {d.shape}")
    if not (d > 0).all():
        raise ArgumentError(f"normaliser must be positive; image {int(np.argmin(d))} has {d.min()}: are its eye corners equal?")
    return np.linalg.norm(a - b, axis=-1).mean(-1) / d


def failure_rate(errors: ArrayLike, threshold: float = 0.1) -> float:
    """Share of the images `(N,)` whose NME exceeds the threshold (both fractions)."""
    return float((np.asarray(errors, np.float64) > threshold).mean())


def auc(errors: ArrayLike, threshold: float = 0.1) -> float:
    """Area under the cumulative error curve up to the threshold, divided by it.

    In closed form: mean(max(0, threshold - e)) / threshold; Simpson's rule on 1001 points differs by 3e-6.
    """
    e = np.asarray(errors, np.float64)
    return float(np.maximum(0.0, threshold - e).mean() / threshold)


def cumulative_errors(errors: ArrayLike, limit: float = 0.1, points: int = 1001) -> tuple[Array, Array]:
    """The cumulative error distribution: thresholds `(points,)` from 0 to `limit`, and the share of images at or below."""
    e = np.sort(np.asarray(errors, np.float64))
    x = np.linspace(0.0, limit, points)
    return x, np.searchsorted(e, x, side="right") / max(len(e), 1)


def summary(errors: ArrayLike) -> dict[str, float]:
    """NME in percent, FR10 in percent, AUC10 as a fraction, and the number of images, from NMEs `(N,)`.

    Raises:
        ValueError: if there is no image: the mean of nothing would print as NaN.
    """
    e = np.asarray(errors, np.float64)
    if e.size == 0:
        raise ArgumentError("no image to score; check the split and the subset that were asked for")
    return {
        "nme": float(e.mean() * 100),
        "fr10": failure_rate(e) * 100,
        "auc10": auc(e),
        "images": float(e.size),
    }


def by_subset(errors: ArrayLike, attributes: list[Mapping[str, bool]]) -> dict[str, dict[str, float]]:
    """`summary` of all images (``"full"``) and of every attribute's images, skipping attributes that none has.

    Args:
        errors: `(N,)`.
        attributes: N mappings from attribute to whether the image has it.
    """
    e = np.asarray(errors, np.float64)
    table = {"full": summary(e)}
    for name in dict.fromkeys(name for row in attributes for name in row):
        chosen = np.array([row.get(name, False) for row in attributes], bool)
        if chosen.any():
            table[name] = summary(e[chosen])
    return table
