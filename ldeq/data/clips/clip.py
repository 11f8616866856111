"""A clip from a labelled photo and a seed: frames one after another, landmarks and boxes for all of them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from ldeq.data.clips.deformation import Array, Expression, FaceDeformation, RigidFace
from ldeq.data.clips.motion import DIFFICULTIES, Motion, draw_motion
from ldeq.data.clips.rendering import FaceRenderer, Image, Occluder, draw_occluder, motion_blur
from ldeq.data.errors import FaceError
from ldeq.data.labels import label_fault
from ldeq.data.layouts import Layout
from ldeq.data.records import Faces

from ...errors import ArgumentError

FRAME_SIZES: tuple[tuple[int, int], ...] = ((320, 320), (288, 352), (320, 288))
"""(height, width) of the frames; even, as H.264 with halved colour wants them."""

TEXTURES = 12
"""Photos of a set from which the things in front of faces are cut."""


@dataclass(frozen=True)
class ClipSettings:
    """What was drawn for a clip beside its motion; lengths in pixels of the frame."""

    frames: int
    fps: int
    height: int
    width: int
    face: float
    speech: float
    rest: float
    noise: float
    exposure: float
    defocus: float
    occluders: int


class Clip:
    """One clip with its ground truth.

    Args:
        photo: `(H, W, 3)` RGB uint8.
        points: `(K, 2)` its landmarks in pixels.
        layout: what they mean.
        difficulty: a name in `DIFFICULTIES`.
        seed: what `numpy.random.default_rng` takes; the same seed gives the same frames, bit by bit.
        textures: photos from which the things in front of the face are cut.
        frames: number of frames; drawn from 110 to 150 where None.
        window: (first, count): only these frames of the clip are made. The noise is then another, and so is where things pass
            before a face that moves, which is aimed at the face of the window.
        noise: of the sensor; without it, everything else is the same.
        rigid: take a face that cannot be moved believably, as one that is seen from the side, and move the camera alone.

    Attributes:
        settings: what was drawn.
        landmarks: `(T, K, 2)` float32, pixels of the frames, exact; T is the window's count where there is one.
        boxes: `(T, 4)` float32, x1 y1 x2 y2, tight around the landmarks.

    Raises:
        ValueError: where the face cannot be moved believably, unless `rigid` allows it.
    """

    def __init__(
        self,
        photo: Image,
        points: NDArray[np.float32],
        layout: Layout,
        difficulty: str,
        seed: int | list[int],
        textures: list[Image] | None = None,
        frames: int | None = None,
        window: tuple[int, int] | None = None,
        noise: bool = True,
        rigid: bool = False,
    ) -> None:
        d = DIFFICULTIES[difficulty]
        rng = np.random.default_rng(seed)
        face = _face(points, layout, rigid)
        height, width = FRAME_SIZES[int(rng.integers(len(FRAME_SIZES)))]
        drawn = int(rng.integers(110, 151))
        self.settings = ClipSettings(
            frames=drawn if frames is None else frames,
            fps=int(rng.choice([25, 30])),
            height=height,
            width=width,
            face=float(rng.uniform(0.46, 0.58)) * min(height, width),
            speech=float(rng.uniform(*d.speech)),
            rest=float(rng.uniform(0.0, 0.6)),
            noise=float(rng.uniform(*d.noise)) * noise,
            exposure=float(rng.uniform(*d.exposure)),
            defocus=float(rng.uniform(*d.defocus)),
            occluders=int(rng.integers(d.occluders[0], d.occluders[1] + 1)) if textures else 0,
        )
        self.face = face
        self._renderer = FaceRenderer(photo, face, (height, width))
        self._noise_seed = int(rng.integers(2**62))
        s = self.settings
        first, self._count = (0, s.frames) if window is None else window
        if not (first >= 0 and 1 <= self._count <= s.frames - first):
            raise ArgumentError(f"window must lie within the {s.frames} frames, got first {first} and count {self._count}")
        self._motion: Motion = draw_motion(rng, s.frames, s.fps, d).part(first, first + self._count)
        self._cameras = [self._camera(t) for t in range(self._count)]
        self._expressions = [self._expression(t) for t in range(self._count)]
        exact = np.stack([self._renderer.landmarks(c, e) for c, e in zip(self._cameras, self._expressions, strict=True)])
        self.landmarks = exact.astype(np.float32)
        self.boxes = np.concatenate([self.landmarks.min(1), self.landmarks.max(1)], 1)
        boxes = self.boxes.astype(np.float64)
        self._occluders: list[Occluder] = []
        for _ in range(s.occluders if textures else 0):
            texture = (textures or [])[int(rng.integers(len(textures or [])))]
            self._occluders.append(draw_occluder(rng, texture, boxes, (height, width), s.frames, first))
        # Way of the face from frame to frame, for the smear of a moving camera.
        self._ways = np.gradient(exact.mean(1), axis=0) if self._count > 1 else np.zeros((1, 2))

    def describe(self) -> dict[str, Any]:
        """The settings as plain values, for JSON."""
        return {k: round(v, 4) if isinstance(v, float) else v for k, v in self.settings.__dict__.items()}

    def __len__(self) -> int:
        return self._count

    def _camera(self, t: int) -> Array:
        s, m, face = self.settings, self._motion, self.face
        scale = s.face / face.side * float(m.zoom[t])
        a, b = scale * math.cos(m.roll[t]), scale * math.sin(m.roll[t])
        turn = np.array([[a, -b], [b, a]])
        # The face's box, brows to chin, about the middle of the frame.
        middle = (face.points.min(0) + face.points.max(0)) / 2
        target = np.array([(s.width - 1) / 2, (s.height - 1) / 2]) + m.shift[t] * s.face
        return np.column_stack([turn, target - turn @ middle])

    def _expression(self, t: int) -> Expression:
        if isinstance(self.face, RigidFace):
            return Expression()
        s, m, lips = self.settings, self._motion, self.face.lips
        # Between syllables the lips come nearer than in the photo, where they are apart there.
        rest = s.rest * lips.narrowest
        widest = min(s.speech * self.face.side, lips.widest)
        return Expression(
            yaw=float(m.yaw[t]),
            pitch=float(m.pitch[t]),
            jaw=rest + float(m.jaw[t]) * (widest - rest),
            rounding=float(m.rounding[t]),
            closure=float(m.closure[t]),
            brows=float(m.brows[t]),
        )

    def frames(self) -> Iterator[Image]:
        """The frames in order, `(H, W, 3)` RGB uint8 each."""
        rng = np.random.default_rng(self._noise_seed)
        for t in range(len(self)):
            frame = self._renderer.draw(self._cameras[t], self._expressions[t])
            for occluder in self._occluders:
                occluder.draw(frame, t)
            yield self._expose(frame, t, rng)

    def _expose(self, frame: Image, t: int, rng: np.random.Generator) -> Image:
        """What light, lens and sensor make of a frame."""
        s, m = self.settings, self._motion
        frame = motion_blur(frame, self._ways[t] * s.exposure)
        defocus = s.defocus * float(m.blur[t])
        if defocus > 0.3:
            frame = np.asarray(cv2.GaussianBlur(frame, (0, 0), defocus), np.uint8)
        height, width = frame.shape[:2]
        across, down = (np.linspace(-1, 1, n, dtype=np.float32) for n in (width, height))
        light = 1 + float(m.shading[t, 0]) * across[None] + float(m.shading[t, 1]) * down[:, None]
        light *= np.float32(2.0 ** float(m.gain[t]))
        lit = cv2.multiply(frame, cv2.merge([light] * 3), dtype=cv2.CV_32F)
        # Most of the noise is common to the channels, as after a camera's own processing; brighter is noisier (shot noise).
        sigma = s.noise * np.sqrt(0.3 + (0.7 / 128) * np.minimum(lit[..., 1], 255))
        grey = rng.standard_normal((height, width), dtype=np.float32)
        colour = rng.standard_normal((height // 2, width // 2, 3), dtype=np.float32)
        spread = cv2.resize(colour, (width, height), interpolation=cv2.INTER_LINEAR)
        cv2.accumulateProduct(spread, cv2.merge([0.6 * sigma] * 3), lit)
        cv2.accumulate(cv2.merge([0.85 * sigma * grey] * 3), lit)
        return np.asarray(cv2.convertScaleAbs(np.maximum(lit, 0)), np.uint8)


def _face(points: NDArray[np.float32], layout: Layout, rigid: bool) -> FaceDeformation | RigidFace:
    exact = np.asarray(points, np.float64)
    try:
        return FaceDeformation(exact, layout)
    except ValueError:
        if not rigid:
            raise
        return RigidFace(exact, layout)


def usable(
    points: NDArray[np.float32], layout: Layout, size: tuple[int, int], margin: float = 0.1, rigid: bool = False
) -> str | None:
    """Why a photo of (height, width) makes no clip, or None where it does.

    The whole face must be in the picture, with `margin` of its side about it, and not be seen from the side unless `rigid`
    allows it.
    """
    fault = label_fault(points, layout, size=size)
    if fault is not None:
        return fault
    low, high = points.min(0), points.max(0)
    room = margin * float((high - low).max())
    if (low < room).any() or (high > np.array(size[::-1]) - 1 - room).any():
        return "the face touches the edge of the picture"
    try:
        _face(points, layout, rigid)
    except ValueError as error:
        return str(error).rstrip(".")
    return None


def movable(faces: Faces, index: int, rigid: bool = False) -> bool:
    """Whether photo `index` of a set can be read and is `usable`."""
    try:
        # Pictures that are made, and not read, take longer than all else here.
        size = getattr(faces, "size", None)
        shape = (size, size) if isinstance(size, int) else faces.read(index).shape[:2]
        return usable(faces.record(index).points, faces.layout, shape, rigid=rigid) is None
    except FaceError:
        return False
