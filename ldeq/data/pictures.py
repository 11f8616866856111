"""The one reader of pictures: the header first, then the pixels, and only whole pictures of a size that fits into memory."""

from __future__ import annotations

import io
import os
import re
import stat
import threading
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from ldeq.data.errors import ImageError
from ldeq.files import FileError, user_path

LARGEST_PICTURE = 110_000_000
"""Pixels. A picture takes three bytes a pixel, twice that while it is turned upright, and up to nine while a progressive JPEG
is decoded: below 1 GB in every case. The largest photos of phones, 12,000 x 9,000, are read."""

LARGEST_FILE = 1 << 29
"""Bytes of a picture's file."""

# Formats whose EXIF is read; that of a PNG may stand behind the pixels, and Pillow would decode them.
_TURNED = ("JPEG", "MPO", "TIFF", "WEBP")

# Rows whose channels are exchanged at a time: a copy of the whole picture would double the memory.
_BAND = 256

# Pixels from which on a copy is worth avoiding.
_LARGE = 1 << 24

# Pillow reads headers alone here, and its warning of large pictures is replaced by a sentence; the filters are global.
_HEADER_LOCK = threading.Lock()


@dataclass(frozen=True)
class PictureHeader:
    """What the first bytes of a picture say.

    Attributes:
        height, width: pixels as they are stored, not turned.
        format: Pillow's name, such as ``"JPEG"``.
        mode: Pillow's name of the pixels, such as ``"RGB"``, ``"L"``, ``"CMYK"``, ``"I;16"``.
        orientation: of EXIF, 1 to 8; 1 is upright, from 5 on height and width are exchanged.
    """

    height: int
    width: int
    format: str
    mode: str
    orientation: int = 1


def read_header(path: str | os.PathLike[str]) -> PictureHeader:
    """Size and kind of a picture, without its pixels.

    Raises:
        ImageError: where the file is missing, not a plain file, or not a picture.
    """
    source = _user_path(path)
    try:
        _plain_size(source)
        with source.open("rb") as file:
            return _header(source, file)
    except OSError as error:
        raise ImageError(source, _why(error)) from error


def read_image(path: str | os.PathLike[str], exif: bool = False) -> NDArray[np.uint8]:
    """Reads a whole picture.

    OpenCV returns a half-grey picture for a truncated JPEG without a word; this does not.

    Args:
        path: the file.
        exif: turn the picture upright as its EXIF orientation says. Right for people's photos, wrong for data sets,
            whose labels were made on the raw pixels.

    Returns:
        `(H, W, 3)` RGB uint8. Grey pictures get three equal channels, CMYK becomes RGB, of 16 bits the upper 8 are kept,
        transparency is dropped, and of an animation the first frame is read.

    Raises:
        ImageError: where the file is missing, empty, not a plain file, truncated, not a picture, or larger than
            `LARGEST_PICTURE`.
    """
    source = _user_path(path)
    try:
        if _plain_size(source) > LARGEST_FILE:
            raise ImageError(source, f"the file has more than {LARGEST_FILE} bytes")
        data = source.read_bytes()
    except OSError as error:
        raise ImageError(source, _why(error)) from error
    if not data:
        raise ImageError(source, "the file is empty")
    if truncated(data):
        raise ImageError(source, "the file is truncated, its end is missing: copy or download it again")
    header = _header(source, io.BytesIO(data))
    pixels = header.height * header.width
    if pixels > LARGEST_PICTURE:
        raise ImageError(
            source,
            f"it has {header.width} x {header.height} pixels, more than the {LARGEST_PICTURE // 1_000_000} million that are "
            "read: make it smaller",
        )
    image = _decode_in_place(source, data, header, exif)
    if image is None:
        image = _decode(source, data, exif)
    for top in range(0, image.shape[0], _BAND):
        band = image[top : top + _BAND]
        cv2.cvtColor(band, cv2.COLOR_BGR2RGB, dst=band)
    return image


