"""What every data set hands out: a face with its labels, and a set of faces."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol, runtime_checkable

import cv2
import numpy as np

from ldeq.brief import brief_repr
from ldeq.data.crop import Rect
from ldeq.data.errors import DataError
from ldeq.data.layouts import Layout
from ldeq.data.pictures import read_image
from ldeq.files import FileError, user_path, write_atomically

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")


@dataclass(frozen=True, eq=False)
class FaceRecord:
    """One labelled face.

    Attributes:
        image: the picture's file, or None where the picture is generated.
        points: `(K, 2)` float32 landmarks in pixels of the picture, index based; they may lie outside it.
        rect: the data set's own rectangle (x1, y1, x2, y2) in pixels, or None.
        attributes: the data set's marks, such as ``{"blur": True}``.
        precropped: whether the picture is the crop already.
    """

    image: Path | None
    points: np.ndarray
    rect: Rect | None = None
    attributes: Mapping[str, bool] = field(default_factory=dict)
    precropped: bool = False

    __repr__ = brief_repr


@runtime_checkable
class Faces(Protocol):
    """A set of labelled faces: what `LandmarkDataset` and `check` need, whether files or generated."""

    @property
    def name(self) -> str:
        """What to print beside a score."""

    @property
    def layout(self) -> Layout:
        """The landmarks that every face carries."""

    def __len__(self) -> int:
        """Number of faces."""

    def read(self, index: int) -> np.ndarray:
        """The picture of face `index`: `(H, W, 3)` RGB uint8; raises `ImageError`."""

    def record(self, index: int) -> FaceRecord:
        """The labels of face `index`."""


@dataclass(frozen=True, eq=False)
class FaceSet:
    """Labelled faces in files.

    Attributes:
        name: data set and split, for the protocol line beside a score.
        layout: the landmarks.
        records: one entry a face.
        skipped: (path, reason) of what the folder held and could not be used.
        notes: sentences about what was not there, such as an absent folder.
        axis: how far the labels lie to the right of the pictures' mirror axis, as a fraction of the longer side of the
            landmarks' tight box. A mirrored sample keeps its labels on the same side (see `ldeq.data.axis`).
    """

    name: str
    layout: Layout
    records: Sequence[FaceRecord]
    skipped: list[tuple[str, str]] = field(default_factory=list)
    notes: tuple[str, ...] = ()
    axis: float = 0.0

    __repr__ = brief_repr

    def __len__(self) -> int:
        return len(self.records)

    def record(self, index: int) -> FaceRecord:
        """The labels of face `index`."""
        return self.records[index]

    def read(self, index: int) -> np.ndarray:
        """The picture of face `index`, `(H, W, 3)` RGB uint8, in the orientation of its raw pixels.

        Raises:
            ImageError: where the file is missing, incomplete or not a picture.
        """
        path = self.records[index].image
        if path is None:
            raise DataError(f"face {index} of {self.name} has no picture file.")
        return read_image(path)

    def select(self, indices: Sequence[int], name: str | None = None) -> FaceSet:
        """A set of some of the faces, under the same or another name."""
        return replace(self, name=name or self.name, records=[self.records[i] for i in indices])


def none_left(skipped: Sequence[tuple[str, str]]) -> str:
    """Why no face of a source is left, in the words of the first that was left out."""
    path, reason = skipped[0]
    return f"none of the {len(skipped)} found can be used, and of the first, {path}, the reason is: {reason}"


def write_image(path: str | os.PathLike[str], image: np.ndarray) -> None:
    """Write an `(H, W, 3)` RGB uint8 picture; the suffix of the path chooses the format, missing folders are made.

    Raises:
        DataError: where the file cannot be written or the format is unknown.
    """
    target = user_path(path)
    try:
        done, data = cv2.imencode(target.suffix or ".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    except cv2.error as error:
        raise DataError(f"cannot write {target}: choose a name that ends in .png or .jpg.") from error
    if not done:
        raise DataError(f"cannot write {target}: OpenCV could not encode the picture.")
    try:
        write_atomically(target, data.tobytes())
    except FileError as error:
        raise DataError(str(error)) from error
