"""The filter in the face's own frame: pose lightly, shape strongly, mouth and eyes without lag.

A frame's landmarks are split into a similarity, smooth fields (`bend`), openings of mouth and eyes, and what is left
(`detail`). Motion that many landmarks share is well measured, and filtered lightly; what one landmark does alone is mostly
noise, and filtered strongly. Each part runs through Kalman filters of a random walk, with the heatmap's standard deviation as
the measurement noise; their process noise grows with the speed that is seen (as the cutoff of the One-Euro filter does), so
that a blink or a syllable passes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from ...data import Layout
from .base import Array, CausalFilter, smoothing_gain
from .classic import not_negative, positive
from .face_modes import face_modes, opening_landmarks, rigid_landmarks
from .similarity import Similarity, fit_similarity


@dataclass(frozen=True)
class FaceFrameSettings:
    """Lengths count in RMS radii of the rigid landmarks, about a third of the face; a process is a random walk's standard
    deviation after one second."""

    noise: float = 0.036
    """Measurement noise over the heatmap's standard deviation. The strength of the whole: 0 passes everything."""
    pose_process: float = 0.28
    bend_process: float = 0.0346
    opening_process: float = 0.066
    detail_process: float = 0.01
    lively_process: float = 0.044
    """As `detail_process`, for lids, pupils and lips."""
    pose_speed: float = 0.01
    """How much of the speed that is seen counts as process noise."""
    bend_speed: float = 0.471
    opening_speed: float = 6.0
    detail_speed: float = 0.00588
    trend: float = 0.05
    """How much of the pose's velocity is carried forward, 0 to 1."""
    speed_cutoff: float = 47.6
    """Hz of the low-pass of the speeds."""
    bend_gate: float = 1.0
    """Innovations beyond this many of their standard deviations count as outliers, unless the last frame had them, too. The
    pose has no gate: what shuts out a fast head leaves it the farther behind."""
    opening_gate: float = 50.0
    detail_gate: float = 28.9
    consensus: float = 1.7
    """Landmarks that move unlike the others, by this many of the median innovation, count less in pose and modes."""
    caution: float = 2.04
    """Exponent: noise grows with (std / the landmark's usual std) to this power, on top of std itself. What hides a face
    widens its heatmaps by half, and makes their means wrong by far more than that."""
    usual: float = 2.0
    """Seconds over which a landmark's usual std is taken."""
    std_floor: float = 0.005
    """Smallest standard deviation of a landmark, and every landmark's where the model gives none."""

    def __post_init__(self) -> None:
        positive(self, "speed_cutoff", "std_floor", "usual")
        names = [n for n in self.__dataclass_fields__ if n not in ("speed_cutoff", "std_floor", "usual")]
        not_negative(self, *names)


class Walk:
    """Kalman filters of random walks, one for each entry of `(..., n)`.

    Local-level model: x(t) = x(t-1) + trend v dt + w, var w = process^2 dt + (share |v| dt)^2; y = x + noise.

    Args:
        first: the first measurement.
        variance: of `first`, of its shape or one that broadcasts to it.
        vectors: the last axis holds x and y of one point, which share a speed: without it, a turned face is another problem.
    """

    def __init__(self, first: Array, variance: Array, vectors: bool = False) -> None:
        self.x, self.p, self.vectors = first, variance, vectors
        self.seen = np.zeros_like(first)
        self.v = np.zeros_like(first)
        self.left = np.zeros_like(first)

    def step(
        self,
        y: Array,
        variance: Array,
        dt: float,
        process: float | Array,
        share: float | Array,
        speed_gain: float,
        trend: float = 0.0,
        gate: float | Array = math.inf,
    ) -> Array:
        predicted = self.x + self.v * dt if trend else self.x
        innovation = y - predicted
        p = self.p + np.square(process) * dt
        if np.any(share):
            self.seen = self.seen + speed_gain * ((y - self.x) / dt - self.seen)
            squared = self.seen**2
            p = p + (share * dt) ** 2 * (squared.sum(-1, keepdims=True) if self.vectors else squared)
        total = np.maximum(p + variance, 1e-30)
        # What was left of the last measurement and comes again is no outlier: a gate that took a fast motion for one would
        # shut the more the farther the face got away.
        square = np.minimum(self._square(innovation), self._square(innovation - self.left))
        gain = p / np.maximum(p + variance * (1 + square / (np.square(gate) * total)), 1e-30)
        self.x = predicted + gain * innovation
        self.p = (1 - gain) * p
        if trend:
            self.v = self.v + trend * gain * gain / (2 - gain) * innovation / dt
        self.left = y - self.x
        return self.x

    def _square(self, a: Array) -> Array:
        square = a**2
        return np.asarray(square.mean(-1, keepdims=True)) if self.vectors else square


