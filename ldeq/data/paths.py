"""File names from lists, held inside the data set's folder, and what lies in a folder."""

from __future__ import annotations

from pathlib import Path, PurePosixPath, PureWindowsPath

from ldeq.data.errors import DataError


def inside(folder: Path, name: str, source: str) -> Path:
    """The file of a name that a list holds. A list names files inside its own folder and no others.

    A list may come from anywhere, so a name that is absolute or climbs out by ``..`` is refused. What lies in the folder
    is the user's own: links there are followed, as data sets are often links to a shared disk.

    Args:
        folder: the folder that the names belong to.
        name: the name; ``/`` separates folders.
        source: where the name stands, for the message, such as ``"line 3 of train.txt"``.

    Raises:
        DataError: for a name that leaves the folder or cannot be one of a file.
    """
    windows = PureWindowsPath(name)
    parts = {*PurePosixPath(name).parts, *windows.parts}
    if name.startswith(("/", "~")) or windows.drive or windows.root or ".." in parts:
        raise DataError(f"the name {_short(name)} in {source} leads out of {folder}: a list may only name files inside it.")
    if not name.strip() or "\0" in name or any(len(part.encode("utf-8", "replace")) > 255 for part in parts):
        raise DataError(f"the name {_short(name)} in {source} cannot be the name of a file.")
    return folder / name


def entries(folder: Path) -> list[Path]:
    """What lies in a folder, sorted.

    Raises:
        DataError: where it cannot be read.
    """
    try:
        return sorted(folder.iterdir())
    except OSError as error:
        raise DataError(f"cannot read the folder {folder}: {error.strerror}.") from error


def some_of(folder: Path) -> str:
    """The first names in a folder, for a message about what was found instead of what was looked for."""
    return ", ".join(path.name + ("/" if path.is_dir() else "") for path in entries(folder)[:8]) or "nothing"


def _short(name: str) -> str:
    return repr(name if len(name) <= 80 else name[:77] + "...")
