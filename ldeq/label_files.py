"""Found landmarks as the label files of other tools: CSV, JSON, COCO, ``.pts`` and WFLW's list."""

from __future__ import annotations

import csv
import io
import json
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .data import Layout
from .errors import LdeqError
from .face import Face
from .files import write_atomically
from .pose import HeadPose
from .spelling import did_you_mean

FORMATS = ("json", "csv", "coco", "wflw", "pts")
"""``pts`` is a folder of files, the others are one file."""


class FormatError(LdeqError, ValueError):
    """A format that cannot hold what was found; the message says which can."""


@dataclass(frozen=True)
class Found:
    """The faces of one picture.

    Attributes:
        name: of the picture, as it was given.
        path: its file; None if it came from elsewhere.
        stem: from which names of files about it are made.
        width: of the picture in pixels.
        height: the same.
        faces: what was found.
    """

    name: str
    path: Path | None
    stem: str
    width: int
    height: int
    faces: Sequence[Face]


def check_format(name: str, layout: Layout) -> None:
    """
    Raises:
        FormatError: for an unknown format, and for WFLW's with other than 98 landmarks.
    """
    if name not in FORMATS:
        raise FormatError(f"unknown format {name!r}{did_you_mean(name, FORMATS)}; choose one of {', '.join(FORMATS)}")
    if name == "wflw" and layout.count != 98:
        raise FormatError(f"WFLW's list holds 98 landmarks and the model finds {layout.count}; choose csv, coco, json or pts")


def write_labels(target: Path, format: str, found: Sequence[Found], layout: Layout, model: str) -> list[Path]:
    """Writes what was found.

    Args:
        target: the file; for ``pts`` the folder.
        format: one of `FORMATS`.
        found: the pictures, in order.
        layout: of the landmarks.
        model: its name, which JSON tells.

    Returns:
        The files.

    Raises:
        FormatError: as `check_format` says.
        FileError: if a file cannot be written.
    """
    check_format(format, layout)
    if format == "pts":
        return [write_atomically(target / name, pts_text(face)) for name, face in named_faces(found)]
    writers: dict[str, Callable[[], str]] = {
        "json": lambda: json_text(found, layout, model),
        "csv": lambda: csv_text(found, layout, target.parent),
        "coco": lambda: coco_text(found, layout, target.parent),
        "wflw": lambda: wflw_text(found, target.parent),
    }
    return [write_atomically(target, writers[format]())]


def named_faces(found: Sequence[Found]) -> list[tuple[str, Face]]:
    """The name of each face's ``.pts`` file: that of the picture, with a number from its second face on."""
    return [
        (f"{picture.stem}.pts" if number == 0 else f"{picture.stem}-face{number + 1}.pts", face)
        for picture in found
        for number, face in enumerate(picture.faces)
    ]


def json_text(found: Sequence[Found], layout: Layout, model: str) -> str:
    """A document with a list of faces for each picture; coordinates in pixels, counted from 0."""
    images = [{"image": picture.name, "faces": [face_record(face) for face in picture.faces]} for picture in found]
    return json.dumps({"model": model, "layout": layout.name, "images": images}, indent=1) + "\n"


def csv_text(found: Sequence[Found], layout: Layout, folder: Path) -> str:
    """A row a face: image, its number, score, box, points, pose and openings. ``csv:`` reads it as a data set."""
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    points = [f"{axis}{i}" for i in range(layout.count) for axis in "xy"]
    openings = [f"{name}_open" for name in layout.openings]
    boxes = ("box_x1", "box_y1", "box_x2", "box_y2")
    rows.writerow(["image", "face", "score", *boxes, *points, *HeadPose._fields, *openings])
    for picture in found:
        for number, face in enumerate(picture.faces):
            r = face_record(face)
            flat = [v for point in r["points"] for v in point]
            pose = [""] * len(HeadPose._fields) if r["pose"] is None else list(r["pose"].values())
            score = "" if r["score"] is None else r["score"]
            rows.writerow([_relative(picture, folder), number, score, *r["box"], *flat, *pose, *r["openings"].values()])
    return text.getvalue()


def coco_text(found: Sequence[Found], layout: Layout, folder: Path) -> str:
    """A COCO keypoints document: every picture, an annotation a face, all landmarks visible."""
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for image_id, picture in enumerate(found):
        name = _relative(picture, folder)
        images.append({"id": image_id, "file_name": name, "width": picture.width, "height": picture.height})
        for face in picture.faces:
            r = face_record(face)
            x1, y1, x2, y2 = r["box"]
            box = [x1, y1, round(x2 - x1, 2), round(y2 - y1, 2)]
            entry: dict[str, Any] = {"id": len(annotations), "image_id": image_id, "category_id": 1, "iscrowd": 0}
            keypoints = [v for x, y in r["points"] for v in (x, y, 2)]
            entry |= {"keypoints": keypoints, "num_keypoints": layout.count, "bbox": box, "area": round(box[2] * box[3], 2)}
            if r["score"] is not None:
                entry["score"] = r["score"]
            annotations.append(entry)
    names = list(layout.names) or [str(i) for i in range(layout.count)]
    category = {"id": 1, "name": "face", "keypoints": names, "skeleton": []}
    return json.dumps({"images": images, "annotations": annotations, "categories": [category]}) + "\n"


def wflw_text(found: Sequence[Found], folder: Path) -> str:
    """A line a face as in WFLW's lists: 196 coordinates, the tight box, six marks (all 0), the picture."""
    lines = []
    for picture in found:
        for face in picture.faces:
            points = " ".join(f"{v:.6f}" for v in face.points.ravel().tolist())
            box = " ".join(str(round(v)) for v in face.box)
            lines.append(f"{points} {box} 0 0 0 0 0 0 {_relative(picture, folder)}\n")
    return "".join(lines)


def pts_text(face: Face) -> str:
    """Header, braces and a line ``x y`` a landmark, counted from 1 as such files do."""
    rows = "\n".join(f"{x + 1:.6f} {y + 1:.6f}" for x, y in face.points.astype(float).tolist())
    return f"version: 1\nn_points: {len(face.points)}\n{{\n{rows}\n}}\n"


def face_record(face: Face) -> dict[str, Any]:
    """A face as plain numbers: pixels to a hundredth, deviations to a thousandth, degrees to a hundredth."""
    return {
        "box": [round(v, 2) for v in face.box],
        "points": [[round(float(x), 2), round(float(y), 2)] for x, y in face.points],
        "std": [round(float(v), 3) for v in face.std],
        "deviation": None if face.deviation is None else [_finite(v) for v in face.deviation.tolist()],
        "score": None if face.score is None else round(face.score, 4),
        "pose": None if face.pose is None else {k: round(v, 2) for k, v in face.pose._asdict().items()},
        "openings": {name: round(v, 4) for name, v in face.openings.items()},
    }


def _finite(value: float) -> float | None:
    """To a thousandth; JSON knows no NaN."""
    return round(value, 3) if math.isfinite(value) else None


def _relative(picture: Found, folder: Path) -> str:
    """The picture from the folder of the file that names it; in full if it lies elsewhere."""
    if picture.path is None:
        return picture.name
    place, base = Path(os.path.realpath(picture.path)), Path(os.path.realpath(folder))
    return place.relative_to(base).as_posix() if place.is_relative_to(base) else str(place)
