"""Turned photos as a data set: several variations of each photo."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from ldeq.data.clips.deformation import Expression, FaceDeformation
from ldeq.data.clips.rendering import FaceRenderer
from ldeq.data.crop import transform_points
from ldeq.data.errors import DataError
from ldeq.data.labels import sound
from ldeq.data.layouts import Layout
from ldeq.data.records import FaceRecord, FaceSet
from ldeq.data.synthetic.geometry import rotation_matrix
from ldeq.data.synthetic.parameters import Pose
from ldeq.data.turned.fitting import FittedHead, fit_pose, yaw_of
from ldeq.data.turned.turning import TurnedFace

from ...errors import ArgumentError

Array = NDArray[np.float64]
Image = NDArray[np.uint8]

SIZE = 288
"""Side of the pictures in pixels; the face's longer side is half of it."""

# Longer side of the face in the photo that is turned, in pixels: as in the picture that is made.
_FACE = 144.0

# Side of the photo about the face from which it is turned, in pixels.
_FRAME = 2 * SIZE * 7 // 12

# What an expression may show of the frame beyond its edge, in pixels.
_MARGIN = 16

# Most copies of a photo; more take memory and days, and are a mistyped number.
MOST_COPIES = 1000

# Degrees up to which a photo is seen from the front, so that it may be turned to either side.
_FRONT = 12.0


@dataclass(frozen=True)
class Variation:
    """How one copy of a photo differs from it; angles in degrees.

    Attributes:
        yaw: the new one, above 0 to the right of the picture; None leaves the head as it is.
        pitch: how far it is lowered.
        closure, wink: of the eyes, as in `Expression`.
        jaw: 0 for the mouth as it is to 1 for one as wide open as it goes.
        rounding, brows: as in `Expression`.
    """

    yaw: float | None
    pitch: float
    closure: float
    wink: float
    jaw: float
    rounding: float
    brows: float


