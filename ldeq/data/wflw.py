"""WFLW: photos with 98 landmarks, in the official layout and as the HIH crops (Wu et al., CVPR 2018)."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ldeq.data.errors import DataError, ImageError
from ldeq.data.labels import label_fault
from ldeq.data.layouts import WFLW98
from ldeq.data.paths import inside, some_of
from ldeq.data.pictures import read_header
from ldeq.data.records import FaceRecord, Faces, FaceSet, none_left, write_image
from ldeq.data.text import decimals, read_lines
from ldeq.files import user_path, write_atomically
from ldeq.spelling import did_you_mean

WFLW_ATTRIBUTES: tuple[str, ...] = ("pose", "expression", "illumination", "make-up", "occlusion", "blur")
"""The six marks, in the order of columns 200 to 205; each names a subset of the test list."""

_ALIASES = {"largepose": "pose", "makeup": "make-up"}
_COLUMNS = 207
_LIST_FOLDER = "list_98pt_rect_attr_train_test"
_PLAIN_FOLDER = "list_98pt_test"

_HIH_NAMES = {"pose": "largepose", "make-up": "makeup"}
HIH_SPLITS: tuple[str, ...] = (
    "train", "test", *(f"test_{_HIH_NAMES.get(name, name)}" for name in WFLW_ATTRIBUTES)
)  # fmt: skip
"""Folders of the HIH crops."""


def load_wflw(root: str | os.PathLike[str], split: str = "train", subset: str | None = None) -> FaceSet:
    """The faces of WFLW in the official layout.

    ``WFLW_images/`` and ``WFLW_annotations/list_98pt_rect_attr_train_test/list_98pt_rect_attr_{train,test}.txt``, whose
    lines have 207 columns: x, y of 98 points; xmin ymin xmax ymax; six marks; the picture's path. The list of the
    other split may be absent. Coordinates are taken as 0-based.

    Args:
        root: the folder that holds both; ``~`` is expanded.
        split: ``"train"`` or ``"test"``.
        subset: one of `WFLW_ATTRIBUTES`, for the faces that carry this mark only.

    Returns:
        The faces in the order of the list. Those whose picture is missing or whose labels cannot be used are in `skipped`.

    Raises:
        DataError: for an unknown split or subset, a root without the list, a line that is not one of such a list, a name
            that leads out of ``WFLW_images``, or a list in which no face is left.
    """
    if split not in ("train", "test"):
        raise DataError(f"unknown WFLW split {split!r}{did_you_mean(split, ('train', 'test'))}: choose train or test.")
    wanted = _ALIASES.get(subset, subset) if subset is not None else None
    if wanted is not None and wanted not in WFLW_ATTRIBUTES:
        hint = did_you_mean(subset, WFLW_ATTRIBUTES)
        raise DataError(f"unknown WFLW subset {subset!r}{hint}: choose one of {', '.join(WFLW_ATTRIBUTES)}.")
    base = user_path(root)
    annotations = _find_list(base, split)
    images = base / "WFLW_images"
    if not images.is_dir():
        raise DataError(f"the folder WFLW_images is missing in {base}: unpack WFLW_images.tar.gz there.")
    records: list[FaceRecord] = []
    skipped: list[tuple[str, str]] = []
    present: dict[str, bool] = {}
    for number, line in read_lines(annotations):
        if not line.strip():
            continue
        record = _parse(line, number, annotations, images)
        if wanted is not None and not record.attributes[wanted]:
            continue
        fault = label_fault(record.points, WFLW98, record.rect)
        if fault is not None:
            skipped.append((f"{annotations}, line {number}", fault))
            continue
        path = str(record.image)
        if path not in present:
            present[path] = os.path.isfile(path)
        if present[path]:
            records.append(record)
        else:
            skipped.append((path, "the file does not exist"))
    if not records:
        why = none_left(skipped) if skipped else "it names no face of that kind"
        raise DataError(f"no face to load from {annotations}: {why}.")
    return FaceSet(f"WFLW {split}" + (f"/{wanted}" if wanted else ""), WFLW98, records, skipped)


def write_wflw(
    root: str | os.PathLike[str], split: str, faces: Faces, progress: Callable[[int, int], None] | None = None
) -> Path:
    """Writes faces in the official layout, as `load_wflw` reads them.

    Args:
        root: the folder; it is made where it does not exist.
        split: ``"train"`` or ``"test"``.
        faces: 98 landmarks; a face without a rectangle gets the tight box of its landmarks.
        progress: called with (done, total) after each face.

    Returns:
        The list that was written.

    Raises:
        DataError: for an unknown split, another layout, or a picture that cannot be written.
        FileError: if the list cannot be written.
    """
    if split not in ("train", "test"):
        raise DataError(f"unknown WFLW split {split!r}{did_you_mean(split, ('train', 'test'))}: choose train or test.")
    if faces.layout is not WFLW98:
        raise DataError(f"WFLW holds 98 landmarks and {faces.name} has {faces.layout.count}: choose other faces.")
    base = user_path(root)
    target = base / "WFLW_annotations" / _LIST_FOLDER / f"list_98pt_rect_attr_{split}.txt"
    lines = []
    for index in range(len(faces)):
        record, name = faces.record(index), f"{split}/{index:06d}.png"
        write_image(base / "WFLW_images" / name, faces.read(index))
        corners = record.rect or (*record.points.min(0).tolist(), *record.points.max(0).tolist())
        marks = " ".join(str(int(record.attributes.get(mark, False))) for mark in WFLW_ATTRIBUTES)
        numbers = " ".join(f"{value:.6f}" for value in record.points.ravel().tolist())
        lines.append(f"{numbers} {' '.join(str(round(c)) for c in corners)} {marks} {name}")
        if progress:
            progress(index + 1, len(faces))
    write_atomically(target, "\n".join(lines) + "\n")
    return target


def _find_list(base: Path, split: str) -> Path:
    if not base.is_dir():
        raise DataError(f"the WFLW folder {base} does not exist: pass the one with WFLW_images and WFLW_annotations.")
    file = f"list_98pt_rect_attr_{split}.txt"
    for folder in (base / "WFLW_annotations" / _LIST_FOLDER, base / _LIST_FOLDER, base / "WFLW_annotations", base):
        if (folder / file).is_file():
            return folder / file
    expected = f"WFLW_annotations/{_LIST_FOLDER}/{file} is missing in {base}"
    other = "test" if split == "train" else "train"
    if (base / "WFLW_annotations" / _LIST_FOLDER / f"list_98pt_rect_attr_{other}.txt").is_file():
        raise DataError(f"{expected}: only the {other} list is there, so choose split {other!r} or add the file.")
    if (base / "WFLW_annotations" / _PLAIN_FOLDER).is_dir():
        raise DataError(f"{expected}: {_PLAIN_FOLDER} has neither rectangles nor marks, unpack {_LIST_FOLDER} as well.")
    if any((base / name).is_dir() and (base / f"{name}.txt").is_file() for name in HIH_SPLITS):
        raise DataError(f"{expected}: this looks like the HIH crops, load them with hih: in place of wflw:.")
    raise DataError(f"{expected}; found there: {some_of(base)}.")


def _parse(line: str, number: int, source: Path, images: Path) -> FaceRecord:
    columns = line.split()
    if len(columns) != _COLUMNS:
        plain = ": is this list_98pt_test instead of list_98pt_rect_attr?" if len(columns) in (196, 197) else "."
        raise DataError(f"{_COLUMNS} columns expected, {len(columns)} found in line {number} of {source}{plain}")
    try:
        values = decimals(columns[:206])
    except ValueError:
        raise DataError(f"line {number} of {source} holds a word where a number is expected.") from None
    x1, y1, x2, y2 = values[196:200].tolist()
    marks = dict(zip(WFLW_ATTRIBUTES, (values[200:206] != 0).tolist(), strict=True))
    picture = inside(images, columns[206], f"line {number} of {source}")
    return FaceRecord(picture, _float32(values[:196]), (x1, y1, x2, y2), marks)


def _float32(values: NDArray[np.float64], unit: int = 1) -> NDArray[np.float32]:
    """`(196,)`, in `unit` pixels -> `(98, 2)`; what is too large becomes infinite, and the judge of labels finds it."""
    with np.errstate(over="ignore"):
        return (values.reshape(98, 2) * unit).astype(np.float32)


def load_hih(root: str | os.PathLike[str], split: str = "train") -> FaceSet:
    """The faces of WFLW as the HIH crops: pictures of 256 x 256 pixels and ``<split>.txt`` with unit coordinates.

    Each line is ``name x0 y0 ... x97 y97``; pixels are the numbers times the picture's side. The pictures are crops
    already, so no crop rule applies to them.

    Args:
        root: the folder that holds ``train/``, ``train.txt`` and so on; ``~`` is expanded.
        split: ``"train"``, ``"test"`` or a subset: ``"test_largepose"``, ``"test_expression"``,
            ``"test_illumination"``, ``"test_makeup"``, ``"test_occlusion"``, ``"test_blur"``.

    Returns:
        The faces in the order of the list. Those whose picture is missing or whose labels cannot be used are in `skipped`.

    Raises:
        DataError: for an unknown split, a root without it, a line that is not one of such a list, a name that leads out of
            the split's folder, or a list in which no face is left.
    """
    if split not in HIH_SPLITS:
        raise DataError(
            f"unknown split {split!r} of the HIH crops{did_you_mean(split, HIH_SPLITS)}: choose one of {', '.join(HIH_SPLITS)}."
        )
    base = user_path(root)
    source = base / f"{split}.txt"
    if not source.is_file() or not (base / split).is_dir():
        if not base.is_dir():
            raise DataError(f"the folder {base} of the HIH crops does not exist: pass the one with {split}/ in it.")
        raise DataError(f"the HIH crops need {split}/ and {split}.txt in {base}; found there: {some_of(base)}.")
    records: list[FaceRecord] = []
    skipped: list[tuple[str, str]] = []
    for number, line in read_lines(source):
        columns = line.split()
        if not columns:
            continue
        if len(columns) != 197:
            raise DataError(f"197 columns (name, x and y of 98 points) expected, {len(columns)} found in line "
                            f"{number} of {source}.")  # fmt: skip
        try:
            unit = decimals(columns[1:])
        except ValueError:
            raise DataError(f"line {number} of {source} holds a word where a number is expected.") from None
        path = inside(base / split, columns[0], f"line {number} of {source}")
        try:
            side = _side(path)
        except ImageError as error:
            skipped.append((str(path), error.reason))
            continue
        points = _float32(unit, side)
        fault = label_fault(points, WFLW98, size=(side, side))
        if fault is not None:
            skipped.append((f"{source}, line {number}", fault))
            continue
        records.append(FaceRecord(path, points, precropped=True))
    if not records:
        why = none_left(skipped) if skipped else "it is empty"
        raise DataError(f"no face to load from {source}: {why}.")
    return FaceSet(f"WFLW {split} (HIH crops)", WFLW98, records, skipped)


def _side(path: Path) -> int:
    """Side of a crop in pixels. Raises `ImageError`."""
    header = read_header(path)
    if header.height != header.width:
        raise ImageError(path, f"the HIH crops are square, but it has {header.width} x {header.height} pixels")
    return header.width
