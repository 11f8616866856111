"""The one reader of text files: annotations, lists, tables and documents.

Text is UTF-8, with or without a byte order mark; lines end as on Unix, on Windows or on an old Mac. Anything else is an error
that names the file, the line and the byte. Sizes are limited, so that a file of another kind never fills the memory.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from ldeq.data.errors import DataError
from ldeq.errors import ArgumentError
from ldeq.files import user_path

LONGEST_LINE = 1 << 20
"""Bytes. A line of 98 points has about 2,000."""

LARGEST_LIST = 1 << 29
"""Bytes of a file that is read line by line. The list of WFLW has 16 million."""

LARGEST_DOCUMENT = 1 << 26
"""Bytes of a file that is held in memory as a whole: a document of this size takes up to 1 GB once it is parsed."""

_BOM = b"\xef\xbb\xbf"


def read_lines(path: str | os.PathLike[str], limit: int = LARGEST_LIST) -> Iterator[tuple[int, str]]:
    """The lines of a text file with their numbers from 1, without their ends; one line is in memory at a time.

    Args:
        path: the file.
        limit: most bytes that the file may have.

    Raises:
        FileError: for a path that cannot be one.
        DataError: where the file cannot be read, is larger than `limit`, has a line beyond `LONGEST_LINE`, holds a NUL
            byte, or is not UTF-8.
    """
    source = user_path(path)
    with _open(source, limit) as file:
        number, first = 0, True
        while True:
            try:
                line = file.readline(LONGEST_LINE + 1)
            except OSError as error:
                raise DataError(f"cannot read {source}: {error.strerror}.") from error
            if not line:
                return
            if first:
                first, line = False, _without_mark(source, line)
            if len(line) > LONGEST_LINE:
                raise DataError(
                    f"line {number + 1} of {source} has more than {LONGEST_LINE} bytes: this is not a list of faces."
                )
            # A lone carriage return ends a line, too.
            for part in line.removesuffix(b"\n").removesuffix(b"\r").split(b"\r"):
                number += 1
                yield number, _decode(source, number, part)


def read_text(path: str | os.PathLike[str], limit: int = LARGEST_DOCUMENT) -> str:
    """A text file as a whole, with its line ends as they are.

    Raises:
        DataError: as `read_lines`, apart from long lines.
    """
    source = user_path(path)
    with _open(source, limit) as file:
        try:
            data = file.read(limit + 1)
        except OSError as error:
            raise DataError(f"cannot read {source}: {error.strerror}.") from error
    data = _without_mark(source, data)
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        start = data.rfind(b"\n", 0, error.start) + 1
        raise _undecodable(source, data.count(b"\n", 0, start) + 1, error.start - start + 1, data[error.start]) from None
    if "\0" in text:
        raise _nul(source, text.count("\n", 0, text.index("\0")) + 1)
    return text


def decimals(words: Sequence[str]) -> NDArray[np.float64]:
    """Numbers as label files write them. Python itself would read ``1_0`` as ten, and take the digits of any script.

    Raises:
        ValueError: if a word is no such number; the caller says where it stands.
    """
    together = "".join(words)
    if "_" in together or not together.isascii():
        raise ArgumentError("numbers of labels are plain decimals, such as 12.5; write them without underscores and in ASCII")
    return np.array(words, dtype=np.float64)


def decimal(word: str) -> float:
    """One number of `decimals`."""
    return float(decimals([word])[0])


def _open(path: Path, limit: int) -> BinaryIO:
    try:
        # A pipe would wait for a writer, a device never ends: what is not a plain file is not opened.
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            raise DataError(f"{path} is a folder and a text file is needed here: name the file.")
        if not stat.S_ISREG(status.st_mode):
            raise DataError(f"{path} is not a plain file: copy its contents into one.")
        if status.st_size > limit:
            raise DataError(f"{path} has {status.st_size} bytes, more than the {limit} that are read: split it into several.")
        return path.open("rb")
    except OSError as error:
        raise DataError(f"cannot read {path}: {(error.strerror or str(error)).lower()}; check the path.") from error


def _without_mark(path: Path, data: bytes) -> bytes:
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise DataError(f"{path} is UTF-16: save it as UTF-8.")
    return data.removeprefix(_BOM)


def _decode(path: Path, number: int, line: bytes) -> str:
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError as error:
        raise _undecodable(path, number, error.start + 1, line[error.start]) from None
    if "\0" in text:
        raise _nul(path, number)
    return text


def _undecodable(path: Path, line: int, column: int, byte: int) -> DataError:
    return DataError(f"byte {column} of line {line} of {path} is 0x{byte:02x}, which is not UTF-8: save the file as UTF-8.")


def _nul(path: Path, line: int) -> DataError:
    return DataError(f"line {line} of {path} holds a NUL byte: this is not a text file, or it is damaged; copy it again.")
