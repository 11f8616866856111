"""Builds the folder of the page.

The folder holds a list of its files with their checksums, ``web.json``. By it a later build knows what it may replace: a file
that it did not write, or that somebody changed since, is never touched.
"""

from __future__ import annotations

import hashlib
import json
from importlib.resources import files
from pathlib import Path
from typing import Any

from ..engine.weights import Pretrained
from ..errors import LdeqError
from ..export import need
from ..files import user_path, write_atomically
from . import runtime

INSTALL = "pip install 'ldeq[web]'"
"""What brings the packages that a build needs."""

MARKER = "web.json"
MADE_BY = "ldeq web"

Checksums = dict[str, list[str]]
"""Names of files to the checksums that they may have."""


class PageError(LdeqError, RuntimeError):
    """A folder in which a page must not be built; the message says why and what to do."""


def build_page(
    pretrained: Pretrained, folder: str | Path, runtime_files: dict[str, bytes], runtime_version: str = runtime.VERSION
) -> Path:
    """Writes the page, or brings an earlier one up to date.

    Args:
        pretrained: the model that it runs.
        folder: new, empty, or made by an earlier call.
        runtime_files: of onnxruntime-web, as `ldeq.web.runtime` returns them.
        runtime_version: of onnxruntime-web.

    Returns:
        The folder.

    Raises:
        PageError: if the folder holds anything that no earlier call wrote under the name of a file of the page, or holds
            something and is no page at all.
        ExportError: if onnx is missing, or the model is not a plain one.
        FileError: if a file cannot be written.
    """
    need("onnx", INSTALL)
    from .demo import demo_files
    from .model import model_files

    target = user_path(folder)
    check_folder(target)  # before the seconds that the rest takes
    content = {
        **static_files(),
        **{f"onnxruntime/{name}": data for name, data in runtime_files.items()},
        **{f"model/{name}": data for name, data in model_files(pretrained).items()},
        **{f"demo/{name}": data for name, data in demo_files().items()},
    }
    before = check_folder(target, content)
    after = {name: [checksum(data)] for name, data in content.items()}
    # A build that is killed leaves old files and new ones: both must be known as the page's own.
    both = {name: [*before.get(name, []), *after.get(name, [])] for name in {**before, **after}}
    _write_marker(target, runtime_version, both)
    for name, data in content.items():
        write_atomically(target / name, data)
    for name in set(before) - set(after):
        (target / name).unlink(missing_ok=True)
    _write_marker(target, runtime_version, after)
    return target


def static_files() -> dict[str, bytes]:
    """The page itself, its style and its scripts."""
    return {each.name: each.read_bytes() for each in files(__package__).joinpath("static").iterdir() if each.is_file()}


def check_folder(folder: Path, names: dict[str, bytes] | None = None) -> Checksums:
    """What an earlier build left in a folder.

    Args:
        folder: it need not exist.
        names: of the files that will be written, if they are known already.

    Returns:
        Its files and the checksums that they may have; none for a new folder.

    Raises:
        PageError: as `build_page` says.
    """
    if folder.exists() and not folder.is_dir():
        raise PageError(f"{folder} is a file; give the name of a folder")
    if not folder.exists() or not any(folder.iterdir()):
        return {}
    known = known_files(folder)
    if known is None:
        raise PageError(f"{folder} is not empty, and {MADE_BY} did not make it; choose a new folder")
    for name in {**known, **(names or {})}:
        place = folder / name
        if place.is_symlink() or (place.exists() and not place.is_file()):
            raise PageError(f"{place} is not the file that {MADE_BY} made; move it, or choose a new folder")
        if place.exists() and checksum(place.read_bytes()) not in known.get(name, []):
            raise PageError(f"{place} was changed or added since {MADE_BY} made the folder; move it, or choose a new folder")
    return known


def known_files(folder: Path) -> Checksums | None:
    """The list in a folder, None if no build left one."""
    listed = _marker(folder).get("files")
    if not isinstance(listed, dict):
        return None
    # A name that leads out of the folder is none of a build's.
    inside = {n: s for n, s in listed.items() if ".." not in Path(n).parts and not Path(n).is_absolute()}
    return {name: sums for name, sums in inside.items() if isinstance(sums, list)}


def kept_runtime(folder: Path) -> dict[str, bytes] | None:
    """onnxruntime-web as an earlier build packed it into the folder, so that nothing is fetched twice.

    Returns:
        Its files; None if they are not whole, or of another version than this ldeq wants.
    """
    known = known_files(folder) or {}
    if _marker(folder).get(runtime.PACKAGE) != runtime.VERSION:
        return None
    found = {}
    for name in runtime.FILES:
        try:
            found[name] = (folder / "onnxruntime" / name).read_bytes()
        except OSError:
            return None
        if checksum(found[name]) not in known.get(f"onnxruntime/{name}", []):
            return None
    return found


def _marker(folder: Path) -> dict[str, Any]:
    try:
        document = json.loads((folder / MARKER).read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return document if isinstance(document, dict) and document.get("made_by") == MADE_BY else {}


def checksum(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _write_marker(folder: Path, version: str, names: Checksums) -> None:
    document = {"made_by": MADE_BY, runtime.PACKAGE: version, "files": dict(sorted(names.items()))}
    write_atomically(folder / MARKER, json.dumps(document, indent=1) + "\n")
