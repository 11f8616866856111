"""Pictures as users name them: files, folders, patterns, addresses, and ``-`` for the standard input."""

from __future__ import annotations

import glob
import http.client
import os
import re
import sys
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from ..data import ImageError, read_image
from ..engine.settings import SettingsError
from ..files import user_path

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")
"""Of the pictures that are taken from a folder."""

LARGEST_DOWNLOAD = 64 * 2**20
"""Bytes of a picture from an address or from the standard input; the largest photos of phones have 30 million."""

TIMEOUT = 20.0
"""Seconds that a server may be silent."""

LONGEST_DOWNLOAD = 120.0
"""Seconds that one picture may take."""

STDIN = "-"

_ADDRESS = re.compile(r"[a-z][a-z0-9+.-]*://", re.IGNORECASE)


@dataclass(frozen=True)
class Picture:
    """One picture to read.

    Attributes:
        name: as the user wrote it, or the path that a folder or a pattern led to.
        path: its file; None if it comes from an address or from the standard input.
        stem: from which the names of its outputs are made.
    """

    name: str
    path: Path | None
    stem: str

    def read(self) -> NDArray[np.uint8]:
        """The picture, upright: `(H, W, 3)` RGB uint8.

        Raises:
            ImageError: if it cannot be read.
        """
        if self.path is not None:
            return read_image(self.path, exif=True)
        data = _from_stdin() if self.name == STDIN else _download(self.name)
        with tempfile.TemporaryDirectory() as folder:
            copy = Path(folder) / "picture"
            copy.write_bytes(data)
            try:
                return read_image(copy, exif=True)
            except ImageError as error:
                raise ImageError(self._told, error.reason) from error

    @property
    def _told(self) -> str:
        return "from the standard input" if self.name == STDIN else self.name


def find_pictures(names: Sequence[str]) -> list[Picture]:
    """The pictures that the arguments of a command name, in their order; those of a folder or a pattern sorted.

    Args:
        names: files, folders, patterns such as ``photos/*.jpg``, http and https addresses, or ``-``.

    Raises:
        SettingsError: for no name at all, a folder without pictures, a pattern without files, an address of another kind, and a
            second ``-``.
    """
    if not names:
        raise SettingsError("no picture was named; give at least one, for example face.jpg or photos/")
    if names.count(STDIN) > 1:
        raise SettingsError("the standard input holds one picture; give - once")
    return [picture for name in names for picture in _found(name)]


def output_names(pictures: Sequence[Picture], suffix: str) -> list[str]:
    """A file name for each picture. Pictures that share a name are told apart by a number: face.png, face-2.png."""
    names: list[str] = []
    taken: set[str] = set()
    given = {picture.stem.casefold() for picture in pictures}
    for picture in pictures:
        stem, number = picture.stem, 1
        # A number must not make the name of another picture, either.
        while stem.casefold() in taken or (number > 1 and stem.casefold() in given):
            number += 1
            stem = f"{picture.stem}-{number}"
        taken.add(stem.casefold())
        names.append(stem + suffix)
    return names


def _found(name: str) -> Iterator[Picture]:
    if name == STDIN:
        if sys.stdin is None or sys.stdin.isatty():
            raise SettingsError("- reads a picture from the standard input, which is a terminal; write: ldeq predict - < a.jpg")
        yield Picture(name, None, "stdin")
    elif name.lower().startswith(("http://", "https://")):
        yield Picture(name, None, _stem_of_address(name))
    elif _ADDRESS.match(name):
        raise SettingsError(f"{name} is no address that can be read; use http or https, or save the picture as a file first")
    else:
        yield from (_of_file(path) for path in _paths(name))


def _paths(name: str) -> Iterable[Path]:
    path = user_path(name)
    if path.is_dir():
        try:
            inside = sorted(path.iterdir())
        except OSError as error:
            raise SettingsError(f"the folder {path} cannot be read: {error.strerror}; check its permissions") from error
        found = [p for p in inside if p.suffix.lower() in SUFFIXES and not p.name.startswith(".") and p.is_file()]
        if not found:
            raise SettingsError(f"the folder {path} holds no picture; the suffixes {', '.join(SUFFIXES)} are looked for")
        return found
    if glob.has_magic(name) and not path.exists():
        found = [Path(p) for p in sorted(glob.glob(str(path), recursive=True)) if os.path.isfile(p)]
        if not found:
            raise SettingsError(f"no file matches {name}; check the pattern")
        return found
    return [path]


def _of_file(path: Path) -> Picture:
    return Picture(str(path), path, path.stem)


def _stem_of_address(address: str) -> str:
    try:
        path = urllib.parse.unquote(urllib.parse.urlsplit(address).path)
    except ValueError as error:
        raise SettingsError(f"{address} is no address: {error}; check it") from None
    # The name becomes one of a file here, whatever the server calls it.
    stem = re.sub(r"[^\w.-]", "_", PurePosixPath(path).stem)[:100].strip(".")
    return stem or "picture"


def _from_stdin() -> bytes:
    data = sys.stdin.buffer.read(LARGEST_DOWNLOAD + 1)
    _check_size(len(data), "from the standard input")
    return data


def _download(address: str) -> bytes:
    request = urllib.request.Request(address, headers={"User-Agent": "ldeq"})
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT) as answer:
            if urllib.parse.urlsplit(answer.url).scheme not in ("http", "https"):
                raise ImageError(address, "it leads to an address that is neither http nor https")
            return _received(answer, address)
    except urllib.error.HTTPError as error:
        raise ImageError(address, f"the server answers {error.code} {error.reason}: check the address") from error
    except urllib.error.URLError as error:
        raise ImageError(address, f"{error.reason}: check the address and the network") from error
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise ImageError(address, f"the download failed ({error or type(error).__name__}): try again") from error


def _received(answer: http.client.HTTPResponse, address: str) -> bytes:
    """The whole content. A server that sends a byte now and then must not hold the command for ever."""
    end, data = time.monotonic() + LONGEST_DOWNLOAD, bytearray()
    while part := answer.read1(1 << 20):
        data += part
        _check_size(len(data), address)
        if time.monotonic() > end:
            raise ImageError(address, f"the download takes more than {LONGEST_DOWNLOAD:.0f} seconds: save it as a file first")
    if answer.length:
        raise ImageError(address, f"the download ended {answer.length} bytes too early: try again")
    return bytes(data)


def _check_size(size: int, name: str) -> None:
    if size > LARGEST_DOWNLOAD:
        raise ImageError(name, f"it has more than {LARGEST_DOWNLOAD / 2**20:.3g} MiB: save it as a file first")
