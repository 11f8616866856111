"""Frames of a moving face from one photo: each pixel is resampled once from the photo, then seen by a camera."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from ldeq.data.clips.deformation import Expression, FaceDeformation, Lips, RigidFace, Slit
from ldeq.data.crop import compose, invert, transform_points

Image = NDArray[np.uint8]
Array = NDArray[np.floating[Any]]

# A displacement this smooth is computed at every other pixel and interpolated: 0.01 px at most.
_STEP = 2


class FaceRenderer:
    """Draws a photographed face in motion.

    Args:
        photo: `(H, W, 3)` RGB uint8, or float32 where the values are to be followed exactly (tests).
        face: the deformation of the face in it, or a face that has none and is drawn without an expression.
        size: (height, width) of the frames.
        pad: pixels by which the photo is extended on every side for what lies beyond it; half of its longer side where None.
    """

    def __init__(
        self,
        photo: NDArray[np.uint8] | NDArray[np.float32],
        face: FaceDeformation | RigidFace,
        size: tuple[int, int],
        pad: int | None = None,
    ) -> None:
        self.face, self.size = face, size
        self.pad = max(photo.shape[:2]) // 2 if pad is None else pad
        self.canvas = extend(photo, self.pad)
        rows, columns = (np.arange(-1, -(-n // _STEP) + 1) * float(_STEP) + (_STEP - 1) / 2 for n in size)
        self.nodes = np.stack(np.meshgrid(columns, rows), -1)
        self.mouth_colour = None if isinstance(face, RigidFace) else self._mouth_colour(face)

    def _mouth_colour(self, face: FaceDeformation) -> NDArray[np.float32]:
        """The dark of an open mouth, from the colour of the skin about it."""
        outer = face.points[list(face.layout.parts["outer_lip"].indices)]
        x, y = np.rint(outer.mean(0) + self.pad).astype(int).clip(0, np.array(self.canvas.shape[1::-1]) - 1)
        r = max(2, round(face.lips.half))
        skin = np.median(self.canvas[max(y - r, 0) : y + r, max(x - r, 0) : x + r].reshape(-1, 3), axis=0)
        luminance = float(skin.mean())
        # Grey photos stay grey.
        tint = np.array([1.25, 0.8, 0.8]) if np.ptp(skin) > 8 else np.ones(3)
        return (0.2 * luminance * tint).astype(np.float32)

    def draw(self, camera: Array, e: Expression) -> NDArray[np.uint8]:
        """The face as a camera sees it: `camera` is the `(2, 3)` map from photo to frame; -> `(H, W, 3)`."""
        places = self.photo_places(camera, e)
        frame = self._sample(places)
        if isinstance(self.face, RigidFace):
            return frame
        scale = math.sqrt(abs(float(np.linalg.det(camera[:, :2]))))
        if e.jaw:
            lips = self.face.lips
            reach = (-1.0 - 1.3, 1.0 + 1.3), (-lips.nose - 2.0, 2.1 * lips.chin + max(e.jaw, 0) + 2.0)
            region = self._region(lips, reach, camera, e)
            if region is not None:
                self._draw_mouth(lips, frame[region], places[region], e.jaw, scale)
        if e.closure:
            for eye, closure in zip(self.face.eyes, e.closures, strict=True):
                top = float(eye.upper.min()) - eye.height - 2
                region = self._region(eye, ((-1.1, 1.1), (top, float(eye.lower.max()) + 2)), camera, e)
                if region is None:
                    continue
                seen = places[region]
                local = eye.local(seen)
                cover = np.clip(0.5 + scale * (eye.edge(local[..., 0], closure) - local[..., 1]), 0, 1)
                _mix(frame[region], self._sample(eye.lid(seen, closure)), cover)
        return frame

    def photo_places(self, camera: Array, e: Expression) -> NDArray[np.float32]:
        """Photo place, before lips and lids, of every pixel: `(H, W, 2)`."""
        height, width = self.size
        coarse = self.face.soft(transform_points(invert(camera), self.nodes), e).astype(np.float32)
        fine = cv2.resize(coarse, None, fx=_STEP, fy=_STEP, interpolation=cv2.INTER_LINEAR)
        return np.asarray(fine[_STEP : _STEP + height, _STEP : _STEP + width], np.float32)

    def _sample(self, places: Array) -> NDArray[np.uint8]:
        shifted = places.astype(np.float32) + np.float32(self.pad)
        return np.asarray(
            cv2.remap(self.canvas, shifted, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)  # type: ignore[call-overload]
        )

    def _region(
        self, slit: Slit, reach: tuple[tuple[float, float], tuple[float, float]], camera: Array, e: Expression
    ) -> tuple[slice, slice] | None:
        """The part of the frame in which a rectangle of a slit's own frame is seen, or None outside of it."""
        (x0, x1), (y0, y1) = reach
        t = np.linspace(0, 1, 9)
        edge = np.concatenate([
            np.stack([x0 + (x1 - x0) * t, np.full(9, y0)], 1), np.stack([x0 + (x1 - x0) * t, np.full(9, y1)], 1),
            np.stack([np.full(9, x0), y0 + (y1 - y0) * t], 1), np.stack([np.full(9, x1), y0 + (y1 - y0) * t], 1),
        ])  # fmt: skip
        photo = slit.down(slit.origin + edge[:, :1] * slit.half * slit.axis, edge[:, 1])
        seen = photo
        for _ in range(8):
            seen = seen + photo - self.face.soft(seen, e)
        corners = transform_points(camera, seen)
        low, high = np.floor(corners.min(0)).astype(int) - 3, np.ceil(corners.max(0)).astype(int) + 4
        (height, width), (c0, r0), (c1, r1) = self.size, np.maximum(low, 0), np.maximum(high, 0)
        if c0 >= min(c1, width) or r0 >= min(r1, height):
            return None
        return slice(int(r0), int(min(r1, height))), slice(int(c0), int(min(c1, width)))

    def _draw_mouth(self, lips: Lips, target: NDArray[np.uint8], seen: NDArray[np.float32], jaw: float, scale: float) -> None:
        x, y = np.moveaxis(lips.local(seen), -1, 0)
        upper_edge, lower_edge = lips.lines(x, jaw)
        upper = np.clip(0.5 + scale * (upper_edge - y), 0, 1)
        lower = np.clip(0.5 + scale * (y - lower_edge), 0, 1)
        inside = np.maximum(0, 1 - upper - lower)
        skin = self._sample(lips.above(seen, jaw))
        _mix(skin, self._sample(lips.below(seen, jaw)), lower)
        if (inside > 0).any():
            # Upper teeth belong to the skull: where the photo shows the inside of the mouth it stays as it is.
            rim = np.minimum(0.05 * lips.half, lips.at(0.15 * lips.gap, x))
            known = np.clip(0.5 + scale * (y - lips.at(lips.upper, x) - rim), 0, 1)
            known *= np.clip(0.5 + scale * (lips.at(lips.lower, x) - rim - y), 0, 1)
            depth = np.clip((y - upper_edge) / np.maximum(lower_edge - upper_edge, 1e-3), 0, 1)
            # A tongue catches a little light near the lower lip.
            dark = self.mouth_colour * (0.55 + 0.9 * depth * depth * np.maximum(1 - x * x, 0))[..., None]
            interior = dark.astype(target.dtype)
            _mix(interior, target, known)
            _mix(skin, interior, inside)
        target[:] = skin

    def landmarks(self, camera: Array, e: Expression) -> Array:
        """Where the landmarks are in that frame: `(K, 2)` float64 pixels."""
        return transform_points(camera, self.face.landmarks(e))


