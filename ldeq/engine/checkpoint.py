"""Checkpoints: one safetensors file each, with a JSON header, replaced atomically.

A file holds tensors under ``group/name`` (groups: model, ema, optimizer, rng) and, in the header's metadata under ``ldeq``, a
JSON document that says what they are. It is written beside its final name, flushed to the disk, and renamed: a reader sees
the old file or the new one, whenever the writer dies.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
from torch import Tensor

from .. import files
from ..errors import LdeqError

FORMAT = 1


class CheckpointError(LdeqError, RuntimeError):
    """A checkpoint cannot be written or read; the message says why and what to do."""


def save(path: Path, groups: Mapping[str, Mapping[str, Tensor]], document: Mapping[str, Any]) -> None:
    """Writes a checkpoint; on failure the file that was there before is untouched.

    Args:
        path: ``*.safetensors``.
        groups: name of a group to its tensors.
        document: JSON-serialisable; stored with the format's number.

    Raises:
        CheckpointError: if the disk is full or the folder cannot be written.
    """
    tensors = {f"{group}/{name}": t.detach().cpu().contiguous() for group, ts in groups.items() for name, t in ts.items()}
    data = safetensors.torch.save(tensors, metadata={"ldeq": json.dumps({"format": FORMAT, **document})})
    write_atomically(path, data)


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
        CheckpointError: if the file is missing, truncated, or no checkpoint of ldeq.
    """
    if not path.is_file():
        raise CheckpointError(f"there is no file {path}; check the path")
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            flat = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a mapping)
    except (safetensors.SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is no readable safetensors file ({error}); it may be truncated: use another") from error
    if "ldeq" not in metadata:
        raise CheckpointError(f"{path} was not written by ldeq: its header has no 'ldeq' document")
    document = json.loads(metadata["ldeq"])
    if document.get("format") != FORMAT:
        raise CheckpointError(
            f"{path} has checkpoint format {document.get('format')}, this version reads {FORMAT}; update ldeq"
        )
    groups: dict[str, dict[str, Tensor]] = {}
    for key, tensor in flat.items():
        group, _, name = key.partition("/")
        groups.setdefault(group, {})[name] = tensor
    return groups, document


def checkpoints(folder: Path) -> list[Path]:
    """Step checkpoints in a run's folder, oldest first."""
    return sorted(folder.glob("step-*.safetensors"))


def newest(folder: Path) -> tuple[Path, dict[str, dict[str, Tensor]], dict[str, Any], list[str]] | None:
    """The newest checkpoint of a run that loads, what it holds, and sentences on newer ones that do not.

    Returns:
        None if the folder holds no checkpoint at all.

    Raises:
        CheckpointError: if there are some and none loads.
    """
    complaints: list[str] = []
    for path in reversed(checkpoints(folder)):
        try:
            return path, *load(path), complaints
        except CheckpointError as error:
            complaints.append(str(error))
    if complaints:
        raise CheckpointError(f"no checkpoint in {folder} can be read: {'; '.join(complaints)}")
    return None


def prune(folder: Path, keep: int) -> None:
    """Deletes all step checkpoints but the newest `keep`, and temporary files that a killed writer left."""
    for path in checkpoints(folder)[:-keep]:
        path.unlink(missing_ok=True)
    for path in folder.glob(".*.safetensors.*.tmp"):
        path.unlink(missing_ok=True)
