"""A data set looked at before hours are spent on it: every picture decoded, every label judged, a sheet to look at."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ldeq.data.axis import estimate_axis
from ldeq.data.crop import crop_box, crop_matrix, transform_points, warp
from ldeq.data.draw import contact_sheet
from ldeq.data.errors import ImageError
from ldeq.data.labels import label_fault
from ldeq.data.layouts import Layout
from ldeq.data.mistakes import find_mistakes
from ldeq.data.pictures import read_header
from ldeq.data.records import Faces, FaceSet, write_image

_LISTED = 10


@dataclass
class CheckReport:
    """What `check` found.

    Attributes:
        name: data set and split.
        layout: name of the layout.
        faces: number of faces.
        pictures: number of distinct pictures.
        notes: what the loader said, such as an absent folder.
        skipped: (path, reason) of what the loader left out.
        unreadable: (path, reason) of pictures that do not decode.
        outside_faces: faces with a landmark outside the picture (they are kept: labels are never clipped).
        outside_points: the number of such landmarks.
        mirrored: faces whose left and right landmarks look exchanged.
        degenerate: faces whose outer eye corners coincide, so that no error can be normalised.
        unusable: (path, reason) of other faces whose labels cannot be used, seen beside their picture.
        attributes: mark -> number of faces.
        face_side: smallest, median and largest sqrt(w h) of the landmarks' extent in pixels.
        picture_side: smallest and largest side of the pictures in pixels.
        mistakes: what looks wrong with all labels together (`ldeq.data.mistakes`).
        axis: how far the labels lie beside the pictures' mirror axis (`ldeq.data.axis`), in words; None where unknown.
        turned: pictures that EXIF says to turn; labels belong to the pixels as they are stored.
        sheet: the contact sheet's file, or None.
    """

    name: str
    layout: str
    faces: int
    pictures: int = 0
    notes: list[str] = field(default_factory=list)
    skipped: list[tuple[str, str]] = field(default_factory=list)
    unreadable: list[tuple[str, str]] = field(default_factory=list)
    outside_faces: int = 0
    outside_points: int = 0
    mirrored: list[str] = field(default_factory=list)
    degenerate: list[str] = field(default_factory=list)
    unusable: list[tuple[str, str]] = field(default_factory=list)
    attributes: dict[str, int] = field(default_factory=dict)
    face_side: tuple[float, float, float] = (0.0, 0.0, 0.0)
    picture_side: tuple[int, int] = (0, 0)
    mistakes: list[str] = field(default_factory=list)
    axis: str | None = None
    turned: int = 0
    sheet: str | None = None

    @property
    def ok(self) -> bool:
        """Whether nothing is missing, broken or suspicious. Landmarks outside the picture are no fault."""
        return not (self.skipped or self.unreadable or self.mirrored or self.degenerate or self.unusable or self.mistakes)

    def to_dict(self) -> dict[str, Any]:
        """The report as plain values, for JSON."""
        return {**self.__dict__, "ok": self.ok}

    def text(self) -> str:
        """The report in lines to print."""
        smallest, median, largest = self.face_side
        lines = [
            f"{self.name}: {self.faces} faces in {self.pictures} pictures, layout {self.layout}",
            f"  face size        {smallest:.0f} / {median:.0f} / {largest:.0f} pixels (smallest / median / largest)",
            f"  picture side     {self.picture_side[0]} to {self.picture_side[1]} pixels",
            f"  outside          {self.outside_points} landmarks of {self.outside_faces} faces (kept)",
        ]
        if self.attributes:
            lines.append("  marks            " + ", ".join(f"{k} {v}" for k, v in self.attributes.items()))
        if self.axis is not None:
            lines.append(f"  mirror axis      {self.axis}")
        if self.turned:
            lines.append(f"  EXIF             {self.turned} pictures are to be turned; labels belong to the pixels as stored")
        lines += [f"  note             {note}" for note in self.notes]
        for title, found in (
            ("unreadable", [f"{path}: {reason}" for path, reason in self.unreadable]),
            ("left out", [f"{path}: {reason}" for path, reason in self.skipped]),
            ("left and right?", self.mirrored),
            ("eyes coincide", self.degenerate),
            ("unusable", [f"{path}: {reason}" for path, reason in self.unusable]),
            ("mistakes?", self.mistakes),
        ):
            lines.append(f"  {title:<16} {len(found) or 'none'}")
            lines += [f"    {item}" for item in found[:_LISTED]]
            if len(found) > _LISTED:
                lines.append(f"    and {len(found) - _LISTED} more")
        if self.sheet is not None:
            lines.append(f"  contact sheet    {self.sheet}")
        return "\n".join(lines)


def check(
    faces: Faces,
    sheet: str | os.PathLike[str] | None = None,
    samples: int = 30,
    columns: int = 6,
    tile: int = 192,
    progress: Callable[[int, int], None] | None = None,
    write: Callable[[str | os.PathLike[str], np.ndarray], None] = write_image,
) -> CheckReport:
    """Decode every picture, judge every label, and draw a contact sheet of evenly spaced faces.

    Args:
        faces: the faces.
        sheet: where to write the contact sheet (PNG or JPEG), or None for none.
        samples: number of faces on the sheet.
        columns: faces in a row.
        tile: side of a face on the sheet in pixels.
        progress: called with (done, total) after each face.
        write: writes the sheet.

    Raises:
        DataError: where the sheet cannot be written.
    """
    layout, total = faces.layout, len(faces)
    report = CheckReport(
        faces.name,
        layout.name,
        total,
        notes=list(getattr(faces, "notes", ())),
        skipped=list(getattr(faces, "skipped", ())),
    )
    shown = set(np.linspace(0, total - 1, min(samples, total)).round().astype(int).tolist()) if total else set()
    crops: list[np.ndarray] = []
    labels: list[np.ndarray] = []
    sides: list[float] = []
    picture_sides: list[int] = []
    last: tuple[Path | None, np.ndarray | ImageError] | None = None
    seen: set[str] = set()
    together: list[tuple[np.ndarray, tuple[int, int]]] = []
    for index in range(total):
        record = faces.record(index)
        points = np.asarray(record.points, dtype=np.float64)
        title = str(record.image) if record.image is not None else f"#{index}"
        # Neighbours in a list often share a picture.
        if last is None or record.image is None or last[0] != record.image:
            last = record.image, _read(faces, index)
        image = last[1]
        if title not in seen:
            seen.add(title)
            if isinstance(image, ImageError):
                report.unreadable.append((str(image.path), image.reason))
            else:
                picture_sides += image.shape[:2]
        for mark, value in record.attributes.items():
            report.attributes[mark] = report.attributes.get(mark, 0) + int(value)
        size = None if isinstance(image, ImageError) else (image.shape[0], image.shape[1])
        fault = label_fault(points, layout, size=size)
        if fault is not None:
            if "coincide" in fault:
                report.degenerate.append(title)
            else:
                report.unusable.append((title, fault))
            if progress is not None:
                progress(index + 1, total)
            continue
        sides.append(float(np.sqrt(np.prod(np.ptp(points, axis=0)))))
        if exchanged(points, layout):
            report.mirrored.append(title)
        if size is not None and not isinstance(image, ImageError):
            together.append((points, size))
            height, width = size
            outside = (points < -0.5).any(1) | (points >= np.array([width, height]) - 0.5).any(1)
            report.outside_points += int(outside.sum())
            report.outside_faces += bool(outside.any())
            if index in shown and sheet is not None:
                matrix = crop_matrix(crop_box("landmarks", points=points, scale=1.4), tile)
                crops.append(warp(image, matrix, tile))
                labels.append(transform_points(matrix, points))
        if progress is not None:
            progress(index + 1, total)
    report.pictures = len(seen)
    if sides:
        report.face_side = float(min(sides)), float(np.median(sides)), float(max(sides))
    if picture_sides:
        report.picture_side = int(min(picture_sides)), int(max(picture_sides))
    if together:
        points, sizes = (np.array(column) for column in zip(*together, strict=True))
        report.mistakes = find_mistakes(points, sizes, layout)
    if isinstance(faces, FaceSet):
        offset = estimate_axis(faces)
        report.axis = offset.text() if offset is not None else None
        report.turned = sum(_is_turned(path) for path in {record.image for record in faces.records} if path is not None)
    if sheet is not None and crops:
        write(sheet, contact_sheet(crops, labels, layout, columns, tile))
        report.sheet = os.fspath(sheet)
    return report


def exchanged(points: np.ndarray, layout: Layout) -> bool:
    """Whether left and right landmarks look swapped: `(K, 2)` pixels.

    The line from the left to the right outer eye corner and the line from the eyes down to the mouth must turn
    clockwise in the image, however the head is rolled.
    """
    if "outer_lip" not in layout.parts:
        return False
    left, right = (points[i] for i in layout.outer_eyes)
    mouth = points[list(layout.parts["outer_lip"].indices)].mean(0)
    across, down = right - left, mouth - (left + right) / 2
    return bool(across[0] * down[1] - across[1] * down[0] <= 0)


def _is_turned(path: Path) -> bool:
    try:
        return read_header(path).orientation != 1
    except ImageError:
        return False


def _read(faces: Faces, index: int) -> np.ndarray | ImageError:
    try:
        return faces.read(index)
    except ImageError as error:
        return error
