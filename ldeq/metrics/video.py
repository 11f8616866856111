"""Video landmark metrics: flicker (NMF), error (NME), Allan deviation (NAD), lag, and the openings of mouth and eyes.

All of one video: `(T, K, 2)` in pixels of the frames, one row a frame. A data set's figure is the plain mean over its videos.

NMF is that of Micaelli et al., "Recurrence without Recurrence", CVPR 2023, section 5. It cannot tell jitter from drift, and
a filter that lags can lower it: read it beside the error, NAD, `lag` and `opening_errors`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ldeq.data.layouts import Layout, Opening
from ldeq.metrics.stills import nme

from ..errors import ArgumentError

Array = NDArray[np.float64]

# NMF is stated for a face that fills 256 pixels, in hundredths of a pixel.
_REFERENCE_SIDE = 256.0
_PERCENT = 100.0


def face_size(points: ArrayLike) -> Array:
    """sqrt(w h) of the extent of the landmarks, `(..., K, 2)` -> `(...)`, pixels.

    Raises:
        ValueError: where a face has no extent, or the array no landmarks.
    """
    p = np.asarray(points, np.float64)
    if p.ndim < 2 or p.shape[-1] != 2 or p.shape[-2] == 0:
        raise ArgumentError(f"points must have shape (..., K, 2), got {p.shape}")
    size = np.sqrt(np.prod(p.max(-2) - p.min(-2), axis=-1))
    if not (size > 0).all():
        raise ArgumentError("points must span an area in every frame; are the landmarks of a frame all equal?")
    return np.asarray(size, np.float64)


def flicker(predicted: ArrayLike, points: ArrayLike) -> Array:
    """Flicker of each frame after the first: `(T, K, 2)` twice -> `(T - 1,)`; NMF is its root mean square.

    With r = truth - prediction: j(t, l) = 100 ||r(t, l) - r(t - 1, l)|| / sqrt(w_t h_t / 256^2), w and h the extent of the
    true landmarks of frame t; root mean square over the landmarks l.
    """
    residual, size = _residual(predicted, points, 2)
    step = np.linalg.norm(np.diff(residual, axis=0), axis=-1)
    return np.sqrt((step**2).mean(-1)) * (_PERCENT * _REFERENCE_SIDE) / size[1:]


def normalised_mean_flicker(predicted: ArrayLike, points: ArrayLike) -> float:
    """NMF of one video: root mean square over the frames of `flicker`.

    Args:
        predicted, points: `(T, K, 2)` pixels, T at least 2.

    Raises:
        ValueError: for other shapes, numbers that are not finite, or a face without extent.
    """
    return float(np.sqrt((flicker(predicted, points) ** 2).mean()))


def video_nme(predicted: ArrayLike, points: ArrayLike, normaliser: ArrayLike) -> Array:
    """NME of each frame, a fraction: `(T, K, 2)` twice and `(T,)` -> `(T,)`.

    Args:
        normaliser: pixels, of each frame: `Layout.inter_ocular` or `face_size` of the true landmarks. Published tables are
            ambiguous, so report both.
    """
    return nme(predicted, points, normaliser)


def normalised_allan_deviation(predicted: ArrayLike, points: ArrayLike, k: int = 1) -> float:
    """NAD(k): the overlapping Allan deviation of the error over windows of k frames, normalised as NMF is.

    NIST SP 1065 (Riley 2008), equation 11, with the error r = truth - prediction in the place of the fractional frequency:

        NAD(k)^2 = mean over t of 1/2 || m(t + k) - m(t) ||^2 (100 * 256)^2 / (w h)_{t + k},

    m(t) the mean of r over frames t .. t + k - 1, and the mean over the landmarks as well. For k = 1 it is NMF / sqrt(2).
    White jitter falls as 1 / sqrt(k); drift and slow waves do not fall, so NAD(8) shows what a filter has left.

    Args:
        predicted, points: `(T, K, 2)` pixels, T at least 2 k.

    Raises:
        ValueError: for other shapes, k below 1, or a video shorter than two windows.
    """
    if k < 1:
        raise ArgumentError(f"k must be at least 1 frame, got {k}")
    residual, size = _residual(predicted, points, 2 * k)
    total = np.concatenate([np.zeros((1, *residual.shape[1:])), np.cumsum(residual, axis=0)])
    mean = (total[k:] - total[:-k]) / k
    difference = ((mean[k:] - mean[:-k]) ** 2).sum(-1).mean(-1)
    return float(np.sqrt((0.5 * difference / size[k : len(difference) + k] ** 2).mean()) * _PERCENT * _REFERENCE_SIDE)


def lag(predicted: ArrayLike, true: ArrayLike, limit: int = 8) -> float:
    """By how many frames a prediction trails the truth, parts of a frame included; NaN where nothing moves.

    The shift d that minimises the mean square of predicted(t) - true(t - d), each track freed of its constant offset, over
    the frames for which every shift exists; between the whole shifts by the parabola through the lowest three, good to 0.02
    frames. Constant offsets and white jitter do not move it.

    Args:
        predicted, true: `(T,)`, or `(T, ...)` such as `(T, K, 2)`, of which the whole shape is compared.
        limit: the largest shift to either side in frames; less where the video is shorter than four times that.

    Raises:
        ValueError: for shapes that differ or a video of fewer than 8 frames.
    """
    a, b = np.asarray(predicted, np.float64), np.asarray(true, np.float64)
    if a.shape != b.shape or a.ndim == 0:
        raise ArgumentError(f"predicted and true must have the same shape (T, ...), got {a.shape} and {b.shape}")
    if len(a) < 8:
        raise ArgumentError(f"the lag needs at least 8 frames, got {len(a)}")
    if limit < 1:
        raise ArgumentError(f"limit must be at least 1 frame, got {limit}")
    a, b = a.reshape(len(a), -1), b.reshape(len(b), -1)
    limit = min(limit, len(a) // 4)
    shifts = np.arange(-limit, limit + 1)
    middle = a[limit : len(a) - limit]
    errors = np.empty(len(shifts))
    for i, d in enumerate(shifts.tolist()):
        gap = middle - b[limit - d : len(b) - limit - d]
        errors[i] = ((gap - gap.mean(0)) ** 2).mean()
    scale = np.abs(b).max() + 1.0
    if (b - b.mean(0)).std() < 1e-9 * scale:
        return float("nan")
    best = int(np.argmin(errors))
    if best in (0, len(shifts) - 1):
        return float(shifts[best])
    before, here, after = errors[best - 1 : best + 2]
    curvature = before - 2 * here + after
    return float(shifts[best] + (0.5 * (before - after) / curvature if curvature > 0 else 0.0))


def opening_errors(predicted: ArrayLike, points: ArrayLike, opening: Opening) -> Array:
    """Error of how far a mouth or an eye is open, in every frame: `(T, K, 2)` twice -> `(T,)`, a fraction of `face_size`.

    Args:
        opening: of a `Layout`'s `openings`.
    """
    a, b = _pair(predicted, points, 1)
    return np.abs(opening.width(a) - opening.width(b)) / face_size(b)


def video_summary(predicted: ArrayLike, points: ArrayLike, layout: Layout) -> dict[str, float]:
    """Every figure of one video.

    Args:
        predicted, points: `(T, K, 2)` pixels.
        layout: a `Layout`.

    Returns:
        ``nme`` and ``nme_box`` in percent (inter-ocular and sqrt(w h)), ``nmf``, ``nad1``, ``nad8`` (NaN in a video of fewer
        than 16 frames), ``lag`` and ``lag_mouth`` in frames, ``mouth`` and ``eyes``, the mean opening errors in percent of
        sqrt(w h).
    """
    a, b = _pair(predicted, points, 2)
    openings = layout.openings
    long_enough = len(a) >= 8
    return {
        "nme": float(video_nme(a, b, layout.inter_ocular(b)).mean() * 100),
        "nme_box": float(video_nme(a, b, face_size(b)).mean() * 100),
        "nmf": normalised_mean_flicker(a, b),
        "nad1": normalised_allan_deviation(a, b, 1),
        "nad8": normalised_allan_deviation(a, b, 8) if len(a) >= 16 else float("nan"),
        "lag": lag(a, b) if long_enough else float("nan"),
        "lag_mouth": lag(openings["mouth"].width(a), openings["mouth"].width(b)) if long_enough else float("nan"),
        "mouth": float(opening_errors(a, b, openings["mouth"]).mean() * 100),
        "eyes": float(np.mean([opening_errors(a, b, openings[f"{side}_eye"]).mean() for side in ("left", "right")]) * 100),
    }


def _pair(predicted: ArrayLike, points: ArrayLike, frames: int) -> tuple[Array, Array]:
    a, b = np.asarray(predicted, np.float64), np.asarray(points, np.float64)
    if a.shape != b.shape or a.ndim != 3 or a.shape[-1] != 2:
        raise ArgumentError(f"predicted and points must both have shape (T, K, 2), got {a.shape} and {b.shape}")
    if len(a) < frames:
        raise ArgumentError(f"the video must have at least {frames} frames, got {len(a)}")
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise ArgumentError("predicted and points must be finite; leave out frames without a face")
    return a, b


def _residual(predicted: ArrayLike, points: ArrayLike, frames: int) -> tuple[Array, Array]:
    """Truth - prediction `(T, K, 2)` and the size of the true face `(T,)`."""
    a, b = _pair(predicted, points, frames)
    return b - a, face_size(b)
