"""Boxes with a face in them and boxes without, from which the score of a face is fitted and by which it is judged."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from ..data import Faces, Layout, shared_indices
from ..data.errors import DataError
from ..detection import Detector
from ..detection.haar import eager_faces
from ..errors import ArgumentError

Box = tuple[float, float, float, float]
Pixels = NDArray[np.uint8]
Points = NDArray[np.float32]

SIDE = 256
"""Of the pictures of patterns, in pixels."""

WIDEST = 512
"""Pictures are made this small at most; the crops of the models have fewer pixels still."""


FACES = ("face", "face made harder")
"""Kinds of samples whose box is around a face."""

ELSEWHERE = 0.1
"""Of the smaller of two boxes, that lies in the other: below this they show different things."""


class Sample(NamedTuple):
    """One box in a picture.

    - `kind`: what it shows, ``"face"`` for a face as it is.
    - `image`: `(H, W, 3)` RGB uint8.
    - `box`: x1, y1, x2, y2, as a detector or a user might give it.
    - `points`: `(K, 2)` labels of the face in or near the box, NaN for landmarks that are not labelled; None if there is no
      face that should be found.
    """

    kind: str
    image: Pixels
    box: Box
    points: Points | None


def tight(points: Points) -> Box:
    """The box of those landmarks `(K, 2)` that are labelled."""
    (x1, y1), (x2, y2) = np.nanmin(points, 0).tolist(), np.nanmax(points, 0).tolist()
    return x1, y1, x2, y2


def off(box: Box, rng: np.random.Generator, place: float = 0.06, size: float = 0.1) -> Box:
    """The box as a detector might give it: its middle off by `place` of its side (a deviation), its size by `size`."""
    x1, y1, x2, y2 = box
    w, h, side = x2 - x1, y2 - y1, max(x2 - x1, y2 - y1)
    cx, cy = (x1 + x2) / 2 + rng.normal(0, place) * side, (y1 + y2) / 2 + rng.normal(0, place) * side
    ratio = float(np.exp(rng.normal(0, size)))
    return cx - w * ratio / 2, cy - h * ratio / 2, cx + w * ratio / 2, cy + h * ratio / 2


def samples(sets: Sequence[Faces], layout: Layout, most: int, detector: Detector, rng: np.random.Generator) -> Iterator[Sample]:
    """Boxes with and without faces, from labelled pictures and from patterns.

    Args:
        sets: labelled faces; each set gives about as many.
        layout: of the labels that are handed out; a set of another one gives those that the two share.
        most: labelled faces that are used in all.
        detector: what it finds is taken for a face, so that nothing without a label passes for background.
        rng: of all that is drawn.

    Raises:
        ArgumentError: if a set shares no landmarks with the layout.
        DataError: if a set is empty.
    """
    for faces in sets:
        if (shared := shared_indices(faces.layout, layout)) is None:
            raise ArgumentError(
                f"{faces.name} has the landmarks {faces.layout.name!r} and the model finds {layout.name!r}; give faces with "
                "the landmarks of the model"
            )
        for number, index in enumerate(spread_over(faces, max(1, most // len(sets)))):
            image, labels = _moderate(faces.read(index), faces.record(index).points)
            points = np.full((layout.count, 2), np.nan, np.float32)
            points[list(shared[1])] = labels[list(shared[0])]
            known = [tight(points), *(_box(found) for found in detector(image))]
            yield from with_face(image, points, known, number, rng)
            yield from mistakes(image, known)
    for number in range(max(4, most // 10)):
        yield from patterns(number, rng)


def with_face(image: Pixels, points: Points, known: Sequence[Box], number: int, rng: np.random.Generator) -> Iterator[Sample]:
    """What one labelled face gives: itself, made harder, turned, cut, missed by its box, and what lies beside it."""
    box = tight(points)
    yield Sample("face", image, off(box, rng), points)
    yield Sample("face made harder", _spoilt(image, box, rng), off(box, rng), points)
    tilted, there = _tilted(image, points, rng)
    yield Sample("face made harder", tilted, off(tight(there), rng), there)
    if number % 3 == 0:
        yield Sample("turned face", *turned(image, box, int(rng.integers(1, 4))), None)
    elif number % 3 == 1:
        yield _cut(image, box, rng)
    else:
        yield _missed(image, points, rng)
    yield from _beside(image, known, rng)


def mistakes(image: Pixels, known: Sequence[Box]) -> Iterator[Sample]:
    """What an eager detector takes for a face, and lies elsewhere."""
    for found in eager_faces(image):
        if all(_shared(_box(found), box) < ELSEWHERE for box in known):
            yield Sample("detector's mistake", image, _box(found), None)


def patterns(number: int, rng: np.random.Generator) -> Iterator[Sample]:
    """Noise, grey and textures."""
    box: Box = (60.0, 60.0, 190.0, 190.0)
    place = np.arange(SIDE)
    yield Sample("noise", rng.integers(0, 255, (SIDE, SIDE, 3)).astype(np.uint8), off(box, rng), None)
    grey = rng.integers(0, 255) + rng.normal(0, rng.uniform(0, 5), (SIDE, SIDE, 3))
    yield Sample("grey", np.clip(grey, 0, 255).astype(np.uint8), off(box, rng), None)
    blurred = cv2.GaussianBlur(rng.normal(size=(SIDE, SIDE)), (0, 0), rng.uniform(1, 20))
    waves = np.sin(place[None] * rng.uniform(0.05, 1) + place[:, None] * rng.uniform(0, 0.5))
    cell = 4 + number % 28
    board = ((place[None] // cell + place[:, None] // cell) % 2).astype(float)
    slope = place[None] * rng.uniform() + place[:, None] * rng.uniform()
    for values in (blurred, waves, board, slope):
        texture = cv2.normalize(values, np.empty(0), 0, 255, cv2.NORM_MINMAX).astype(np.uint8)
        yield Sample("texture", np.repeat(texture[..., None], 3, 2), off(box, rng), None)


def turned(image: Pixels, box: Box, quarters: int) -> tuple[Pixels, Box]:
    """A picture and a box in it, turned by quarters."""
    x1, y1, x2, y2 = box
    for _ in range(quarters):
        width = image.shape[1]
        image = np.ascontiguousarray(np.rot90(image))
        x1, y1, x2, y2 = y1, width - 1 - x2, y2, width - 1 - x1
    return image, (x1, y1, x2, y2)


def _moderate(image: Pixels, points: Points) -> tuple[Pixels, Points]:
    """The picture and its landmarks, made smaller if the picture is large."""
    factor = min(1.0, WIDEST / max(image.shape[:2]))
    if factor == 1.0:
        return image, points
    size = max(1, round(image.shape[1] * factor)), max(1, round(image.shape[0] * factor))
    ratio = np.array([size[0] / image.shape[1], size[1] / image.shape[0]], np.float32)
    small = np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)
    return small, ((points + 0.5) * ratio - 0.5).astype(np.float32)


def _spoilt(image: Pixels, box: Box, rng: np.random.Generator) -> Pixels:
    """The picture small, blurred, noisy, dark or with something before the face."""
    x1, y1, x2, y2 = box
    side = max(x2 - x1, y2 - y1)
    way = rng.integers(4)
    if way == 0:
        factor = float(np.exp(rng.uniform(np.log(16), np.log(48)))) / side
        size = max(1, round(image.shape[1] * min(1, factor))), max(1, round(image.shape[0] * min(1, factor)))
        small = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
        return np.asarray(cv2.resize(small, image.shape[1::-1], interpolation=cv2.INTER_LINEAR), np.uint8)
    if way == 1:
        length = max(3, int(side * rng.uniform(0.03, 0.15))) | 1
        kernel = np.zeros((length, length))
        kernel[length // 2] = 1 / length
        spin = cv2.getRotationMatrix2D((length // 2, length // 2), float(rng.uniform(0, 180)), 1.0)
        kernel = np.asarray(cv2.warpAffine(kernel, spin, (length, length)), np.float64)
        return np.asarray(cv2.filter2D(image, -1, kernel / max(kernel.sum(), 1e-6)), np.uint8)
    if way == 2:
        dark = 255 * (image / 255) ** rng.uniform(1.5, 4) * rng.uniform(0.3, 1) + rng.normal(0, rng.uniform(2, 25), image.shape)
        return np.clip(dark, 0, 255).astype(np.uint8)
    covered = image.copy()
    width, height = rng.uniform(0.25, 0.7, 2) * side
    left, top = rng.uniform(x1 - width / 2, x2 - width / 2), rng.uniform(y1 - height / 2, y2 - height / 2)
    rows, columns = slice(max(0, int(top)), max(0, int(top + height))), slice(max(0, int(left)), max(0, int(left + width)))
    covered[rows, columns] = rng.integers(0, 255, 3)
    return covered


def _tilted(image: Pixels, points: Points, rng: np.random.Generator) -> tuple[Pixels, Points]:
    """The picture turned by up to 50 degrees about the face, and squeezed."""
    x1, y1, x2, y2 = tight(points)
    centre = (x1 + x2) / 2, (y1 + y2) / 2
    matrix = cv2.getRotationMatrix2D(centre, float(rng.uniform(-50, 50)), 1.0)
    squeeze = np.array([[rng.uniform(0.7, 1.0), 0], [0, 1.0]])
    matrix = np.concatenate((squeeze @ matrix[:, :2], squeeze @ matrix[:, 2:]), 1)
    moved = cv2.warpAffine(image, matrix, image.shape[1::-1], borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(moved, np.uint8), (points @ matrix[:, :2].T + matrix[:, 2]).astype(np.float32)


def _cut(image: Pixels, box: Box, rng: np.random.Generator) -> Sample:
    """A picture that ends in the face, a third of which is left."""
    x1, y1, x2, y2 = box
    share = rng.uniform(0.15, 0.35)
    side = int(rng.integers(4))
    height, width = image.shape[:2]
    left, top, right, bottom = 0, 0, width, height
    if side == 0:
        right = int(x1 + share * (x2 - x1))
    elif side == 1:
        left = int(x2 - share * (x2 - x1))
    elif side == 2:
        bottom = int(y1 + share * (y2 - y1))
    else:
        top = int(y2 - share * (y2 - y1))
    left, top = min(max(left, 0), width - 1), min(max(top, 0), height - 1)
    part = np.ascontiguousarray(image[top : max(bottom, top + 1), left : max(right, left + 1)])
    return Sample("cut face", part, off((x1 - left, y1 - top, x2 - left, y2 - top), rng), None)


def _missed(image: Pixels, points: Points, rng: np.random.Generator) -> Sample:
    """A box that holds a part of the face alone; a model that looks around itself may find all of it."""
    x1, y1, x2, y2 = tight(points)
    side = max(x2 - x1, y2 - y1)
    small = side * rng.uniform(0.2, 0.45)
    x, y = rng.uniform(x1, x2 - small), rng.uniform(y1, max(y1 + 1, y2 - small))
    return Sample("part of a face", image, (x, y, x + small, y + small), points)


def _beside(image: Pixels, known: Sequence[Box], rng: np.random.Generator) -> Iterator[Sample]:
    """A box in the picture that lies beside every face."""
    height, width = image.shape[:2]
    for _ in range(20):
        side = float(np.exp(rng.uniform(np.log(24), np.log(max(25.0, min(height, width) / 2)))))
        x, y = rng.uniform(0, max(1.0, width - side)), rng.uniform(0, max(1.0, height - side))
        if all(_shared((x, y, x + side, y + side), box) < ELSEWHERE for box in known):
            yield Sample("background", image, (x, y, x + side, y + side), None)
            return


def _box(values: NDArray[np.float64]) -> Box:
    x1, y1, x2, y2 = (float(v) for v in values)
    return x1, y1, x2, y2


def _shared(a: Box, b: Box) -> float:
    """Share of the smaller box that lies in the other."""
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    smaller = min((a[2] - a[0]) * (a[3] - a[1]), (b[2] - b[0]) * (b[3] - b[1]))
    return max(0.0, width) * max(0.0, height) / max(smaller, 1e-6)


def spread_over(faces: Faces, most: int) -> list[int]:
    """Numbers of at most so many faces, spread over the set.

    Raises:
        DataError: if the set is empty.
    """
    if not len(faces):
        raise DataError(f"{faces.name} holds no face to calibrate with.")
    return sorted({int(i) for i in np.linspace(0, len(faces) - 1, min(most, len(faces)))})
