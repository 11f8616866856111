"""Faces in folders of pictures with a ``.pts`` file of any number of points beside each."""

from __future__ import annotations

import os
from pathlib import Path

from ldeq.data.errors import DataError
from ldeq.data.ibug300w import labelled_pictures
from ldeq.data.own_sets import Convention, find_layout
from ldeq.data.records import FaceRecord, FaceSet, none_left
from ldeq.files import user_path, write_atomically


def load_pts(
    path: str | os.PathLike[str], split: str = "train", layout: str | None = None, convention: Convention | None = None
) -> FaceSet:
    """The pictures of a folder with their ``.pts`` files: ``name.jpg`` and ``name.pts`` with a line ``x y`` for each landmark.

    Args:
        path: the folder; ``layout.yaml`` lies in it. Where it holds a folder named as the split, that one is read.
        split: the folder inside.
        layout: its name or its file; None for ``layout.yaml``.
        convention: how coordinates are written; None counts pixels from 1, as such files do.

    Returns:
        The faces sorted by name. Those whose picture or labels are missing or cannot be used are in `skipped`.

    Raises:
        DataError: for a folder that is missing, a layout that cannot be read, or a folder without a face to use.
    """
    base = user_path(path)
    if not base.is_dir():
        raise DataError(f"the folder {base} does not exist: pass the one that holds pictures with .pts files beside them.")
    how = convention or Convention(base=1.0)
    if how.units != "pixels":
        raise DataError(".pts files hold pixels: leave out units.")
    folder = base / split if (base / split).is_dir() else base
    shown = find_layout(base, layout)
    records, skipped = labelled_pictures(folder, shown, how.base)
    if not records:
        why = none_left(skipped) if skipped else "there is no picture with a .pts file beside it"
        raise DataError(f"no face to load from {folder}: {why}.")
    notes = () if folder != base else (f"{base} has no folder {split}, so all of it is {split}.",)
    return FaceSet(f"{base.name} {split}", shown, records, skipped, notes)


def write_pts(record: FaceRecord, path: str | os.PathLike[str], base: float = 1.0) -> Path:
    """Writes the landmarks of one face as a ``.pts`` file with header and braces, in pixels counted from `base`.

    Raises:
        FileError: where the file cannot be written.
    """
    rows = "\n".join(f"{x + base:.6f} {y + base:.6f}" for x, y in record.points.astype(float).tolist())
    return write_atomically(user_path(path), f"version: 1\nn_points: {len(record.points)}\n{{\n{rows}\n}}\n")
