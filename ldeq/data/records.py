"""What every data set hands out: a face with its labels, a set of faces, and a picture that is certain to be whole."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, runtime_checkable

import cv2
import numpy as np

from ldeq.data.crop import Rect
from ldeq.data.layouts import Layout
from ldeq.errors import LdeqError
from ldeq.files import FileError, user_path, write_atomically

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")


class DataError(LdeqError, ValueError):
    """A data set, an annotation or a specification that cannot be used; the message says what to do."""


class ImageError(DataError):
    """A picture that is missing, incomplete or not a picture.

    Attributes:
        path: the file.
        reason: why, in a few words.
    """

    def __init__(self, path: str | os.PathLike[str], reason: str) -> None:
        super().__init__(f"cannot read the picture {os.fspath(path)}: {reason}.")
        self.path = Path(path)
        self.reason = reason

    def __reduce__(self) -> tuple[type[ImageError], tuple[Path, str]]:
        # The default would rebuild it from the message alone, which fails on the way back from a data-loader worker.
        return type(self), (self.path, self.reason)


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
    """

    name: str
    layout: Layout
    records: Sequence[FaceRecord]
    skipped: list[tuple[str, str]] = field(default_factory=list)
    notes: tuple[str, ...] = ()

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
        return FaceSet(name or self.name, self.layout, [self.records[i] for i in indices], self.skipped, self.notes)


def read_image(path: str | os.PathLike[str], exif: bool = False) -> np.ndarray:
    """Read a whole picture.

    OpenCV returns a half-grey picture for a truncated JPEG without a word; this does not.

    Args:
        path: the file.
        exif: turn the picture upright as its EXIF orientation says. Right for people's photos, wrong for data sets,
            whose labels were made on the raw pixels.

    Returns:
        `(H, W, 3)` RGB uint8. Grey pictures get three equal channels; transparency is dropped.

    Raises:
        ImageError: where the file is missing, empty, truncated or not a picture.
    """
    try:
        data = Path(path).read_bytes()
    except FileNotFoundError:
        raise ImageError(path, "the file does not exist") from None
    except IsADirectoryError:
        raise ImageError(path, "it is a folder") from None
    except OSError as error:
        raise ImageError(path, error.strerror or str(error)) from error
    if not data:
        raise ImageError(path, "the file is empty")
    if truncated(data):
        raise ImageError(path, "the file is truncated, its end is missing: copy or download it again")
    flags = cv2.IMREAD_COLOR if exif else cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
    try:
        image = cv2.imdecode(np.frombuffer(data, dtype=np.uint8), flags)
    except cv2.error as error:
        raise ImageError(path, f"OpenCV cannot decode it ({error.err})") from error
    if image is None or image.size == 0:
        raise ImageError(path, "it is not a picture that OpenCV can decode")
    return np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB))


# In JPEG data, 0xFF starts a marker unless a zero, a restart marker or another 0xFF follows.
_JPEG_MARKER = re.compile(rb"\xff([^\x00\xd0-\xd7\xff])", re.DOTALL)
_JPEG_END, _JPEG_NO_LENGTH = 0xD9, {0xD8, 0x01}


def truncated(data: bytes) -> bool:
    """Whether the bytes of a JPEG, PNG or WebP file stop before the picture does; False for any other format."""
    if data.startswith(b"\xff\xd8"):
        return _jpeg_truncated(data)
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return _png_truncated(data)
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return len(data) < 8 + int.from_bytes(data[4:8], "little")
    return False


def _jpeg_truncated(data: bytes) -> bool:
    # Segments are stepped over by their length: an end marker inside an embedded thumbnail is not the picture's end.
    position = 2
    while match := _JPEG_MARKER.search(data, position):
        marker = match.group(1)[0]
        if marker == _JPEG_END:
            return False
        position = match.end()
        if marker not in _JPEG_NO_LENGTH:
            position += int.from_bytes(data[position : position + 2], "big")
    return True


def _png_truncated(data: bytes) -> bool:
    position = 8
    while position + 12 <= len(data):
        length, kind = int.from_bytes(data[position : position + 4], "big"), data[position + 4 : position + 8]
        position += 12 + length
        if kind == b"IEND":
            return position > len(data)
    return True


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
