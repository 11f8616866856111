"""The deformation of a photographed face: turning head, raised brows, speaking mouth, closing lids, with exact landmarks.

Every map here runs backward, from where something is seen to where it is in the photo, so that a frame is one resampling.
Landmarks follow by solving the same maps for the place that leads to the landmark, by fixed-point iteration: the
displacements are contractions, and labels agree with pixels to rounding.

Two stages, seen from the frame: `soft` (turn of the head by the parallax of a rough depth, brows, pursed lips) is smooth
everywhere; `Lips` and `Lids` tear the skin along the line between the lips and along the edge of the upper lid, so they
give one map for each of the layers that meet there.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ldeq.data.clips.motion import smoothstep
from ldeq.data.layouts import Layout, Opening

from ...errors import ArgumentError

# float64 for landmarks, float32 for the pixels of a frame.
Array = NDArray[np.floating[Any]]

_ITERATIONS = 60
_TABLE = 257


@dataclass(frozen=True)
class Expression:
    """One moment of a face.

    Attributes:
        yaw, pitch: turn of the head in radians.
        jaw: way of the lower lip in photo pixels, positive where the mouth opens.
        rounding: -1 for spread lips to 1 for pursed ones.
        closure: 0 for open eyes as in the photo to 1 for closed ones.
        brows: -1 for lowered to 1 for raised.
        wink: how far one eye stays open while the other closes: to -1 the left one, to 1 the right one.
    """

    yaw: float = 0.0
    pitch: float = 0.0
    jaw: float = 0.0
    rounding: float = 0.0
    closure: float = 0.0
    brows: float = 0.0
    wink: float = 0.0

    @property
    def closures(self) -> tuple[float, float]:
        """`closure` of the left eye and of the right eye."""
        return self.closure * (1 + min(self.wink, 0.0)), self.closure * (1 - max(self.wink, 0.0))


class Slit:
    """Two lines of landmarks in a frame of their own: x from -1 at the left corner to 1 at the right, y in photo pixels.

    Attributes:
        origin: `(2,)` photo pixels, midway between the corners.
        axis: `(2,)` unit vector from the left to the right corner; y runs 90 degrees clockwise of it in the image.
        half: half of the distance between the corners in pixels.
        upper, lower: the lines, y at `_TABLE` evenly spaced x from -1 to 1.

    Raises:
        ValueError: where a line folds back, as in a face seen from the side, or the corners coincide.
    """

    def __init__(self, points: Array, opening: Opening) -> None:
        left, right = points[opening.upper[0]], points[opening.upper[-1]]
        self.origin = (left + right) / 2
        self.half = float(np.linalg.norm(right - left)) / 2
        if self.half < 1:
            raise ArgumentError("the corners of an eye or of the mouth coincide.")
        self.axis = (right - left) / (2 * self.half)
        lines = []
        for indices in (opening.upper, opening.lower):
            x, y = np.moveaxis(self.local(points[list(indices)]), -1, 0)
            if not (np.diff(x) > 0.05).all():
                raise ArgumentError("the line of a lid or a lip folds back.")
            lines.append(hermite(x, y))
        self.upper = lines[0]
        # Labels of closed lips and lids cross by parts of a pixel.
        self.lower = np.maximum(lines[0], lines[1])
        self.lower[[0, -1]] = self.upper[[0, -1]]

    @property
    def gap(self) -> Array:
        """`(_TABLE,)` distance of the lines."""
        return self.lower - self.upper

    def local(self, points: Array) -> Array:
        """Photo pixels `(..., 2)` as x and y of this frame."""
        dx, dy = points[..., 0] - self.origin[0], points[..., 1] - self.origin[1]
        a, b = self.axis
        return np.stack([(dx * a + dy * b) / self.half, dy * a - dx * b], -1)

    def at(self, line: Array, x: Array) -> Array:
        """The table `line` at x; beyond the corners it goes on level."""
        place = np.clip((x + 1) * ((_TABLE - 1) / 2), 0, _TABLE - 1)
        index = np.minimum(place.astype(np.int32), _TABLE - 2)
        part = place - index
        table = line.astype(place.dtype)
        return table[index] * (1 - part) + table[index + 1] * part

    def down(self, points: Array, way: Array) -> Array:
        """`points` moved by `way` pixels along y: `(..., 2)`, `(...)` -> `(..., 2)`."""
        a, b = self.axis
        return np.stack([points[..., 0] - way * b, points[..., 1] + way * a], -1)


class Lids(Slit):
    """An eye whose upper lid comes down over it. The eye itself stays; the skin above the lid unfolds."""

    def __init__(self, points: Array, opening: Opening, brow: Array) -> None:
        super().__init__(points, opening)
        height = float(np.median(self.at(self.upper, np.zeros(1)) - self.local(brow)[:, 1]))
        # Skin is taken from up to the brow, and farther where that is too near for a fold-free map.
        self.height = max(height, 1.3 * float(self.gap.max()), 1.0)

    def edge(self, x: Array, closure: float) -> Array:
        """y of the edge of the upper lid."""
        return self.at(self.upper + closure * self.gap, x)

    def lid(self, seen: Array, closure: float) -> Array:
        """The lid's skin: photo place of what is seen at `(..., 2)`; below the edge the lid goes on unstretched."""
        x, y = np.moveaxis(self.local(seen), -1, 0)
        way = self.at(closure * self.gap, x)
        top = self.at(self.upper, x) - self.height
        fall = smoothstep((y - top) / (self.height + way))
        return self.down(seen, -way * fall)