class TurnedFaces:
    """Photos of a set turned to the side, some with closed eyes or an open mouth.

    Args:
        faces: the photos; in the layout of 300-W or WFLW. Those that no head fits are left out.
        copies: variations of each photo, at least 1.
        seed: of the variations.

    Raises:
        ValueError: for a bad argument.
        DataError: where no photo can be turned.
    """

    def __init__(self, faces: FaceSet, copies: int, seed: int = 0) -> None:
        if not 1 <= copies <= MOST_COPIES:
            raise ArgumentError(f"copies of a turned photo must be from 1 to {MOST_COPIES}, not {copies}.")
        self.faces, self.copies, self.seed, self.axis, self.size = faces, copies, seed, faces.axis, SIZE
        self.usable = [i for i in range(len(faces)) if _fits(faces.record(i).points, faces.layout)]
        if not self.usable:
            raise DataError(f"none of the faces of {faces.name} can be turned.")

    @property
    def name(self) -> str:
        """What to print beside a score."""
        return f"{self.faces.name}, turned"

    @property
    def layout(self) -> Layout:
        """The landmarks that every face carries."""
        return self.faces.layout

    def __len__(self) -> int:
        return len(self.usable) * self.copies

    def source(self, index: int) -> int:
        """The photo that face `index` is made from."""
        return self.usable[index // self.copies]

    def variation(self, index: int) -> Variation:
        """How face `index` differs from its photo."""
        source = self.source(index)
        rng = np.random.default_rng([self.seed, source, index % self.copies])
        _, rotation, _, _ = fit_pose(self.faces.record(source).points, self.layout)
        return draw_variation(rng, yaw_of(rotation))

    def record(self, index: int) -> FaceRecord:
        """The labels of face `index`."""
        return FaceRecord(image=None, points=_turned(self, index)[0].points.astype(np.float32))

    def read(self, index: int) -> Image:
        """The picture of face `index`: `(SIZE, SIZE, 3)` RGB uint8.

        Raises:
            ImageError: where the photo cannot be read.
        """
        turned, camera, moved = _turned(self, index)
        photo = self.faces.read(self.source(index))
        return turned.draw(_frame(photo, camera, moved))


def draw_variation(rng: np.random.Generator, yaw: float) -> Variation:
    """A variation of a photo whose head has a yaw, in degrees."""
    # What the photo hides stays hidden: a head that is turned already is turned farther, and only a frontal one to either side.
    side = float(rng.choice([-1.0, 1.0])) if abs(yaw) < _FRONT else float(np.sign(yaw))
    turns = rng.random() < 0.75
    target = side * max(abs(yaw), float(rng.uniform(20, 90)))
    pitch = float(np.clip(rng.normal(0, 10 if turns else 14), -30, 30))
    shut = rng.random()
    closure = float(rng.uniform(0.85, 1.0)) if shut < 0.35 else float(rng.uniform(0.0, 0.85)) if shut < 0.55 else 0.0
    wink = float(rng.choice([-1.0, 1.0])) if closure and rng.random() < 0.2 else 0.0
    jaw = float(rng.uniform(0.1, 1.0)) if rng.random() < 0.4 else 0.0
    return Variation(
        yaw=target if turns else None,
        pitch=pitch,
        closure=closure,
        wink=wink,
        jaw=jaw,
        rounding=float(rng.uniform(-1, 1)) if jaw or rng.random() < 0.2 else 0.0,
        brows=float(rng.uniform(-1, 1)) if rng.random() < 0.4 else 0.0,
    )


@lru_cache(maxsize=8)
def _turned(faces: TurnedFaces, index: int) -> tuple[TurnedFace, Array, tuple[FaceDeformation, Expression] | None]:
    """The head of face `index`, the map from its photo to the frame that is turned, and the expression drawn before that."""
    variation = faces.variation(index)
    points = np.asarray(faces.faces.record(faces.source(index)).points, np.float64)
    middle, side = (points.min(0) + points.max(0)) / 2, float(np.ptp(points, axis=0).max())
    zoom = _FACE / side
    camera = np.column_stack([zoom * np.eye(2), (_FRAME - 1) / 2 - zoom * middle])
    points = transform_points(camera, points)
    moved = None
    try:
        face = FaceDeformation(points, faces.layout)
    except ValueError:
        pass  # Seen from the side: its expression stays.
    else:
        expression = Expression(
            jaw=variation.jaw * face.lips.widest, rounding=variation.rounding, closure=variation.closure,
            brows=variation.brows, wink=variation.wink,
        )  # fmt: skip
        if expression != Expression():
            moved, points = (face, expression), np.asarray(face.landmarks(expression), np.float64)
    fitted = FittedHead(points, faces.layout)
    return TurnedFace(fitted, _rotation(fitted, variation), SIZE), camera, moved


def _rotation(fitted: FittedHead, variation: Variation) -> Array:
    """The head's new rotation: turned about its own vertical axis, then lowered, leaning as it did."""
    lean = math.degrees(math.atan2(fitted.rotation[1, 0], fitted.rotation[0, 0])) if abs(fitted.yaw) < 60 else 0.0
    turn = 0.0 if variation.yaw is None else variation.yaw - fitted.yaw
    upright = rotation_matrix(Pose(0.0, 0.0, -lean, 1.0, 1.0, (0.0, 0.0))) @ fitted.rotation
    # In the picture of a level head, a turn about the picture's own vertical and then about its horizontal.
    about = rotation_matrix(Pose(turn, variation.pitch, 0.0, 1.0, 1.0, (0.0, 0.0)))
    return np.asarray(rotation_matrix(Pose(0.0, 0.0, lean, 1.0, 1.0, (0.0, 0.0))) @ about @ upright)


def _frame(photo: Image, camera: Array, moved: tuple[FaceDeformation, Expression] | None) -> Image:
    """The photo at the size at which it is turned, its expression changed."""
    flags = cv2.INTER_AREA if camera[0, 0] < 1 else cv2.INTER_LINEAR
    frame = np.asarray(
        cv2.warpAffine(photo, camera, (_FRAME, _FRAME), flags=flags, borderMode=cv2.BORDER_REFLECT_101), np.uint8
    )
    if moved is None:
        return frame
    face, expression = moved
    return FaceRenderer(frame, face, (_FRAME, _FRAME), _MARGIN).draw(np.eye(2, 3), expression)


def _fits(points: NDArray[np.float32], layout: Layout) -> bool:
    if not sound(points, layout):
        return False
    try:
        fit_pose(np.asarray(points, np.float64), layout)
    except ValueError:
        return False
    return True
