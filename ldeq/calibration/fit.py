"""Fits a `Calibration` to the answers of a model."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit

from ..confidence import SMALLEST, Calibration, extent, relative_spread
from ..errors import ArgumentError
from .answers import Answer

PASSING = 0.05
"""Share of what is no face that scores above the limit below which faces are left out."""

FEWEST = 20
"""Answers of each kind without which nothing is fitted."""

# Weights of the squares of the score's numbers, and of the variance of the deviation's offsets: they only keep both finite.
_SCORE_RIDGE = 1e-6
_OFFSET_RIDGE = 1e-3

Array = NDArray[np.float64]


def fit(answers: Sequence[Answer], data: str = "") -> Calibration:
    """The calibration that says most about these answers.

    Score: a logistic regression, in which what fits and what does not weigh the same. Deviation: the mean distance, by the
    likelihood of an exponential distribution, whose optimum has no bias in the mean whatever the distribution is.

    Args:
        answers: of one model, with faces and without.
        data: what they are of, in words.

    Raises:
        ArgumentError: if there are too few of either, or their numbers of landmarks differ.
    """
    finite = [a for a in answers if np.isfinite(a.residual) and np.isfinite(a.std).all() and np.isfinite(a.points).all()]
    fits = np.array([a.fits for a in finite], bool)
    none = np.array([a.errors is None for a in finite], bool)
    if fits.sum() < FEWEST or none.sum() < FEWEST:
        raise ArgumentError(
            f"a calibration needs {FEWEST} boxes with landmarks that fit and {FEWEST} without a face, got {fits.sum()} and "
            f"{none.sum()}; give more pictures, or train the model for longer"
        )
    seen = _seen(finite)
    score = _logistic(seen, fits)
    limit = float(np.quantile(expit(score[0] + seen[none] @ score[1:]), 1 - PASSING))
    offsets, slopes = _distances([a for a in finite if a.is_face])
    numbers = [float(f"{v:.5g}") for v in (*score, *slopes)]
    return Calibration(
        bias=numbers[0],
        residual=numbers[1],
        spread=numbers[2],
        min_score=float(f"{limit:.2g}"),
        offsets=tuple(float(f"{v:.4g}") for v in offsets),
        by_std=numbers[3],
        by_residual=numbers[4],
        by_spread=numbers[5],
        data=data,
    )


def _seen(answers: Sequence[Answer]) -> Array:
    """`(N, 2)`: logarithms of residual and relative spread."""
    pairs = [(a.residual, relative_spread(a.points, a.std)) for a in answers]
    return np.asarray(np.log(np.maximum(np.array(pairs).reshape(-1, 2), SMALLEST)), np.float64)


def _logistic(seen: Array, fits: NDArray[np.bool_]) -> Array:
    """Bias and slopes `(3,)`."""
    design = np.concatenate((np.ones((len(seen), 1)), seen), 1)
    weights = np.where(fits, 0.5 / fits.sum(), 0.5 / (~fits).sum())

    def loss(w: Array) -> tuple[float, Array]:
        x = design @ w
        value = weights @ (np.logaddexp(0, x) - x * fits) + _SCORE_RIDGE * w @ w
        return float(value), design.T @ (weights * (expit(x) - fits)) + 2 * _SCORE_RIDGE * w

    found = minimize(loss, np.zeros(3), jac=True, method="L-BFGS-B", options={"maxiter": 500})
    return np.asarray(found.x, np.float64)


def _distances(answers: Sequence[Answer]) -> tuple[Array, Array]:
    """Offsets `(K,)` and slopes `(3,)` of the logarithm of the mean distance, both in shares of the landmarks' extent."""
    if len({a.points.shape for a in answers}) != 1:
        raise ArgumentError("the answers differ in their number of landmarks; calibrate with those of one model")
    seen = _seen(answers)
    sizes = np.array([extent(a.points) for a in answers])[:, None]
    relative = np.log(np.maximum(np.array([a.std for a in answers], np.float64) / sizes, SMALLEST))
    errors = np.maximum(np.array([a.errors for a in answers], np.float64) / sizes, SMALLEST)
    labelled = np.isfinite(errors)
    errors, total, count = np.where(labelled, errors, 1.0), labelled.sum(), relative.shape[1]

    def loss(w: Array) -> tuple[float, Array]:
        logs = w[:count] + w[count] * relative + (seen @ w[count + 1 :])[:, None]
        ratio = errors * np.exp(-logs)
        # Landmarks without labels stay at the mean of the others.
        value = (logs + ratio)[labelled].sum() / total + _OFFSET_RIDGE * np.var(w[:count])
        slope = np.where(labelled, 1 - ratio, 0.0) / total
        grad = np.concatenate((slope.sum(0), [(slope * relative).sum()], (slope.sum(1)[:, None] * seen).sum(0)))
        grad[:count] += 2 * _OFFSET_RIDGE * (w[:count] - w[:count].mean()) / count
        return float(value), grad

    start = np.concatenate((np.full(count, np.log(errors[labelled].mean())), np.zeros(3)))
    found = minimize(loss, start, jac=True, method="L-BFGS-B", options={"maxiter": 2000})
    return np.asarray(found.x[:count], np.float64), np.asarray(found.x[count:], np.float64)
