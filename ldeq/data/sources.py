"""Faces from a short specification, as the command line and the configuration files write it."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import cast

from ldeq.data.axis import FEWEST, estimate_axis
from ldeq.data.coco import load_coco
from ldeq.data.csv_faces import load_csv
from ldeq.data.errors import DataError
from ldeq.data.ibug300w import load_300w
from ldeq.data.own_sets import Convention
from ldeq.data.pts_faces import load_pts
from ldeq.data.records import Faces, FaceSet
from ldeq.data.text import decimal
from ldeq.data.wflw import load_hih, load_wflw
from ldeq.data.wflw_v import VideoSet, load_wflw_v
from ldeq.files import user_path
from ldeq.spelling import did_you_mean

KINDS: dict[str, str] = {
    "300w": "300w:FOLDER",
    "wflw": "wflw:FOLDER",
    "hih": "hih:FOLDER",
    "synthetic": "synthetic:COUNT",
    "csv": "csv:FOLDER",
    "coco": "coco:FILE",
    "pts": "pts:FOLDER",
}
"""Kind -> how to write it."""

VIDEO_KIND = "wflw-v"

_OWN = ("split", "layout", "base", "units", "axis")

# Fractions of the face; what lies farther out is no offset of labels but another face.
_FARTHEST_AXIS = 0.05

_OPTIONS: dict[str, tuple[str, ...]] = {
    "300w": ("split", "axis", "turned", "seed"),
    "wflw": ("split", "subset", "axis", "turned", "seed"),
    "hih": ("split", "axis"),
    "synthetic": ("split", "seed", "size", "difficulty"),
    "csv": _OWN,
    "coco": _OWN,
    "pts": _OWN,
    VIDEO_KIND: ("split",),
}

_LOADERS: dict[str, Callable[[str, str, str | None, Convention], FaceSet]] = {
    "csv": load_csv,
    "coco": load_coco,
    "pts": load_pts,
}

# Bytes. File systems hold 255 in a name, and an ending is added.
_LONGEST_SPLIT = 200

# More synthetic faces, or larger ones, take days or all memory, and are a mistyped number.
_MOST_FACES = 10**8
_LARGEST_FACE = 4096

# Synthetic faces of another split come from another part of the seed space, so that no test face was trained on.
_SYNTHETIC_OFFSET = 1_000_003


def open_faces(spec: str, split: str | None = None, subset: str | None = None) -> Faces:
    """Open a set of faces.

    A specification is ``KIND:WHERE`` and, after ``#``, options separated by commas; a bare word is the split:
    ``300w:~/300w``, ``300w:~/300w#helen-test``, ``wflw:~/WFLW#test,subset=blur``, ``hih:~/WFLW_crops#test_blur``,
    ``synthetic:500#seed=1``. Data of one's own is ``csv:~/faces``, ``coco:~/faces/train.json`` or ``pts:~/faces``, with a
    ``layout.yaml`` beside it or ``#layout=FILE``, and ``base=1`` or ``units=fractions`` where coordinates are written so.
    ``axis=0.004`` says how far labels lie to the right of the pictures' mirror axis, as a fraction of the face's longer side,
    and ``axis=auto`` estimates it (see `ldeq.data.axis`); mirrored samples then agree with the others.
    ``turned=3`` gives, in place of each photo of 300-W or WFLW, three copies that are turned to the side, blink or open the
    mouth (see `ldeq.data.turned`); ``seed=1`` gives others.

    Args:
        spec: the specification.
        split: the split where the specification names none; ``"train"`` and ``"test"`` are known to every kind. None
            is ``"train"``.
        subset: the WFLW subset where the specification names none.

    Raises:
        DataError: for a specification that cannot be understood, and whatever the data set's loader raises.
    """
    kind = spec.partition(":")[0].strip().lower()
    known = ", ".join(KINDS.values())
    if kind == VIDEO_KIND:
        raise DataError(f"{spec!r} holds videos, and faces in pictures are needed here: write one of {known}.")
    if kind not in KINDS:
        raise DataError(f"unknown kind of data {kind!r} in {spec!r}{did_you_mean(kind, KINDS)}: write one of {known}.")
    where, suffix = _where(spec, KINDS[kind])
    options = _parse_options(kind, spec, suffix)
    split = options.get("split", split) or "train"
    if len(split.encode(errors="replace")) > _LONGEST_SPLIT or "/" in split or "\0" in split:
        raise DataError(f"split must be the name of a list in the folder, such as train, not {split!r}.")
    if kind == "300w":
        return _maybe_turned(_with_axis(load_300w(where, split), spec, options), spec, options)
    if kind == "wflw":
        found = load_wflw(where, split, options.get("subset", subset))
        return _maybe_turned(_with_axis(found, spec, options), spec, options)
    if kind == "hih":
        return _with_axis(load_hih(where, split), spec, options)
    if kind in _LOADERS:
        found = _LOADERS[kind](where, split, options.get("layout"), _convention(kind, spec, options))
        return _with_axis(found, spec, options)
    count = _integer(spec, "the number of faces", where)
    if not 1 <= count <= _MOST_FACES:
        raise DataError(f"the number of faces in {spec!r} must be at least 1 and at most {_MOST_FACES}.")
    if split not in ("train", "test"):
        raise DataError(f"synthetic faces have the splits train and test, not {split!r}.")
    seed = _integer(spec, "seed", options.get("seed", "0")) + (_SYNTHETIC_OFFSET if split == "test" else 0)
    size = _integer(spec, "size", options.get("size", "256"))
    if size > _LARGEST_FACE:
        raise DataError(f"size in {spec!r} must be at most {_LARGEST_FACE} pixels.")
    from ldeq.data.synthetic import SyntheticFaces

    try:
        return cast(Faces, SyntheticFaces(count, seed=seed, size=size, difficulty=options.get("difficulty", "normal")))
    except ValueError as error:
        raise DataError(f"{spec!r} cannot be drawn: {error}") from error


def _with_axis(faces: FaceSet, spec: str, options: dict[str, str]) -> FaceSet:
    """The faces with the offset of their labels that the specification gives or asks to estimate."""
    text = options.get("axis")
    if text is None:
        return faces
    if text == "auto":
        found = estimate_axis(faces)
        if found is None:
            need = f"mirror pairs and {FEWEST} faces seen from the front"
            raise DataError(f"axis=auto in {spec!r} needs {need}: write a number, or leave it out.")
        said = found.text() if found.clear else f"{found.text()}: no more than chance, so it is taken as 0"
        return replace(faces, axis=found.offset if found.clear else 0.0, notes=(*faces.notes, said + "."))
    try:
        axis = decimal(text)
    except ValueError:
        axis = math.nan
    if not abs(axis) <= _FARTHEST_AXIS:
        limit = f"from -{_FARTHEST_AXIS} to {_FARTHEST_AXIS}"
        raise DataError(f"axis in {spec!r} is auto or a fraction of the face {limit}, not {text!r}.")
    return replace(faces, axis=axis)


def _maybe_turned(faces: FaceSet, spec: str, options: dict[str, str]) -> Faces:
    """The faces, or as many turned copies of each as the specification asks for."""
    if "turned" not in options:
        if "seed" in options:
            raise DataError(
                f"seed in {spec!r} is that of turned copies: write turned=3,seed={options['seed']} or leave it out."
            )
        return faces
    copies, seed = _integer(spec, "turned", options["turned"]), _integer(spec, "seed", options.get("seed", "0"))
    from ldeq.data.turned import TurnedFaces

    try:
        return cast(Faces, TurnedFaces(faces, copies, seed))
    except ValueError as error:
        raise DataError(f"{spec!r} cannot be turned: {error}") from error


def _convention(kind: str, spec: str, options: dict[str, str]) -> Convention:
    units = options.get("units", "pixels")
    base = options.get("base", "1" if kind == "pts" and units == "pixels" else "0")
    return Convention(float(_integer(spec, "base", base)), units)


def is_video_spec(spec: str) -> bool:
    """Whether a specification names videos: ``wflw-v:FOLDER``."""
    return spec.partition(":")[0].strip().lower() == VIDEO_KIND


def open_videos(spec: str, split: str | None = None) -> VideoSet:
    """Open a set of labelled videos.

    Args:
        spec: ``wflw-v:FOLDER``, ``wflw-v:FOLDER#hard``.
        split: ``"easy"``, ``"hard"`` or ``"all"`` where the specification names none; None is ``"all"``.

    Raises:
        DataError: for a specification that cannot be understood, and whatever the loader raises.
    """
    if not is_video_spec(spec):
        raise DataError(f"{spec!r} does not name labelled videos: write {VIDEO_KIND}:FOLDER.")
    where, suffix = _where(spec, f"{VIDEO_KIND}:FOLDER")
    return load_wflw_v(where, _parse_options(VIDEO_KIND, spec, suffix).get("split", split) or "all")


def source_folder(spec: str) -> Path | None:
    """The folder in which a data set lies, None for synthetic faces.

    Raises:
        DataError: if the specification names none.
    """
    kind = spec.partition(":")[0].strip().lower()
    if kind == "synthetic":
        return None
    place = user_path(_where(spec, f"{kind}:FOLDER")[0])
    return place.parent if place.is_file() else place


def _where(spec: str, form: str) -> tuple[str, str]:
    """The folder, variables replaced, and the options of a specification."""
    _, colon, where = spec.partition(":")
    where, _, suffix = where.partition("#")
    if not colon or not where.strip():
        raise DataError(f"{spec!r} does not say where the data is: write {form}.")
    # A variable keeps a configuration free of one machine's paths.
    where = os.path.expandvars(where)
    if where.startswith("$"):
        raise DataError(f"{spec!r} names a variable that is not set: export {where.split('/')[0][1:]}=FOLDER first.")
    return where, suffix


def _parse_options(kind: str, spec: str, suffix: str) -> dict[str, str]:
    options: dict[str, str] = {}
    for item in filter(None, (part.strip() for part in suffix.split(","))):
        key, equals, value = item.partition("=")
        key, value = (key.strip(), value.strip()) if equals else ("split", key.strip())
        if key not in _OPTIONS[kind]:
            hint = did_you_mean(key, _OPTIONS[kind])
            raise DataError(f"unknown option {key!r} in {spec!r}{hint}: {kind} knows {', '.join(_OPTIONS[kind])}.")
        if key in options:
            raise DataError(f"option {key!r} is given twice in {spec!r}.")
        options[key] = value
    return options


def _integer(spec: str, name: str, text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise DataError(f"{name} in {spec!r} must be a whole number, not {text!r}.") from None
