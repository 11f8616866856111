"""300-W: photos with 68 landmarks in ``.pts`` files beside them (Sagonas et al., ICCVW 2013)."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from ldeq.data.layouts import IBUG68
from ldeq.data.records import IMAGE_SUFFIXES, DataError, FaceRecord, FaceSet
from ldeq.files import user_path

_COMMON = ("helen/testset", "lfpw/testset")
SPLITS_300W: dict[str, tuple[str, ...]] = {
    "train": ("helen/trainset", "lfpw/trainset", "afw"),
    "test": (*_COMMON, "ibug"),
    "full": (*_COMMON, "ibug"),
    "common": _COMMON,
    "challenging": ("ibug",),
    "helen-train": ("helen/trainset",),
    "helen-test": ("helen/testset",),
    "lfpw-train": ("lfpw/trainset",),
    "lfpw-test": ("lfpw/testset",),
    "afw": ("afw",),
    "ibug": ("ibug",),
}
"""Split -> the folders it is made of. ``"test"`` is ``"full"``."""


def load_300w(root: str | os.PathLike[str], split: str = "train") -> FaceSet:
    """The faces of a 300-W split.

    Folders: ``afw/``, ``helen/trainset``, ``helen/testset``, ``lfpw/trainset``, ``lfpw/testset``, ``ibug/``, each with
    ``name.jpg`` (or .png) and ``name.pts``. Whatever part of a split is present is used; the name of the set and its
    `notes` say what was absent. Landmarks are brought from 1-based to 0-based pixels. There are no rectangles.

    Args:
        root: the folder that holds them; ``~`` is expanded.
        split: ``"train"`` (HELEN train, LFPW train, AFW), ``"common"`` (HELEN test, LFPW test), ``"challenging"``
            (iBUG), ``"full"`` or ``"test"`` (both), or one folder: ``"helen-train"``, ``"helen-test"``,
            ``"lfpw-train"``, ``"lfpw-test"``, ``"afw"``, ``"ibug"``.

    Returns:
        The faces sorted by folder and name. Pictures without labels and labels without pictures are in `skipped`.

    Raises:
        DataError: for an unknown split, a root without any of the split's folders, or a bad annotation.
    """
    if split not in SPLITS_300W:
        raise DataError(f"unknown 300-W split {split!r}: choose one of {', '.join(SPLITS_300W)}.")
    base = user_path(root)
    if not base.is_dir():
        raise DataError(f"the 300-W folder {base} does not exist: pass the one that holds helen/, lfpw/, afw/, ibug/.")
    folders = SPLITS_300W[split]
    absent = [name for name in folders if not (base / name).is_dir()]
    if len(absent) == len(folders):
        found = ", ".join(sorted(p.name + ("/" if p.is_dir() else "") for p in base.iterdir())[:8]) or "nothing"
        raise DataError(f"the 300-W split {split!r} needs {' or '.join(folders)} in {base}; found there: {found}.")
    records: list[FaceRecord] = []
    skipped: list[tuple[str, str]] = []
    for name in folders:
        if name not in absent:
            _collect(base / name, records, skipped)
    if not records:
        raise DataError(f"no picture with a .pts file beside it in {', '.join(folders)} of {base}.")
    title = f"300-W {split}" + (f" without {', '.join(absent)}" if absent else "")
    notes = tuple(f"folder {name} is absent from {base}." for name in absent)
    return FaceSet(title, IBUG68, records, skipped, notes)


def _collect(folder: Path, records: list[FaceRecord], skipped: list[tuple[str, str]]) -> None:
    images: dict[str, Path] = {}
    labels: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        suffix = path.suffix.lower()
        if suffix in IMAGE_SUFFIXES:
            images.setdefault(path.stem, path)
        elif suffix == ".pts":
            labels[path.stem] = path
    for stem in sorted(images.keys() | labels.keys()):
        if stem not in labels:
            skipped.append((str(images[stem]), "no .pts file beside the picture"))
        elif stem not in images:
            skipped.append((str(labels[stem]), "no picture beside the .pts file"))
        else:
            records.append(FaceRecord(images[stem], read_pts(labels[stem])))


def read_pts(path: str | os.PathLike[str], count: int = 68) -> np.ndarray:
    """Landmarks of a ``.pts`` file, with or without the header and braces.

    Args:
        path: the file; its coordinates are 1-based pixels.
        count: number of points expected.

    Returns:
        `(count, 2)` float32, 0-based pixels.

    Raises:
        DataError: where the file cannot be read, holds something else than numbers, or another number of points.
    """
    try:
        text = Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise DataError(f"cannot read the annotation {path}: {error.strerror}.") from error
    body = text.split("{", 1)[1].split("}", 1)[0] if "{" in text else text
    # A file without braces may still carry its header lines.
    lines = [line for line in body.splitlines() if line.strip() and ":" not in line]
    try:
        points = np.array([[float(value) for value in line.replace(",", " ").split()] for line in lines])
    except ValueError:
        raise DataError(f"the annotation {path} is not made of lines with two numbers, x and y.") from None
    if points.shape != (count, 2):
        found = f"{len(lines)} lines" if points.ndim != 2 or points.shape[1] != 2 else f"{len(points)} points"
        raise DataError(f"{count} points (x, y) expected, {found} found in {path}.")
    if not np.isfinite(points).all():
        raise DataError(f"the annotation {path} holds a number that is not finite.")
    return (points - 1.0).astype(np.float32)