def _decode(path: Path, data: bytes, exif: bool) -> NDArray[np.uint8]:
    flags = cv2.IMREAD_COLOR if exif else cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
    try:
        image = cv2.imdecode(np.frombuffer(data, dtype=np.uint8), flags)
    except cv2.error as error:
        raise ImageError(path, f"OpenCV cannot decode it ({error.err})") from error
    if image is None or image.size == 0:
        raise ImageError(path, "it is damaged, or not a picture that OpenCV can decode")
    return np.asarray(image, np.uint8)


def _decode_in_place(path: Path, data: bytes, header: PictureHeader, exif: bool) -> NDArray[np.uint8] | None:
    """A large picture without the second copy that `cv2.imdecode` makes when it hands its pixels to NumPy.

    `cv2.imread` into an array says nothing when it fails. So this is for the formats that are written row by row, and the
    last row is noise before: noise that is still there was not written. None leaves it to `_decode`.
    """
    in_rows = header.format == "JPEG" or (header.format == "PNG" and data[28] == 0)  # byte 28: whether it is interlaced
    if header.height * header.width < _LARGE or not in_rows or (exif and header.orientation != 1):
        return None
    image = np.empty((header.height, header.width, 3), np.uint8)
    noise = np.random.default_rng(0).integers(0, 256, image.shape[1:], np.uint8)
    image[-1] = noise
    try:
        read = cv2.imread(str(path), image, cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    except (cv2.error, TypeError):
        # OpenCV before 4.11 takes no array.
        return None
    return None if read is not image or np.array_equal(image[-1], noise) else image


def _user_path(path: str | os.PathLike[str]) -> Path:
    try:
        return user_path(path)
    except FileError as error:
        raise ImageError(path, str(error)) from None


def _plain_size(path: Path) -> int:
    """Bytes of a file; a pipe, which would wait for a writer, and a device, which never ends, are refused."""
    status = path.stat()
    if stat.S_ISDIR(status.st_mode):
        raise ImageError(path, "it is a folder")
    if not stat.S_ISREG(status.st_mode):
        raise ImageError(path, "it is not a plain file")
    return status.st_size


def _why(error: OSError) -> str:
    return "the file does not exist" if isinstance(error, FileNotFoundError) else error.strerror or str(error)


def _header(path: Path, file: IO[bytes]) -> PictureHeader:
    try:
        with _HEADER_LOCK, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(file) as image:
                kind, mode = image.format or "", image.mode
                orientation = image.getexif().get(0x0112, 1) if kind in _TURNED else 1
                width, height = image.size
    except Image.DecompressionBombError:
        raise ImageError(path, f"it has more than the {LARGEST_PICTURE // 1_000_000} million pixels that are read: make it "
                         "smaller") from None  # fmt: skip
    except UnidentifiedImageError:
        raise ImageError(path, _unknown(path)) from None
    # Decoders of damaged headers raise whatever they stumble over.
    except Exception as error:
        raise ImageError(path, f"its header is damaged ({error})") from error
    if width < 1 or height < 1:
        raise ImageError(path, f"it has {width} x {height} pixels")
    if mode.startswith("F"):
        raise ImageError(path, "its pixels are floating numbers: save it with 8 bits a channel")
    return PictureHeader(height, width, kind, mode, orientation if isinstance(orientation, int) else 1)


def _unknown(path: Path) -> str:
    try:
        with path.open("rb") as file:
            start = file.read(12)
    except OSError:
        start = b""
    if start[4:8] == b"ftyp" and start[8:12] in (b"heic", b"heix", b"mif1", b"msf1", b"hevc"):
        return "it is HEIC, which cannot be read: save it as JPEG or PNG"
    film = start[4:8] == b"ftyp" and start[8:12] not in (b"avif", b"avis")
    if film or start[:4] == b"\x1a\x45\xdf\xa3" or (start[:4] == b"RIFF" and start[8:12] == b"AVI "):
        return "it is a video: use ldeq video, or Landmarker.stream"
    return "it is not a picture in a known format"


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
