"""How steady a track is where nobody knows the truth.

All figures are in percent of the face's size sqrt(w h). Real acceleration counts as well, a little: compare trackers on the
same video, and read jitter beside lag, since any filter lowers the one at the price of the other.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ldeq.metrics.video import face_size

from ..errors import ArgumentError
from ..inputs import checked_rate

Array = NDArray[np.float64]

REST_SPEED = 0.05
"""Face sizes a second: slower than this a face rests. A slow nod moves ten times as fast."""

REST_WINDOW = 0.2
"""Seconds: deviation of the Gaussian behind which a speed is a motion and no jitter."""


def jitter(points: ArrayLike) -> Array:
    """Deviation of what trembles, of each frame but the first and the last: `(T, K, 2)` -> `(T - 2,)` percent.

    The distance of a landmark from the middle between its neighbours in time, RMS over the landmarks. It is scaled such that
    white noise of deviation s in x and in y gives sqrt(2) s, its distance from the truth. Steady motion gives 0.

    Raises:
        ValueError: for another shape, fewer than 3 frames, or numbers that are not finite.
    """
    p = _checked(points, 3)
    bend = p[1:-1] - (p[:-2] + p[2:]) / 2
    return np.sqrt((bend**2).sum(-1).mean(-1) / 1.5) / face_size(p[1:-1]) * 100


def in_face_frame(points: ArrayLike) -> Array:
    """A track without the motion of the head: `(T, K, 2)` -> `(T, K, 2)` in pixels of the mean face.

    A similarity (shift, turn, scale) is fitted to each frame from the mean of the face, and undone.

    Raises:
        ValueError: for another shape or numbers that are not finite.
    """
    p = _checked(points, 1)
    z = p[..., 0] + 1j * p[..., 1]
    z = z - z.mean(1, keepdims=True)
    size = np.sqrt((np.abs(z) ** 2).mean(1)).mean()
    mean = z[0]
    for _ in range(3):  # of Procrustes: the mean face, and each frame turned towards it
        turned = z * ((z.conj() * mean).sum(1) / (np.abs(z) ** 2).sum(1))[:, None]
        mean = turned.mean(0)
        mean = mean * size / np.sqrt((np.abs(mean) ** 2).mean())
    turned = z * ((z.conj() * mean).sum(1) / (np.abs(z) ** 2).sum(1))[:, None]
    return np.stack([turned.real, turned.imag], -1)


def at_rest(points: ArrayLike, fps: float) -> NDArray[np.bool_]:
    """In which frames a face rests: `(T, K, 2)` -> `(T,)`.

    The track is smoothed over `REST_WINDOW`, and its landmarks move slower than `REST_SPEED` (RMS).

    Args:
        points: of the truth, or of a raw track.
        fps: frames a second.

    Raises:
        ValueError: for another shape, numbers that are not finite, or a rate that no video has (`ldeq.inputs.checked_rate`).
    """
    p = _checked(points, 2)
    fps = checked_rate(fps)
    from scipy.ndimage import gaussian_filter1d

    smooth = gaussian_filter1d(p, REST_WINDOW * fps, axis=0, mode="nearest")
    speed = np.linalg.norm(np.gradient(smooth, axis=0), axis=-1) * fps
    return np.asarray(np.sqrt((speed**2).mean(-1)) < REST_SPEED * face_size(p))


def _checked(points: ArrayLike, frames: int) -> Array:
    p = np.asarray(points, np.float64)
    if p.ndim != 3 or p.shape[-1] != 2 or len(p) < frames:
        raise ArgumentError(f"points must have shape (T, K, 2) with T at least {frames}, got {p.shape}")
    if not np.isfinite(p).all():
        raise ArgumentError("points must be finite; leave out frames without a face")
    return p
