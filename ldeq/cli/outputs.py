"""What a command is about to write, checked before any work, so that nothing of the user's is lost."""

from __future__ import annotations

import os
import stat
import unicodedata
from collections.abc import Iterable
from pathlib import Path

import cv2

from ..engine.settings import SettingsError
from ..files import cause, followed, is_special, temporary_path, user_path
from .signature import is_signed_png

# Enough to find out that a disk is full.
_PROBE = bytes(1 << 14)

# Suffixes of what people keep once and cannot make again.
_MEDIA = frozenset((".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".heic"))
_MEDIA |= frozenset((".mp4", ".m4v", ".mov", ".mkv", ".avi", ".webm"))

Identity = tuple[object, ...]


class Outputs:
    """The files that one command writes.

    No output may be an input or another output, under whatever name. An output that cannot be written is refused before the
    work, not after it.

    ```python
    outputs = Outputs()
    outputs.protect(picture, "the picture itself")
    target = outputs.file("--json", path)
    ```
    """

    def __init__(self) -> None:
        self._taken: dict[Identity, str] = {}
        self._folders: list[tuple[Path, str]] = []

    def protect(self, path: str | os.PathLike[str], what: str) -> None:
        """Names a file that is read and must not be written.

        Args:
            path: the file; it need not exist.
            what: what it is, for the sentence, such as ``"the video itself"``.
        """
        path = user_path(path)
        if not is_special(path):
            self._taken.setdefault(identity(path), what)

    def protect_folder(self, path: str | os.PathLike[str], what: str) -> None:
        """Names a folder of data: new files may go there, but no file that is there already may be replaced."""
        self._folders.append((Path(os.path.realpath(user_path(path))), what))

    def file(self, option: str, path: str | os.PathLike[str], partial: Path | None = None, media: bool = False) -> Path:
        """A file that the command writes.

        Args:
            option: what names it, for the sentence, such as ``"--json"``.
            path: the file.
            partial: where it grows until it is whole, if not under a name of its own.
            media: whether what is written is itself a picture or a video. Anything else replaces none: a pattern that the
                shell expands, as in ``--json *.jpg``, names the first photo as the output.

        Returns:
            The path, with ``~`` replaced.

        Raises:
            SettingsError: if it is an input, another output, a folder, a pipe or a socket, a picture or a video in the place
                of something else, or cannot be written.
            FileError: if the path cannot be one.
        """
        target = user_path(path)
        if str(path) == "-":
            raise SettingsError(f"{option} - is no name of a file; write {option} /dev/stdout to print")
        if target.is_dir():
            raise SettingsError(f"{option}: cannot write {target}: it is a folder; give the name of a file")
        if is_special(target):
            _check_special(option, target)
            return target
        self._check_folders(option, target)
        self._claim(option, target, target)
        if partial is not None:
            self._claim(option, target, partial)
        if not media and target.suffix.lower() in _MEDIA and target.exists():
            raise SettingsError(f"{option} {target} would replace a picture or a video; choose a name with another suffix")
        _check_place(option, target)
        return target

    def picture(self, option: str, path: str | os.PathLike[str]) -> Path:
        """A picture that the command writes, in the format that its suffix names.

        Raises:
            SettingsError: for a suffix of no picture, and as `file` says.
            FileError: if the path cannot be one.
        """
        target = user_path(path)
        if not target.is_dir() and not is_special(target) and not _can_be_encoded(target.suffix):
            raise SettingsError(f"{option} {target} must end in the suffix of a picture; choose .png or .jpg")
        return self.file(option, path, media=True)

    def new_folder(self, option: str, path: str | os.PathLike[str]) -> Path:
        """A folder that the command fills, and that must be empty or absent.

        Raises:
            SettingsError: if it holds something, is a file, or cannot be made.
            FileError: if the path cannot be one.
        """
        folder = self.folder(option, path, ["x"])
        if folder.exists() and any(folder.iterdir()):
            raise SettingsError(f"{folder} is not empty; choose a new folder")
        return folder

    def folder(self, option: str, path: str | os.PathLike[str], names: Iterable[str]) -> Path:
        """A folder into which the command writes files of the given names.

        Raises:
            SettingsError: if it is a file, or if one of the files cannot be written, as `file` says.
            FileError: if the path cannot be one.
        """
        folder = user_path(path)
        if str(path) == "-":
            raise SettingsError(f"{option} - is no name of a folder; choose another name")
        if folder.exists() and not folder.is_dir():
            raise SettingsError(f"{option} {folder} is a file; give the name of a folder")
        for name in names:
            self.file(option, folder / name, media=True)
        return folder

    def _check_folders(self, option: str, target: Path) -> None:
        place = Path(os.path.realpath(target))
        for folder, what in self._folders:
            if place.is_relative_to(folder) and target.exists() and not is_signed_png(place):
                raise SettingsError(f"{option} {target} would replace a file of {what}; choose another name")

    def _claim(self, option: str, target: Path, place: Path) -> None:
        key = identity(place)
        if key in self._taken:
            grows = "" if place == target else f" would grow as {place}, which"
            raise SettingsError(f"{option} {target}{grows} is {self._taken[key]}; choose another name")
        self._taken[key] = f"where {option} goes, too"


def identity(path: Path) -> Identity:
    """A value that is equal for two paths exactly if they lead to one file, whether or not it exists.

    Links are followed. An existing file is known by its device and number, which hard links share; any other by those of the
    nearest folder that exists, and the rest of its name.
    """
    place = Path(os.path.realpath(path))
    rest: list[str] = []
    while True:
        try:
            found = place.stat()
            break
        except OSError:
            if place.parent == place:
                return (*reversed(rest),)
            rest.append(place.name)
            place = place.parent
    if rest and not _case_matters(place):
        rest = [unicodedata.normalize("NFC", name).casefold() for name in rest]
    return (found.st_dev, found.st_ino, *reversed(rest))


def _case_matters(folder: Path) -> bool:
    """Whether ``a`` and ``A`` are two files in a folder."""
    if folder.name.swapcase() == folder.name:  # nothing to tell it by, as in the root folder
        return os.path.normcase("A") == "A"
    other = folder.with_name(folder.name.swapcase())
    try:
        return not other.samefile(folder)
    except OSError:
        return True


def _can_be_encoded(suffix: str) -> bool:
    try:
        return bool(suffix) and cv2.haveImageWriter(f"x{suffix}")
    except cv2.error:
        return False


def _check_special(option: str, path: Path) -> None:
    if not path.exists():
        raise SettingsError(f"{option} {path} is no open file of this process; give the name of a file")
    found = path.stat()
    of_shell = str(path.parent) in ("/dev/fd", "/proc/self/fd") or path.name in ("stdout", "stderr")
    for kind, what in ((stat.S_ISFIFO, "a pipe"), (stat.S_ISSOCK, "a socket"), (stat.S_ISBLK, "a disk")):
        if kind(found.st_mode) and not of_shell:
            raise SettingsError(f"{option} {path} is {what}; give the name of a file, or /dev/stdout to print")
    if stat.S_ISCHR(found.st_mode) and found.st_rdev == _FULL:
        raise SettingsError(f"{option} {path} is a device without room; give the name of a file")


_FULL = os.makedev(1, 7) if hasattr(os, "makedev") else -1
"""The number of ``/dev/full``, under whatever name."""


def _check_place(option: str, path: Path) -> None:
    """Writes a few bytes beside the file and takes them away again: the one test that knows every reason why not."""
    target = followed(path)
    if target.is_symlink():
        raise SettingsError(f"{option} {path} is a link that leads back to itself; choose another name")
    folder = target.parent
    while not folder.exists():
        folder = folder.parent
    if not folder.is_dir():
        raise SettingsError(f"{option} {path} would lie below {folder}, which is a file; choose another place")
    if target.exists() and not os.access(target, os.W_OK):
        raise SettingsError(f"{option}: cannot write {path}: it is write-protected; choose another name")
    probe = temporary_path(folder / "probe")
    try:
        try:
            probe.write_bytes(_PROBE)
        finally:
            probe.unlink(missing_ok=True)
    except OSError as error:
        raise SettingsError(f"{option}: cannot write {path}: {cause(error)}; choose another place") from error
