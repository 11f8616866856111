"""What the sources of one's own data share: the layout beside them, the picture of a label, and units."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ldeq.data.errors import DataError, FaceError, LabelError
from ldeq.data.labels import label_fault
from ldeq.data.layout_files import LAYOUT_FILE, read_layout
from ldeq.data.layouts import LAYOUTS, Layout
from ldeq.data.paths import inside
from ldeq.data.pictures import PictureHeader, read_header
from ldeq.data.records import FaceRecord
from ldeq.files import user_path

UNITS: tuple[str, ...] = ("pixels", "fractions")


@dataclass(frozen=True)
class Convention:
    """How coordinates are written.

    Attributes:
        base: the coordinate of the first pixel's centre, 0 or 1.
        units: ``"pixels"``, or ``"fractions"`` of the picture's width and height.

    Raises:
        DataError: for another one.
    """

    base: float = 0.0
    units: str = "pixels"

    def __post_init__(self) -> None:
        if self.base not in (0.0, 1.0):
            raise DataError(f"base is the coordinate of the first pixel, 0 or 1, not {self.base:g}.")
        if self.units not in UNITS:
            raise DataError(f"units are {' or '.join(UNITS)}, not {self.units!r}.")
        if self.units == "fractions" and self.base:
            raise DataError("fractions of a picture have no first pixel: leave out base.")

    def pixels(self, values: NDArray[np.float64], size: tuple[int, int]) -> NDArray[np.float64]:
        """Coordinates `(..., 2)` as 0-based pixels of a picture of (height, width)."""
        return values * np.array(size[::-1], np.float64) if self.units == "fractions" else values - self.base


def find_layout(folder: Path, given: str | None) -> Layout:
    """The layout that a source names, or the one in `LAYOUT_FILE` beside the data.

    Args:
        folder: where the data lies.
        given: a name such as ``"ibug-68"``, a YAML file, or None.

    Raises:
        DataError: where there is none.
    """
    known = ", ".join(LAYOUTS)
    if given is not None:
        if given in LAYOUTS:
            return LAYOUTS[given]
        path = user_path(given)
        if not path.is_file():
            raise DataError(f"the layout {given!r} is neither one of {known} nor a file: write layout=FILE.yaml.")
        return read_layout(path)
    if not (folder / LAYOUT_FILE).is_file():
        raise DataError(
            f"{LAYOUT_FILE} is missing in {folder}: it says what the landmarks are (see docs/own-landmarks.md), or write "
            f"#layout=NAME for one of {known}."
        )
    return read_layout(folder / LAYOUT_FILE)


class PictureFolder:
    """The pictures that a list names: each is looked for once, and its header is read once.

    Args:
        folder: where the names start.
        source: the list, for messages.
    """

    def __init__(self, folder: Path, source: Path) -> None:
        self.folder, self.source = folder, source
        self._headers: dict[str, PictureHeader | FaceError] = {}

    def find(self, name: str, where: str) -> tuple[Path, PictureHeader]:
        """The file and the header of a picture.

        Raises:
            DataError: for a name that leads out of the folder.
            ImageError: where there is no such picture.
        """
        path = inside(self.folder, name, where)
        known = self._headers.get(name)
        if known is None:
            try:
                known = read_header(path)
            except FaceError as error:
                known = error
            self._headers[name] = known
        if isinstance(known, FaceError):
            raise known
        return path, known


def own_face(
    path: Path,
    header: PictureHeader,
    values: NDArray[np.float64],
    layout: Layout,
    convention: Convention,
    rect: tuple[float, float, float, float] | None = None,
) -> FaceRecord:
    """One face, judged.

    Args:
        path: the picture.
        header: its size.
        values: `(K, 2)`, as the file holds them; NaN where a landmark has no label.
        layout: what they mean.
        convention: how they are written.
        rect: (x1, y1, x2, y2), in pixels from 0.

    Raises:
        LabelError: where the labels cannot be used.
    """
    missing = np.isnan(values).any(1)
    if missing.any():
        raise LabelError(path, f"landmark {int(np.argmax(missing))} has no label, as {int(missing.sum())} of {layout.count}")
    size = (header.height, header.width)
    points = convention.pixels(values, size)
    fault = label_fault(points, layout, rect, size)
    if fault is not None:
        hint = "; write #units=fractions" if "fractions" in fault else ""
        raise LabelError(path, fault + hint)
    return FaceRecord(path, points.astype(np.float32), rect)
