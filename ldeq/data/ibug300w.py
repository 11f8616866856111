"""300-W: photos with 68 landmarks in ``.pts`` files beside them (Sagonas et al., ICCVW 2013)."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ldeq.data.errors import DataError, LabelError
from ldeq.data.labels import label_fault
from ldeq.data.layouts import IBUG68, Layout
from ldeq.data.paths import entries, some_of
from ldeq.data.records import IMAGE_SUFFIXES, FaceRecord, FaceSet, none_left
from ldeq.data.text import decimals, read_text
from ldeq.files import user_path
from ldeq.spelling import did_you_mean

# Bytes of a .pts file; 68 points take about 1,500.
_LARGEST_PTS = 1 << 20

AXIS_300W = 0.005
"""How far the labels of 300-W lie to the right of the pictures' mirror axis, as a fraction of the face's longer side:
`ldeq.data.axis.estimate_axis` finds 0.0046, 0.0087 and 0.0049 on HELEN train, AFW and HELEN test, each +- 0.0008, and a model
trained with mirrored pictures errs by 0.0044, 0.0061 and 0.0046 to the left of the labels."""

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
        The faces sorted by folder and name. Pictures without labels, labels without pictures, and labels that cannot be
        used are in `skipped`.

    Raises:
        DataError: for an unknown split, a root without any of the split's folders, or folders without a face to use.
    """
    if split not in SPLITS_300W:
        raise DataError(
            f"unknown 300-W split {split!r}{did_you_mean(split, SPLITS_300W)}: choose one of {', '.join(SPLITS_300W)}."
        )
    base = user_path(root)
    if not base.is_dir():
        raise DataError(f"the 300-W folder {base} does not exist: pass the one that holds helen/, lfpw/, afw/, ibug/.")
    folders = SPLITS_300W[split]
    absent = [name for name in folders if not (base / name).is_dir()]
    if len(absent) == len(folders):
        raise DataError(f"the 300-W split {split!r} needs {' or '.join(folders)} in {base}; found there: {some_of(base)}.")
    records: list[FaceRecord] = []
    skipped: list[tuple[str, str]] = []
    for name in folders:
        if name not in absent:
            found, left_out = labelled_pictures(base / name, IBUG68)
            records += found
            skipped += left_out
    if not records:
        why = none_left(skipped) if skipped else "there is no picture with a .pts file beside it"
        raise DataError(f"no face to load from {', '.join(folders)} of {base}: {why}.")
    title = f"300-W {split}" + (f" without {', '.join(absent)}" if absent else "")
    notes = tuple(f"folder {name} is absent from {base}." for name in absent)
    return FaceSet(title, IBUG68, records, skipped, notes, AXIS_300W)


def labelled_pictures(folder: Path, layout: Layout, base: float = 1.0) -> tuple[list[FaceRecord], list[tuple[str, str]]]:
    """The pictures of a folder that have a ``.pts`` file beside them, and (path, reason) of whatever cannot be used.

    Args:
        folder: is searched itself, not the folders in it.
        layout: the landmarks.
        base: the coordinate of the first pixel's centre.
    """
    images: dict[str, Path] = {}
    labels: dict[str, Path] = {}
    for path in entries(folder):
        suffix = path.suffix.lower()
        if suffix in IMAGE_SUFFIXES:
            images.setdefault(path.stem, path)
        elif suffix == ".pts":
            labels[path.stem] = path
    records: list[FaceRecord] = []
    skipped: list[tuple[str, str]] = []
    for stem in sorted(images.keys() | labels.keys()):
        if stem not in labels:
            skipped.append((str(images[stem]), "no .pts file beside the picture"))
        elif stem not in images:
            skipped.append((str(labels[stem]), "no picture beside the .pts file"))
        else:
            try:
                points = read_pts(labels[stem], layout.count, base)
                fault = label_fault(points, layout)
            except DataError as error:
                fault = error.reason if isinstance(error, LabelError) else str(error).rstrip(".")
            if fault is None:
                records.append(FaceRecord(images[stem], points))
            else:
                skipped.append((str(labels[stem]), fault))
    return records, skipped


def read_pts(path: str | os.PathLike[str], count: int = 68, base: float = 1.0) -> NDArray[np.float32]:
    """Landmarks of a ``.pts`` file, with or without the header and braces.

    Args:
        path: the file.
        count: number of points expected.
        base: the coordinate of the first pixel's centre; 1 in 300-W.

    Returns:
        `(count, 2)` float32, 0-based pixels; not judged.

    Raises:
        DataError: where the file cannot be read, or is no text.
        LabelError: where it holds something else than numbers, or another number of points.
    """
    text = read_text(path, _LARGEST_PTS)
    body = text.split("{", 1)[1].split("}", 1)[0] if "{" in text else text
    # A file without braces may still carry its header lines.
    lines = [line for line in body.splitlines() if line.strip() and ":" not in line]
    try:
        points = np.array([decimals(line.replace(",", " ").split()) for line in lines])
    except ValueError:
        raise LabelError(path, "it is not made of lines with two numbers, x and y") from None
    if points.shape != (count, 2):
        found = f"{len(lines)} lines" if points.ndim != 2 or points.shape[1] != 2 else f"{len(points)} points"
        raise LabelError(path, f"{count} points (x, y) expected, {found} found")
    with np.errstate(over="ignore"):
        return (points - base).astype(np.float32)
