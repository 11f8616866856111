"""Files of tensors: one safetensors file each, with a JSON document and a checksum in its header, replaced atomically.

A file holds tensors under ``group/name`` (groups: model, ema, optimizer, rng). Its header's metadata holds two texts:

- ``ldeq``: the JSON document that says what the tensors are;
- ``sha256``: the SHA-256 of the whole file, taken while this text is 64 zeros. A single changed bit is found.

The file is written beside its final name, flushed to the disk, and renamed: a reader sees the old file or the new one,
whenever the writer dies.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import safetensors
import safetensors.torch
from torch import Tensor

from .. import files
from ..errors import LdeqError

FORMAT = 2
_WITHOUT_CHECKSUM = 1
"""The format of files that older versions wrote; they hold no checksum."""

_STEP_NAME = re.compile(r"step-(\d{8,})\.safetensors")
_TEMPORARY_NAME = re.compile(r"\.step-\d{8,}\.safetensors\.[\d-]+\.tmp")
_NO_CHECKSUM = "0" * 64
_LONGEST_HEADER = 100_000_000  # bytes; what safetensors itself accepts
_PIECE = 1 << 20


class CheckpointError(LdeqError, RuntimeError):
    """A checkpoint cannot be written or read; the message says why and what to do."""


class Checkpoint(NamedTuple):
    """A checkpoint that was read.

    - `path`: its file.
    - `groups`: tensors on the CPU by group and name.
    - `document`: what it says about them.
    - `complaints`: a sentence on each file of the folder that could not be read.
    """

    path: Path
    groups: dict[str, dict[str, Tensor]]
    document: dict[str, Any]
    complaints: list[str]


def save(path: Path, groups: Mapping[str, Mapping[str, Tensor]], document: Mapping[str, Any]) -> None:
    """Writes a checkpoint. If that fails, the file that was there before is untouched.

    Args:
        path: ``*.safetensors``.
        groups: name of a group to its tensors.
        document: JSON-serialisable; stored with the format's number.

    Raises:
        CheckpointError: if the disk is full or the folder cannot be written.
    """
    tensors = {f"{group}/{name}": t.detach().cpu().contiguous() for group, ts in groups.items() for name, t in ts.items()}
    text = json.dumps({"format": FORMAT, **document})
    data = bytearray(safetensors.torch.save(tensors, metadata={"ldeq": text, "sha256": _NO_CHECKSUM}))
    place = data.index(_checksum_entry(_NO_CHECKSUM))
    data[place : place + len(_checksum_entry(_NO_CHECKSUM))] = _checksum_entry(hashlib.sha256(data).hexdigest())
    write_atomically(path, bytes(data))


def write_atomically(path: Path, data: bytes) -> None:
    """Replaces `path` by `data`, or leaves it as it was and raises `CheckpointError`."""
    try:
        files.write_atomically(path, data)
    except files.FileError as error:
        raise CheckpointError(str(error)) from error


def load(path: Path) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]]:
    """Reads a checkpoint.

    Returns:
        groups of tensors on the CPU, and the document.

    Raises:
        CheckpointError: if the file is missing, truncated, changed since it was written, or no checkpoint of ldeq.
    """
    document = read_document(path)
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            flat = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a mapping)
    except (safetensors.SafetensorError, OSError) as error:
        raise _damaged(path, str(error)) from error
    groups: dict[str, dict[str, Tensor]] = {}
    for key, tensor in flat.items():
        group, _, name = key.partition("/")
        groups.setdefault(group, {})[name] = tensor
    return groups, document


def read_document(path: Path, verify: bool = True) -> dict[str, Any]:
    """The document of a checkpoint.

    Args:
        path: the file.
        verify: whether to read the whole file and compare its checksum.

    Raises:
        CheckpointError: as `load`.
    """
    if not path.is_file():
        raise CheckpointError(f"there is no file {path}; check the path")
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
    except (safetensors.SafetensorError, OSError) as error:
        raise _damaged(path, str(error)) from error
    checksum = metadata.get("sha256")
    if verify and checksum is not None and checksum != _checksum(path, checksum):
        raise _damaged(path, "its checksum does not fit its content")
    if "ldeq" not in metadata:
        raise CheckpointError(f"{path} was not written by ldeq: its header has no 'ldeq' document")
    try:
        document = json.loads(metadata["ldeq"])
    except (ValueError, RecursionError) as error:
        raise _damaged(path, "its document is no JSON") from error
    if not isinstance(document, dict):
        raise _damaged(path, f"its document is a {type(document).__name__} where a mapping is due")
    _check_format(path, document.get("format"), checksum is not None)
    return document


def checkpoints(folder: Path) -> list[Path]:
    """Step checkpoints in a run's folder, by step. A file with any other name is not the run's."""
    if not folder.is_dir():
        return []
    found = [(int(match[1]), path) for path in folder.iterdir() if (match := _STEP_NAME.fullmatch(path.name))]
    return [path for _, path in sorted(found)]


def by_age(folder: Path, verify: bool = True) -> tuple[list[Path], list[str]]:
    """The step checkpoints that can be read, in the order in which they were saved, oldest first.

    The order is that of the counter ``saved`` in their documents, not that of their steps: a run that went on from an earlier
    checkpoint has newer files of lower steps. Files of equal counters, as older versions wrote them, are ordered by step.

    Args:
        folder: of the run.
        verify: whether to compare the checksums of all files.

    Returns:
        the readable files, and a sentence on each of the others.
    """
    readable: list[tuple[int, int, Path]] = []
    complaints: list[str] = []
    for number, path in enumerate(checkpoints(folder)):
        try:
            readable.append((saved_counter(read_document(path, verify)), number, path))
        except CheckpointError as error:
            complaints.append(str(error))
    return [path for _, _, path in sorted(readable)], complaints


def saved_counter(document: Mapping[str, Any]) -> int:
    """Which save of its run wrote this document; 0 where it does not say."""
    counter = document.get("saved", 0)
    return counter if isinstance(counter, int) else 0


def last_saved(folder: Path) -> int:
    """The largest counter ``saved`` in a run's folder, 0 if there is none."""
    paths, _ = by_age(folder)
    return saved_counter(read_document(paths[-1], verify=False)) if paths else 0


