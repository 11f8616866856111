"""Pictures that say who made them, so that a command replaces its own and no others."""

from __future__ import annotations

import os
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from ..data import write_image
from ..files import write_atomically

_START = b"\x89PNG\r\n\x1a\n"

# A PNG begins with its 8 bytes and the header chunk, which always has 25.
_HEAD = len(_START) + 25


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


_SIGNATURE = _chunk(b"tEXt", b"Software\0ldeq")


def write_picture(path: str | os.PathLike[str], image: NDArray[np.uint8]) -> None:
    """Writes an `(H, W, 3)` RGB picture; a PNG file names ldeq as its maker.

    Raises:
        DataError: if the suffix names no picture.
        FileError: if the file cannot be written.
    """
    if Path(path).suffix.lower() != ".png":
        write_image(path, image)
        return
    png = cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))[1].tobytes()
    write_atomically(path, png[:_HEAD] + _SIGNATURE + png[_HEAD:])


def is_signed_png(path: Path) -> bool:
    """Whether `write_picture` wrote a file, as PNG."""
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD + len(_SIGNATURE))
    except OSError:
        return False
    return head.startswith(_START) and head.endswith(_SIGNATURE)