def _mix(target: NDArray[np.uint8], other: NDArray[np.uint8], part: Array) -> None:
    """`target` becomes a mixture with `part` of `other`, in place."""
    mixed = target + part[..., None].astype(np.float32) * (other.astype(np.float32) - target)
    target[:] = np.rint(mixed) if target.dtype == np.uint8 else mixed


def extend(photo: NDArray[np.uint8] | NDArray[np.float32], pad: int) -> NDArray[np.uint8]:
    """A photo with `pad` more pixels on every side: mirrored and ever more out of focus, so that no edge shows."""
    canvas: NDArray[np.uint8] = np.asarray(cv2.copyMakeBorder(photo, pad, pad, pad, pad, cv2.BORDER_REFLECT_101))
    if photo.dtype != np.uint8:
        return canvas
    height, width = canvas.shape[:2]
    far_y = np.maximum(pad - np.arange(height), np.arange(height) - (height - pad - 1)).clip(0)
    far_x = np.maximum(pad - np.arange(width), np.arange(width) - (width - pad - 1)).clip(0)
    distance = np.maximum(far_y[:, None], far_x[None]).astype(np.float32)
    for sigma, start in ((2.0, 2.0), (6.0, 10.0), (14.0, 28.0)):
        # A strong blur is the same at a lower resolution, and a tenth of the work.
        shrink = max(1, int(sigma / 2))
        small = cv2.resize(canvas, (-(-width // shrink), -(-height // shrink)), interpolation=cv2.INTER_AREA)
        soft = cv2.resize(cv2.GaussianBlur(small, (0, 0), sigma / shrink), (width, height), interpolation=cv2.INTER_LINEAR)
        _mix(canvas, np.asarray(soft, np.uint8), np.clip((distance - start) / (start + 4), 0, 1))
    return canvas


def motion_blur(frame: Image, way: Array) -> Image:
    """A frame smeared evenly along a straight way `(2,)` in pixels, centred: what is labelled stays in its middle."""
    length = float(np.hypot(*way))
    if length < 0.7:
        return frame
    radius = math.ceil(length / 2) + 1
    kernel = np.zeros((2 * radius + 1, 2 * radius + 1), np.float32)
    for t in np.linspace(-0.5, 0.5, 4 * radius + 1):
        x, y = radius + t * way[0], radius + t * way[1]
        i, j = int(y), int(x)
        u, v = y - i, x - j
        kernel[i : i + 2, j : j + 2] += np.outer([1 - u, u], [1 - v, v])
    return np.asarray(cv2.filter2D(frame, -1, kernel / kernel.sum(), borderType=cv2.BORDER_REFLECT_101), np.uint8)


@dataclass(frozen=True)
class Occluder:
    """A thing that passes before the face.

    Attributes:
        picture: `(S, S, 4)` float32, RGB premultiplied with the opacity, then the opacity in [0, 1].
        places: `(T, 3)` x, y of its middle in frame pixels and its turn in radians.
        shown: `(T,)` whether it is in the frame at all.
    """

    picture: NDArray[np.float32]
    places: Array
    shown: NDArray[np.bool_]

    def draw(self, frame: Image, t: int) -> None:
        """Puts it over frame number t, in place."""
        if not self.shown[t]:
            return
        (x, y, turn), size = self.places[t], self.picture.shape[0]
        reach = 0.75 * size
        (x0, y0), (x1, y1) = (int(max(x - reach, 0)), int(max(y - reach, 0))), (int(x + reach), int(y + reach))
        region = frame[y0 : max(y1, 0), x0 : max(x1, 0)]
        if region.size == 0:
            return
        c, s = math.cos(turn), math.sin(turn)
        half = (size - 1) / 2
        spin = np.array([[c, -s, -c * half + s * half], [s, c, -s * half - c * half]])
        matrix = compose(np.array([[1.0, 0, x - x0], [0, 1, y - y0]]), spin)
        over = cv2.warpAffine(self.picture, matrix, (region.shape[1], region.shape[0]), flags=cv2.INTER_LINEAR)
        region[:] = np.rint(region * (1 - over[..., 3:]) + over[..., :3])


def draw_occluder(
    rng: np.random.Generator, texture: Image, face: Array, frame_size: tuple[int, int], frames: int, first: int = 0
) -> Occluder:
    """A thing of a random shape with a cloth's or a hand's colours that crosses the face once.

    Args:
        texture: `(H, W, 3)` RGB uint8, a photo from which a patch is cut.
        face: `(T, 4)` boxes of the face in the frames that are made.
        frame_size: (height, width).
        frames: of the whole clip.
        first: which of them is the first that is made.
    """
    side = float(np.median(face[:, 2] - face[:, 0]))
    size = round(side * float(rng.uniform(0.55, 0.95)))
    height, width = texture.shape[:2]
    cut = min(height, width, max(8, round(size * float(rng.uniform(0.3, 0.6)))))
    y, x = (int(rng.integers(0, n - cut + 1)) for n in (height, width))
    patch = cv2.resize(texture[y : y + cut, x : x + cut], (size, size), interpolation=cv2.INTER_CUBIC).astype(np.float32)
    v, u = np.meshgrid(np.linspace(-1, 1, size), np.linspace(-1, 1, size), indexing="ij")
    aspect, power = float(rng.uniform(0.3, 0.7)), float(rng.uniform(2.0, 5.0))
    wobble = 1 + 0.12 * np.sin(int(rng.integers(2, 5)) * np.arctan2(v, u) + float(rng.uniform(0, 6.3)))
    radius = (np.abs(u) ** power + np.abs(v / aspect) ** power) ** (1 / power) / (0.85 * wobble)
    opacity = np.clip((1 - radius) * size / 4, 0, 1)
    shade = np.clip(1.15 - 0.5 * radius**2 - 0.15 * v, 0.3, 1.2)
    colour = np.clip(patch * (shade * float(rng.uniform(0.6, 1.1)))[..., None], 0, 255)
    picture = np.concatenate([colour * opacity[..., None], opacity[..., None]], -1).astype(np.float32)
    # In from outside, a stop somewhere on the face, out again.
    quarter = max(1, frames // 4)
    length = int(rng.integers(quarter, max(quarter + 1, frames // 2)))
    start = int(rng.integers(0, max(1, frames - length)))
    t = np.clip((first + np.arange(len(face)) - start) / length, 0, 1)
    come, leave = (float(a) for a in rng.uniform(0, 2 * math.pi, 2))
    far = 0.75 * max(frame_size) + size
    stop = rng.uniform([-0.3, -0.3], [0.3, 0.45]) * side
    ways = np.array([[math.cos(come), math.sin(come)], [math.cos(leave), math.sin(leave)]]) * far
    centre = np.stack([(face[:, 0] + face[:, 2]) / 2, (face[:, 1] + face[:, 3]) / 2], 1)
    calm = np.median(centre, axis=0)
    # Cubed: fast far away, slow over the face.
    out = np.where(t[:, None] < 0.5, ways[0] * (np.abs(2 * t - 1) ** 3)[:, None], ways[1] * (np.abs(2 * t - 1) ** 3)[:, None])
    sway = 0.05 * side * np.stack([np.sin(9 * t), np.cos(7 * t)], 1)
    turn = float(rng.uniform(0, 6.3)) + float(rng.uniform(-1.2, 1.2)) * t
    return Occluder(picture, np.column_stack([calm + stop + out + sway, turn]), (t > 0) & (t < 1))