def newest(folder: Path, check: Callable[[Path, dict[str, Any]], object] = lambda path, document: None) -> Checkpoint | None:
    """The checkpoint of a run that was saved last, of those that can be read.

    Args:
        folder: of the run.
        check: takes a file and its document, and raises `CheckpointError` if the document cannot be used.

    Returns:
        None if the folder holds no checkpoint at all.

    Raises:
        CheckpointError: if there are some and none can be read.
    """
    paths, complaints = by_age(folder)
    for path in reversed(paths):
        try:
            groups, document = load(path)
            check(path, document)
            return Checkpoint(path, groups, document, complaints)
        except CheckpointError as error:
            complaints.append(str(error))
    if complaints:
        raise CheckpointError(f"no checkpoint in {folder} can be read: {'; '.join(complaints)}")
    return None


def prune(folder: Path, keep: int, protected: Path | None = None) -> None:
    """Deletes all step checkpoints but those that were saved last, and temporary files that a killed writer left.

    Args:
        folder: of the run; nobody else may write to it meanwhile.
        keep: how many stay. A file that cannot be read stays, too: a newer version may have written it.
        protected: the file that was just saved; it stays whatever the others say.
    """
    for path in by_age(folder, verify=False)[0][:-keep]:
        if path != protected:
            path.unlink(missing_ok=True)
    for path in folder.iterdir():
        if _TEMPORARY_NAME.fullmatch(path.name):
            path.unlink(missing_ok=True)


def _check_format(path: Path, found: object, has_checksum: bool) -> None:
    if type(found) is int and found > FORMAT:
        raise CheckpointError(f"{path} has checkpoint format {found}, this version reads {FORMAT}; update ldeq")
    if type(found) is not int or found < _WITHOUT_CHECKSUM:
        raise _damaged(path, f"its checkpoint format is {found!r}")
    if found > _WITHOUT_CHECKSUM and not has_checksum:
        raise _damaged(path, "it has lost its checksum")


def _checksum_entry(checksum: str) -> bytes:
    return f'"sha256":"{checksum}"'.encode()


def _checksum(path: Path, written: str) -> str:
    """The SHA-256 of a file in which 64 zeros stand for the checksum `written`."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        length = file.read(8)
        header = file.read(min(int.from_bytes(length, "little"), _LONGEST_HEADER))
        digest.update(length + header.replace(_checksum_entry(written), _checksum_entry(_NO_CHECKSUM), 1))
        while piece := file.read(_PIECE):
            digest.update(piece)
    return digest.hexdigest()


def _damaged(path: Path, why: str) -> CheckpointError:
    return CheckpointError(f"{path} is no readable checkpoint ({why}); it may be truncated or damaged: use another file")
