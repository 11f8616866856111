"""What every smoothing filter of landmark tracks has in common.

Coordinates are pixels, times are seconds. Every strength is a frequency or a ratio of noise, never a share per frame, so that
a setting means the same at 25 and at 60 frames a second.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ...errors import ArgumentError
from ...inputs import checked_rate

Array = NDArray[np.float64]


class Filter(ABC):
    """Smooths the landmarks of one face.

    Attributes:
        causal: whether a frame's result needs no later frame, so that `step` works on a live stream.
    """

    causal: ClassVar[bool]

    @abstractmethod
    def reset(self) -> None:
        """Forgets every frame: the next one comes out as it goes in."""

    @abstractmethod
    def step(self, points: ArrayLike, std: ArrayLike | None = None, dt: float = 1 / 30) -> Array:
        """One frame.

        Args:
            points: `(K, 2)` pixels. A face that is lost, with any coordinate not finite, resets the filter.
            std: `(K,)` the model's standard deviations in the same pixels, or None where they are not known.
            dt: seconds since the previous frame, > 0; not looked at in the first.

        Returns:
            `(K, 2)` float64 pixels; all NaN for a lost face.

        Raises:
            ValueError: for another shape or a dt that is not positive.
            TypeError: for a filter that is not causal.
        """

    @abstractmethod
    def track(self, points: ArrayLike, std: ArrayLike | None, fps: float) -> Array:
        """A whole track: `(T, K, 2)` and `(T, K)` to `(T, K, 2)`; starts afresh and leaves the filter reset."""


class CausalFilter(Filter):
    """Base of the causal ones: checks a frame, resets at a lost face, and leaves `_first` and `_next` to the filter.

    Both work on `(..., K, 2)`, so that many tracks of equal length can be filtered side by side (`track_batch`).
    """

    causal = True

    def __init__(self) -> None:
        self._started = False

    def reset(self) -> None:
        self._started = False

    def step(self, points: ArrayLike, std: ArrayLike | None = None, dt: float = 1 / 30) -> Array:
        y = checked_points(points, 2)
        s = None if std is None else checked_std(std, y)
        if not np.isfinite(y).all():
            self.reset()
            return np.full_like(y, np.nan)
        return self._advance(y, s, dt)

    def track(self, points: ArrayLike, std: ArrayLike | None, fps: float) -> Array:
        y = checked_points(points, 3)
        s = None if std is None else checked_std(std, y)
        self.reset()
        out = np.empty_like(y)
        for t in range(len(y)):
            out[t] = self.step(y[t], None if s is None else s[t], 1 / checked_rate(fps))
        self.reset()
        return out

    def track_batch(self, points: ArrayLike, std: ArrayLike | None, fps: float) -> Array:
        """Many whole tracks at once: `(T, N, K, 2)` and `(T, N, K)` to `(T, N, K, 2)`, without lost frames.

        The result is that of `track` on each, some fifty times faster: what a grid of settings needs.

        Raises:
            ValueError: for another shape, or where a coordinate is not finite.
        """
        y = checked_points(points, 4)
        s = None if std is None else checked_std(std, y)
        if not np.isfinite(y).all():
            raise ArgumentError("points must be finite: filter tracks with lost frames one by one, with track()")
        self.reset()
        out = np.empty_like(y)
        for t in range(len(y)):
            out[t] = self._advance(y[t], None if s is None else s[t], 1 / checked_rate(fps))
        self.reset()
        return out

    def _advance(self, y: Array, std: Array | None, dt: float) -> Array:
        if not self._started:
            self._first(y, std)
            self._started = True
            return y.copy()
        if not (math.isfinite(dt) and dt > 0):
            raise ArgumentError(f"dt must be a positive number of seconds, got {dt}")
        return self._next(y, std, dt)

    @abstractmethod
    def _first(self, y: Array, std: Array | None) -> None: ...

    @abstractmethod
    def _next(self, y: Array, std: Array | None, dt: float) -> Array: ...


class WholeTrackFilter(Filter):
    """Base of the filters that look ahead: they know tracks, not frames. Each stretch between lost frames stands alone."""

    causal = False

    def reset(self) -> None:
        pass

    def step(self, points: ArrayLike, std: ArrayLike | None = None, dt: float = 1 / 30) -> Array:
        raise TypeError(f"{type(self).__name__} is not causal: it needs the frames ahead; use filter_track on a whole track")

    def track(self, points: ArrayLike, std: ArrayLike | None, fps: float) -> Array:
        y = checked_points(points, 3)
        if std is not None:
            checked_std(std, y)
        out = np.full_like(y, np.nan)
        for start, stop in runs(np.asarray(np.isfinite(y).all((1, 2)))):
            out[start:stop] = self._smooth(y[start:stop], checked_rate(fps))
        return out

    @abstractmethod
    def _smooth(self, y: Array, fps: float) -> Array: ...


def filter_track(filter: Filter, points: ArrayLike, std: ArrayLike | None, fps: float) -> Array:
    """Smooths a whole track with any filter, causal or not.

    Args:
        filter: as `make_filter` returns it.
        points: `(T, K, 2)` pixels; a frame with a coordinate that is not finite is a lost face, and splits the track.
        std: `(T, K)` pixels, or None.
        fps: frames a second.

    Returns:
        `(T, K, 2)` float64; NaN where the face is lost.

    Raises:
        ValueError: for another shape or a frame rate that is not positive.
    """
    return filter.track(points, std, fps)


def smoothing_gain(cutoff: float | Array, dt: float) -> float | Array:
    """Gain of a first-order low-pass of a cutoff in Hz: 1 / (1 + 1 / (2 pi cutoff dt)); 1 for an infinite cutoff."""
    return 1 / (1 + 1 / (2 * math.pi * cutoff * dt))


def face_size(points: Array) -> Array:
    """sqrt(w h) of the extent of `(..., K, 2)` points: `(...)`."""
    extent = points.max(-2) - points.min(-2)
    return np.sqrt(extent.prod(-1))


def runs(good: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Stretches of True in `(T,)` as (start, stop)."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], good, [False]]).astype(np.int8)))
    return [(int(a), int(b)) for a, b in zip(edges[::2], edges[1::2], strict=True)]


def checked_points(points: ArrayLike, ndim: int) -> Array:
    y = np.asarray(points, np.float64)
    if y.ndim != ndim or y.shape[-1] != 2:
        shape = {2: "(K, 2)", 3: "(T, K, 2)", 4: "(T, N, K, 2)"}[ndim]
        raise ArgumentError(f"points must have shape {shape}, got {y.shape}")
    return y


def checked_std(std: ArrayLike, points: Array) -> Array:
    s = np.asarray(std, np.float64)
    if s.shape != points.shape[:-1]:
        raise ArgumentError(f"std must have shape {points.shape[:-1]}, that of the points, got {s.shape}")
    return s
