"""Paths as users write them, and files that are replaced as a whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import io
import itertools
import os
import re
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .errors import LdeqError

# The longest name that common file systems take, in bytes, and the room that a temporary name needs beside its own.
LONGEST_NAME = 255
_ROOM = 40

# Paths that stand for an open descriptor: whoever opened it reads from it, whatever lies at the other end.
_DESCRIPTORS = ("/dev/stdin", "/dev/stdout", "/dev/stderr")
_DESCRIPTOR_FOLDERS = ("/dev/fd", "/proc/self/fd")

# Two letters at least, as one letter is a drive; one slash, as `Path` makes one of two.
_ADDRESS = re.compile(r"([a-z][a-z0-9+.-]+:)/", re.IGNORECASE)

_numbers = itertools.count()


class FileError(LdeqError, RuntimeError):
    """A path that cannot be used, or a file that cannot be written; the message says why and what to do."""


def user_path(text: str | os.PathLike[str]) -> Path:
    """A path as its user means it: ``~`` and ``~name`` stand for home folders.

    Args:
        text: what the user wrote.

    Returns:
        The path. It need not exist.

    Raises:
        FileError: if it holds a NUL character, has a part of more than 255 bytes, names the home folder of nobody, or is an
            address such as ``https://...``.
    """
    name = os.fspath(text)
    if "\0" in name:
        raise FileError(f"the path {name!r} holds a NUL character; remove it")
    try:
        os.fsencode(name)
    except UnicodeEncodeError:
        raise FileError(f"the path {name!r} holds a character that no file name has; remove it") from None
    address = _ADDRESS.match(name)
    if address and not os.path.isdir(address[1]):
        raise FileError(f"{name} is an address, and a file is needed here; save it as a file, and give the name of that")
    for part in Path(name).parts:
        if len(os.fsencode(part)) > LONGEST_NAME:
            raise FileError(f"the name {part[:20]}... has more than {LONGEST_NAME} bytes; choose a shorter one")
    first, *rest = Path(name).parts or (".",)
    if not first.startswith("~"):
        return Path(name)
    try:
        home = Path(first).expanduser()
    except RuntimeError:
        home = None
    # Some users, such as nobody, have the name of a home folder alone.
    if home is None or not home.is_dir():
        raise FileError(f"the path {name} names a home folder that does not exist; write the folder in full")
    return home.joinpath(*rest)


def is_special(path: Path) -> bool:
    """Whether a path is a device, a pipe, a socket or an open descriptor: it can be written to, but never replaced."""
    if str(path) in _DESCRIPTORS or str(path.parent) in _DESCRIPTOR_FOLDERS:
        return True
    try:
        mode = path.stat().st_mode
    except OSError:
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def followed(path: Path) -> Path:
    """The file that a path stands for: links are followed, whether their end exists or not."""
    return Path(os.path.realpath(path)) if path.is_symlink() else path


def temporary_path(path: Path) -> Path:
    """A name of this process alone beside `path`; short enough for every file system that takes the name of `path`."""
    name = os.fsencode(path.name)[: LONGEST_NAME - _ROOM].decode(errors="ignore")
    return path.with_name(f".{name}.{os.getpid()}-{next(_numbers)}.tmp")


def write_atomically(path: str | os.PathLike[str], data: bytes | str) -> Path:
    """Replaces a file by `data`, or leaves it as it was.

    The data goes into a temporary file in the same folder, to the disk, and then takes the file's place: a reader sees the
    old file or the new one, whenever the writer dies. Missing folders are made. A link stays, and the file that it leads to
    is replaced. An existing file keeps its permissions. A device or an open descriptor, such as ``/dev/null``, is written to.

    Args:
        path: the file.
        data: its content; text is encoded as UTF-8.

    Returns:
        The path, with ``~`` replaced.

    Raises:
        FileError: if the file cannot be written. What was there before is untouched.
    """
    target = user_path(path)
    content = data.encode("utf-8", "surrogateescape") if isinstance(data, str) else data
    try:
        if is_special(target):
            _write_through(target, content)
        else:
            _replace(followed(target), content)
    except OSError as error:
        size = f" ({len(content) / 2**20:.1f} MiB)" if len(content) >= 2**18 else ""
        raise FileError(f"cannot write {target}{size}: {cause(error)}; whatever was saved before is untouched") from error
    return target


def saved_bytes(save: Callable[[io.BytesIO], Any]) -> bytes:
    """What a library writes into a file: `save` is called with an open one in memory."""
    buffer = io.BytesIO()
    save(buffer)
    return buffer.getvalue()


def cause(error: OSError) -> str:
    """What the system says, without its number and the name of the file."""
    if error.errno in (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)):
        return "the disk is full"
    return (error.strerror or str(error) or type(error).__name__).lower()


def _replace(target: Path, content: bytes) -> None:
    if target.is_dir():
        raise IsADirectoryError(errno.EISDIR, "it is a folder")
    target.parent.mkdir(parents=True, exist_ok=True)
    mode = _mode_of(target)
    temporary = temporary_path(target)
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666)
        with open(descriptor, "wb") as file:
            if mode is not None and hasattr(os, "fchmod"):
                os.fchmod(descriptor, mode)
            file.write(content)
            file.flush()
            os.fsync(descriptor)
        os.replace(temporary, target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync_folder(target.parent)


def _mode_of(target: Path) -> int | None:
    """The permissions of an existing file, None if there is none.

    Raises:
        PermissionError: if it must not be written: a rename would not ask.
    """
    try:
        mode = stat.S_IMODE(target.stat().st_mode)
    except FileNotFoundError:
        return None
    if not os.access(target, os.W_OK):
        raise PermissionError(errno.EACCES, "it is write-protected")
    return mode


def _write_through(target: Path, content: bytes) -> None:
    # Without O_NONBLOCK a pipe that nobody reads would be waited for without an end.
    descriptor = os.open(target, os.O_WRONLY | getattr(os, "O_NONBLOCK", 0))
    if hasattr(os, "set_blocking"):
        os.set_blocking(descriptor, True)
    with open(descriptor, "wb") as file:
        file.write(content)


def _sync_folder(folder: Path) -> None:
    # Without it a power cut can undo the rename itself. Some systems and network disks know no such thing.
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