class FaceFrame(CausalFilter):
    """Kalman filters in the face's own frame; see the module's text."""

    def __init__(self, settings: FaceFrameSettings, layout: Layout) -> None:
        super().__init__()
        self.settings, self.layout = settings, layout
        self._rigid = rigid_landmarks(layout)
        self._lively = opening_landmarks(layout)

    def _first(self, y: Array, std: Array | None) -> None:
        left, right = self.layout.outer_eyes
        axis = y[..., right, :] - y[..., left, :]
        angle = np.arctan2(axis[..., 1], axis[..., 0])
        centre = y[..., self._rigid, :].mean(-2)
        radius = np.sqrt(((y[..., self._rigid, :] - centre[..., None, :]) ** 2).sum(-1).mean(-1))
        pose = Similarity(centre, np.log(np.maximum(radius, 1e-12)), angle)
        self._reference = pose.undo(y)
        self._modes = face_modes(self.layout, self._reference)
        scale = np.exp(pose.log_scale)
        self._usual: Array | None = None
        variance = self._variance(std, y, scale, 0.0)
        pose_variance = self._pose_variance(variance)
        self._shift = Walk(pose.shift, pose_variance * (scale**2)[..., None], vectors=True)
        self._turn = Walk(np.stack([pose.log_scale, pose.angle], -1), pose_variance)
        fields = self._modes.fields
        self._coefficients = Walk(np.zeros((*fields.shape[:-3], fields.shape[-1])), self._mode_variance(variance))
        self._detail = Walk(np.zeros_like(y), variance[..., None], vectors=True)

    def _next(self, y: Array, std: Array | None, dt: float) -> Array:
        s = self.settings
        # The scale of the last frame turns pixels into radii: the newest is not filtered yet.
        scale = np.exp(self._turn.x[..., 0])
        variance = self._variance(std, y, scale, dt)
        speed_gain = float(smoothing_gain(s.speed_cutoff, dt))

        fields = self._modes.fields
        flat = fields.reshape(*fields.shape[:-3], -1, fields.shape[-1])

        def spread(c: Array) -> Array:
            return (flat @ c[..., None]).reshape(y.shape)

        # What is new in this frame: measured against the filtered shape, where weights that come and go (a hand before the
        # face) move nothing by themselves.
        shape = self._reference + spread(self._coefficients.x) + self._detail.x
        precision = 1 / variance if s.noise else np.ones_like(variance)
        pose = fit_similarity(shape, y, precision * self._rigid)
        innovation = pose.undo(y) - shape
        if s.consensus < math.inf:
            square = (innovation**2).sum(-1)
            usual = np.median(square, -1, keepdims=True)
            precision = precision / (1 + square / np.maximum(s.consensus**2 * usual, 1e-30))
            pose = fit_similarity(shape, y, precision * self._rigid)
            innovation = pose.undo(y) - shape
        angle = self._turn.x[..., 1] + _wrap(pose.angle - self._turn.x[..., 1])
        change = self._solve(flat, np.repeat(precision, 2, -1), innovation)

        pose_variance = self._pose_variance(variance)
        unit = scale[..., None]
        shift = self._shift.step(
            pose.shift,
            pose_variance * unit**2,
            dt,
            s.pose_process * unit,
            s.pose_speed,
            speed_gain,
            s.trend,
        )
        turn = self._turn.step(
            np.stack([pose.log_scale, angle], -1),
            pose_variance,
            dt,
            s.pose_process,
            s.pose_speed,
            speed_gain,
            s.trend,
        )
        process, share, gate = (np.empty(change.shape[-1]) for _ in range(3))
        bend, opening = self._modes.bend, self._modes.opening
        process[bend], process[opening] = s.bend_process, s.opening_process
        share[bend], share[opening] = s.bend_speed, s.opening_speed
        gate[bend], gate[opening] = s.bend_gate, s.opening_gate
        detail = self._detail.x + innovation - spread(change)
        c = self._coefficients.x + change
        c = self._coefficients.step(c, self._mode_variance(variance), dt, process, share, speed_gain, 0.0, gate)
        walk = np.where(self._lively, s.lively_process, s.detail_process)[:, None]
        detail = self._detail.step(detail, variance[..., None], dt, walk, s.detail_speed, speed_gain, 0.0, s.detail_gate)
        shape = self._reference + spread(c) + detail
        self._gauge(shape)
        return Similarity(shift, turn[..., 0], turn[..., 1]).apply(shape)

    @staticmethod
    def _solve(flat: Array, weights: Array, target: Array) -> Array:
        """The modes `(..., M)` that explain a displacement `(..., K, 2)` best, by weighted least squares."""
        weighted = flat * weights[..., None]
        gram = np.swapaxes(weighted, -1, -2) @ flat
        # Fields that nearly coincide (a closed mouth) share their motion instead of cancelling each other.
        ridge = 1e-6 * np.trace(gram, axis1=-2, axis2=-1)[..., None, None] + 1e-30
        right = np.swapaxes(weighted, -1, -2) @ target.reshape(*target.shape[:-2], -1, 1)
        return np.linalg.solve(gram + ridge * np.eye(flat.shape[-1]), right)[..., 0]

    def _gauge(self, shape: Array) -> None:
        """Hands what the shape has of a similarity over to the pose, so that the shape stays upright and of size 1."""
        drift = fit_similarity(self._reference, shape, self._rigid * np.ones(shape.shape[:-1]))
        self._detail.x = self._detail.x + drift.undo(shape) - shape
        scale, angle = np.exp(self._turn.x[..., 0]), self._turn.x[..., 1]
        cos, sin = scale * np.cos(angle), scale * np.sin(angle)
        dx, dy = drift.shift[..., 0], drift.shift[..., 1]
        self._shift.x = self._shift.x + np.stack([cos * dx - sin * dy, sin * dx + cos * dy], -1)
        self._turn.x = self._turn.x + np.stack([drift.log_scale, drift.angle], -1)

    def _variance(self, std: Array | None, y: Array, scale: Array, dt: float) -> Array:
        """Measurement variance of each landmark `(..., K)`, in squared radii."""
        s = self.settings
        if std is None:
            return np.full(y.shape[:-1], (s.noise * s.std_floor) ** 2)
        log = np.log(np.maximum(std / scale[..., None], s.std_floor))
        if self._usual is None:
            self._usual = log
        above = log - self._usual
        # Upward four times slower: a hand before the face must not become usual while it passes.
        self._usual = self._usual + np.where(above > 0, 0.25, 1.0) * dt / (s.usual + dt) * above
        return s.noise**2 * np.exp(2 * (log + s.caution * np.maximum(above, 0)))

    def _pose_variance(self, variance: Array) -> Array:
        """`(..., 1)`: the harmonic mean over the rigid landmarks, since those that are seen tell the pose of all."""
        return 1 / np.maximum((1 / np.maximum(variance[..., self._rigid], 1e-30)).mean(-1, keepdims=True), 1e-30)

    def _mode_variance(self, variance: Array) -> Array:
        """Of each mode `(..., M)`: the harmonic mean of the landmarks' variances, weighted by its field."""
        power = (self._modes.fields**2).sum(-2)
        precision = (power / np.maximum(variance, 1e-30)[..., None]).sum(-2) / np.maximum(power.sum(-2), 1e-30)
        return 1 / np.maximum(precision, 1e-30)


def _wrap(angle: Array) -> Array:
    return (angle + math.pi) % (2 * math.pi) - math.pi
