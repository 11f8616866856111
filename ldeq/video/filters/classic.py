"""The classic filters, each coordinate on its own in the image: what a filter in the face's frame has to beat.

None of them looks at the model's standard deviations.

Their defaults are those tuned behind each frame alone, for the least flicker at which the error is no larger than without a
filter (docs/results/video/tuned.json). They smooth little: what flickers on a moving face is the error of the model, not noise,
and a stronger filter lags, which counts as flicker and as error. Lower cutoffs suit a face that rests.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass

import numpy as np

from ...errors import ArgumentError
from .base import Array, CausalFilter, WholeTrackFilter, face_size, smoothing_gain


@dataclass(frozen=True)
class EMASettings:
    cutoff: float = 100.0
    """Hz; lower is smoother, infinity passes everything. At 30 frames a second 100 Hz is a gain of 0.95, 10 Hz one of 0.68."""

    def __post_init__(self) -> None:
        positive(self, "cutoff")


class EMA(CausalFilter):
    """Exponential moving average: a first-order low-pass, x += a (y - x)."""

    def __init__(self, settings: EMASettings) -> None:
        super().__init__()
        self.settings = settings

    def _first(self, y: Array, std: Array | None) -> None:
        self._x = y

    def _next(self, y: Array, std: Array | None, dt: float) -> Array:
        self._x = self._x + smoothing_gain(self.settings.cutoff, dt) * (y - self._x)
        return self._x.copy()


@dataclass(frozen=True)
class OneEuroSettings:
    min_cutoff: float = 80.0
    """Hz at rest."""
    beta: float = 1.0
    """Hz added per face size a second of speed (face size: sqrt(w h) of the landmarks' extent)."""
    derivative_cutoff: float = 1.0
    """Hz of the low-pass of the speed."""

    def __post_init__(self) -> None:
        positive(self, "min_cutoff", "derivative_cutoff")
        not_negative(self, "beta")


class OneEuro(CausalFilter):
    """One-Euro filter (Casiez, Roussel and Vogel, CHI 2012): a low-pass whose cutoff rises with the speed.

    As in the paper, a coordinate's speed is its step from the last *filtered* value, times the rate. Speeds count in face
    sizes a second, so that beta does not depend on the resolution.
    """

    def __init__(self, settings: OneEuroSettings) -> None:
        super().__init__()
        self.settings = settings

    def _first(self, y: Array, std: Array | None) -> None:
        self._x, self._dx = y, np.zeros_like(y)

    def _next(self, y: Array, std: Array | None, dt: float) -> Array:
        s = self.settings
        size = np.maximum(face_size(y), 1e-9)[..., None, None]
        self._dx = self._dx + smoothing_gain(s.derivative_cutoff, dt) * ((y - self._x) / (dt * size) - self._dx)
        cutoff = s.min_cutoff + s.beta * np.abs(self._dx)
        self._x = self._x + smoothing_gain(cutoff, dt) * (y - self._x)
        return self._x.copy()


@dataclass(frozen=True)
class MediaPipeSettings(OneEuroSettings):
    """Those with which MediaPipe smooths the landmarks of a face."""

    min_cutoff: float = 0.05
    beta: float = 80.0
    derivative_cutoff: float = 1.0


class MediaPipeOneEuro(OneEuro):
    """MediaPipe's One-Euro filter, as a baseline: the speed is the step from the last *raw* value.

    Its unit is the mean of the face's width and height, as in MediaPipe's landmark smoothing.
    """

    def _first(self, y: Array, std: Array | None) -> None:
        super()._first(y, std)
        self._raw = y

    def _next(self, y: Array, std: Array | None, dt: float) -> Array:
        s = self.settings
        size = np.maximum(np.ptp(y, axis=-2).mean(-1), 1e-9)[..., None, None]
        self._dx = self._dx + smoothing_gain(s.derivative_cutoff, dt) * ((y - self._raw) / (dt * size) - self._dx)
        self._raw = y
        self._x = self._x + smoothing_gain(s.min_cutoff + s.beta * np.abs(self._dx), dt) * (y - self._x)
        return self._x.copy()


@dataclass(frozen=True)
class SavitzkyGolaySettings:
    window: int = 5
    """Frames; odd for the filter that looks ahead."""
    order: int = 3
    """Degree of the polynomial, below `window`. No pair but those that change nothing lowers flicker behind each frame alone at
    equal error. This one is tuned behind two views of a frame."""

    def __post_init__(self) -> None:
        if self.window < 1:
            raise ArgumentError(f"window must be at least 1 frame, got {self.window}")
        if not 0 <= self.order < self.window:
            raise ArgumentError(f"order must lie in 0..window - 1 = {self.window - 1}, got {self.order}")


class CausalSavitzkyGolay(CausalFilter):
    """A polynomial fitted to the last frames, read at the newest (the one-sided filter of Savitzky and Golay, 1964).

    Until the window is full it is as long as the track; frames count as evenly spaced.
    """

    def __init__(self, settings: SavitzkyGolaySettings) -> None:
        # Here, and in the others: it takes a third of a second, which every `import ldeq` would pay.
        from scipy.signal import savgol_coeffs

        super().__init__()
        self.settings = settings
        self._weights = [
            savgol_coeffs(n, min(settings.order, n - 1), pos=n - 1, use="dot") for n in range(1, settings.window + 1)
        ]

    def _first(self, y: Array, std: Array | None) -> None:
        self._history = deque([y], maxlen=self.settings.window)

    def _next(self, y: Array, std: Array | None, dt: float) -> Array:
        self._history.append(y)
        return np.einsum("t,t...->...", self._weights[len(self._history) - 1], np.stack(self._history))


class SavitzkyGolay(WholeTrackFilter):
    """Savitzky-Golay filter about each frame, half of the window ahead; polynomials are continued at the ends."""

    def __init__(self, settings: SavitzkyGolaySettings) -> None:
        if settings.window % 2 == 0:
            raise ArgumentError(f"window must be odd for a filter centred on its frame, got {settings.window}")
        self.settings = settings

    def _smooth(self, y: Array, fps: float) -> Array:
        from scipy.signal import savgol_filter

        s = self.settings
        window = min(s.window, len(y) - 1 + len(y) % 2)
        return savgol_filter(y, window, min(s.order, window - 1), axis=0, mode="interp")


@dataclass(frozen=True)
class GaussianSettings:
    sigma: float = 0.015
    """Seconds."""

    def __post_init__(self) -> None:
        positive(self, "sigma")


class Gaussian(WholeTrackFilter):
    """Gaussian about each frame, cut off at four deviations; the track is mirrored at its ends."""

    def __init__(self, settings: GaussianSettings) -> None:
        self.settings = settings

    def _smooth(self, y: Array, fps: float) -> Array:
        from scipy.ndimage import gaussian_filter1d

        return gaussian_filter1d(y, self.settings.sigma * fps, axis=0, mode="reflect")


def positive(settings: object, *names: str) -> None:
    for name in names:
        if not getattr(settings, name) > 0:
            raise ArgumentError(f"{name} must be > 0, got {getattr(settings, name)}")


def not_negative(settings: object, *names: str) -> None:
    for name in names:
        value = getattr(settings, name)
        if not (value >= 0 and not math.isnan(value)):
            raise ArgumentError(f"{name} must be >= 0, got {value}")