class Lips(Slit):
    """A mouth that opens and closes: the jaw takes lower lip and chin along, the upper lip rises a little.

    Attributes:
        chin: distance from the line between the lips to the chin in pixels.
        nose: distance from it up to the base of the nose.
    """

    def __init__(self, points: Array, opening: Opening, chin: Array, nose: Array) -> None:
        super().__init__(points, opening)
        self.chin = max(float(self.local(chin)[1] - self.lower[_TABLE // 2]), 0.5 * self.half)
        self.nose = max(float(self.upper[_TABLE // 2] - self.local(nose)[1]), 0.25 * self.half)
        # Beyond these the skin would fold over itself.
        self.widest = 0.5 * self.chin
        self.narrowest = -float(self.gap.max())

    def ways(self, jaw: float) -> tuple[Array, Array]:
        """How far the upper and the lower line move down, as tables."""
        profile = _arch(np.linspace(-1, 1, _TABLE))
        if jaw < 0:
            # Closing: no farther than to the upper lip, wherever that is.
            return np.zeros(_TABLE), np.maximum(jaw * profile, -self.gap)
        return -min(0.12 * jaw, 0.3 * self.nose) * profile, jaw * profile

    def lines(self, x: Array, jaw: float) -> tuple[Array, Array]:
        """y of the edges of the upper and of the lower lip."""
        up, down = self.ways(jaw)
        return self.at(self.upper + up, x), self.at(self.lower + down, x)

    def above(self, seen: Array, jaw: float) -> Array:
        """Upper lip and the skin over it: photo place of what is seen at `(..., 2)`."""
        x, y = np.moveaxis(self.local(seen), -1, 0)
        up, _ = self.ways(jaw)
        way = self.at(up, x)
        fade = 1 - smoothstep((self.at(self.upper, x) + way - y) / self.nose)
        return self.down(seen, -way * fade)

    def below(self, seen: Array, jaw: float) -> Array:
        """Lower lip, chin and throat: photo place of what is seen at `(..., 2)`."""
        x, y = np.moveaxis(self.local(seen), -1, 0)
        _, down = self.ways(jaw)
        lip = self.at(down, x)
        depth = np.maximum(y - self.at(self.lower, x) - lip, 0) / self.chin
        # The chin moves as one: what is a narrow arch at the lips is wide at the jaw.
        jawbone = 0.9 * jaw * _arch(x / 2.3)
        mix = smoothstep(depth / 0.9)
        way = lip + (jawbone - lip) * mix
        fade = 1 - smoothstep((depth - 1.0) / 0.9)
        return self.down(seen, -way * fade)


def _arch(x: Array) -> Array:
    """1 in the middle, 0 at -1 and 1 and beyond, without a kink there."""
    return np.maximum(1 - x * x, 0) ** 1.25


_PARTS = ("contour", "nose_ridge", "nostrils", "left_brow", "right_brow", "outer_lip")
_OPENINGS = ("mouth", "left_eye", "right_eye")


class FaceDeformation:
    """The maps of one labelled face.

    Args:
        points: `(K, 2)` landmarks in photo pixels.
        layout: what they mean; it must have the three openings and the parts of a whole face.

    Raises:
        ValueError: where the face cannot be moved believably, as it is seen from the side, or the layout lacks a part.
    """

    def __init__(self, points: Array, layout: Layout) -> None:
        self.points, self.layout = np.asarray(points, np.float64), layout
        lacking = [name for name in _PARTS if name not in layout.parts] + [n for n in _OPENINGS if n not in layout.openings]
        if lacking:
            raise ArgumentError(f"the layout {layout.name!r} has no {lacking[0]}, and only whole faces can be moved.")
        p, parts = self.points, layout.parts
        contour = parts["contour"].indices
        chin = p[contour[len(contour) // 2]]
        nose = p[parts["nose_ridge"].indices[-1]]
        left, right = (p[i] for i in layout.outer_eyes)
        self.lips = Lips(p, layout.openings["mouth"], chin, p[list(parts["nostrils"].indices)].mean(0))
        self.eyes = tuple(
            Lids(p, layout.openings[f"{side}_eye"], p[list(parts[f"{side}_brow"].indices)]) for side in ("left", "right")
        )
        self.across = (right - left) / np.linalg.norm(right - left)
        self.along = np.array([-self.across[1], self.across[0]])
        extent = (p @ self.across, p @ self.along)
        self.width, self.height = (float(np.ptp(v)) for v in extent)
        self.side = float(max(np.ptp(p, axis=0)))
        # Between the eyes and the mouth, where a head turns about.
        self.centre = ((left + right) / 2 + self.lips.origin) / 2
        if not self.width > 0.45 * self.height:
            raise ArgumentError("the face is seen from the side.")
        middle = (nose - self.centre) @ self.across / self.width
        self.nose = nose
        if abs(middle) > 0.22:
            raise ArgumentError("the face is seen from the side.")
        self.brows = tuple(p[list(parts[f"{side}_brow"].indices)].mean(0) for side in ("left", "right"))
        # Which layer each landmark lies on; lids and lips divide them, the rest does not care.
        self.on_lid = tuple(self._above(eye) for eye in self.eyes)
        self.under_lips = self._under_lips()

    def _above(self, eye: Lids) -> NDArray[np.bool_]:
        x, y = np.moveaxis(eye.local(self.points), -1, 0)
        return np.asarray(y <= eye.at(eye.upper, x) + 1e-6)

    def _under_lips(self) -> NDArray[np.bool_]:
        lips, opening = self.lips, self.layout.openings["mouth"]
        x, y = np.moveaxis(lips.local(self.points), -1, 0)
        under = np.asarray(y > lips.at((lips.upper + lips.lower) / 2, x))
        # Closed lips share their line, and only the name tells which lip a landmark belongs to.
        under[list(opening.upper)] = False
        under[list(opening.lower[1:-1])] = True
        return under

    def soft(self, seen: Array, e: Expression) -> Array:
        """Photo place before lips and lids of what is seen, before the camera, at `(..., 2)` photo pixels."""
        dx, dy = seen[..., 0] - self.centre[0], seen[..., 1] - self.centre[1]
        (ax, ay), (bx, by) = self.across, self.along
        s, t = dx * ax + dy * ay, dx * bx + dy * by
        w, h = self.width, self.height
        # A rough head: an egg with a nose on it; what is outside of it is as far as the ears.
        depth = 0.42 * w * np.exp(-((s / (0.55 * w)) ** 2) - ((t / (0.72 * h)) ** 2))
        nx, ny = (self.nose - self.centre) @ self.across, (self.nose - self.centre) @ self.along
        depth += 0.1 * w * np.exp(-(((s - nx) / (0.14 * w)) ** 2) - (((t - ny) / (0.16 * w)) ** 2))
        ds = -math.sin(e.yaw) * depth
        dt = -math.sin(e.pitch) * depth
        if e.rounding:
            mx, my = (self.lips.origin - self.centre) @ self.across, (self.lips.origin - self.centre) @ self.along
            r = 1.5 * self.lips.half
            ds += 0.2 * e.rounding * (s - mx) * np.exp(-(((s - mx) / r) ** 2) - (((t - my) / r) ** 2))
        if e.brows:
            for brow in self.brows:
                qx, qy = (brow - self.centre) @ self.across, (brow - self.centre) @ self.along
                dt += 0.035 * h * e.brows * np.exp(-(((s - qx) / (0.22 * w)) ** 2) - (((t - qy) / (0.13 * h)) ** 2))
        s, t = s / math.cos(e.yaw) + ds, t / math.cos(e.pitch) + dt
        return np.stack([self.centre[0] + s * ax + t * bx, self.centre[1] + s * ay + t * by], -1)

    def landmarks(self, e: Expression) -> Array:
        """Where the landmarks are seen, before the camera: `(K, 2)` photo pixels."""
        moved: Array = self.points
        under = self.under_lips[:, None]
        moved = _solve(lambda q: np.where(under, self.lips.below(q, e.jaw), self.lips.above(q, e.jaw)), moved)
        for eye, on, closure in zip(self.eyes, self.on_lid, e.closures, strict=True):
            moved = np.where(on[:, None], _solve(partial(eye.lid, closure=closure), moved), moved)
        return _solve(lambda q: self.soft(q, e), moved)


class RigidFace:
    """A face that the camera alone moves, as one that is seen from the side.

    Args:
        points: `(K, 2)` landmarks in photo pixels.
        layout: what they mean.
    """

    def __init__(self, points: Array, layout: Layout) -> None:
        self.points, self.layout = np.asarray(points, np.float64), layout
        self.side = float(max(np.ptp(self.points, axis=0)))

    def soft(self, seen: Array, e: Expression) -> Array:
        """The photo place of what is seen at `(..., 2)`: the same."""
        return seen

    def landmarks(self, e: Expression) -> Array:
        """Where the landmarks are seen: `(K, 2)` photo pixels."""
        return self.points


def _solve(backward: Callable[[Array], Array], target: Array) -> Array:
    """The places that `backward` leads to `target`, `(K, 2)`."""
    seen = target
    for _ in range(_ITERATIONS):
        step = target - backward(seen)
        seen = seen + step
        if np.abs(step).max() < 1e-9:
            break
    return seen


def hermite(x: Array, y: Array) -> Array:
    """A smooth line through points without overshoot, at `_TABLE` places from -1 to 1 (Fritsch-Butland slopes)."""
    h, slope = np.diff(x), np.diff(y) / np.diff(x)
    inner = np.zeros(len(x))
    same = slope[1:] * slope[:-1] > 0
    a, b = 2 * h[1:] + h[:-1], h[1:] + 2 * h[:-1]
    with np.errstate(divide="ignore", invalid="ignore"):
        inner[1:-1] = np.where(same, (a + b) / (a / slope[:-1] + b / slope[1:]), 0.0)
    inner[0], inner[-1] = 1.5 * slope[0] - 0.5 * inner[1], 1.5 * slope[-1] - 0.5 * inner[-2]
    at = np.linspace(-1, 1, _TABLE)
    i = np.clip(np.searchsorted(x, at, side="right") - 1, 0, len(x) - 2)
    u = (at - x[i]) / h[i]
    return np.asarray(
        y[i] * (1 + 2 * u) * (1 - u) ** 2 + y[i + 1] * u * u * (3 - 2 * u)
        + h[i] * (inner[i] * u * (1 - u) ** 2 - inner[i + 1] * u * u * (1 - u))
    )  # fmt: skip
