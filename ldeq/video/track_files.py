"""Tracks of one face in files of any tool: ours as CSV and JSON, OpenFace's CSV, plain tables, and arrays."""

from __future__ import annotations

import csv
import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..brief import brief_repr
from ..data import IBUG68, WFLW98, DataError, Layout, Opening
from ..data.text import decimal, read_lines, read_text
from ..data.wflw_v import read_array
from ..errors import ArgumentError
from ..files import user_path
from ..inputs import checked_rate

MOST_FRAMES = 2_000_000
"""Ten hours at 50 frames a second: a larger number of a frame is a mistake, and would fill the memory."""

LARGEST_TRACK = 1 << 29
"""Bytes of one track in memory: five hours of 68 landmarks at 25 frames a second."""

_NAME = re.compile(r"(?:([xy])_?(\d{1,4})|(\d{1,4})_([xy]))$")


def _mesh(count: int) -> Layout:
    """The face mesh of MediaPipe: the corners and lids that figures need."""
    openings = {
        "mouth": Opening((78, 13, 308), (78, 14, 308)),
        "left_eye": Opening((33, 160, 159, 158, 133), (33, 144, 145, 153, 133)),
        "right_eye": Opening((362, 385, 386, 387, 263), (362, 380, 374, 373, 263)),
    }
    return Layout(f"mediapipe-{count}", count, tuple(range(count)), (33, 263), {}, openings)


TRACK_LAYOUTS: dict[int, Layout] = {68: IBUG68, 98: WFLW98, 468: _mesh(468), 478: _mesh(478)}
"""By the number of landmarks."""


@dataclass(frozen=True)
class Track:
    """One face in a video.

    Attributes:
        name: the file.
        points: `(T, K, 2)` float64, pixels of the frames; NaN in frames without the face. Row t is frame t.
        layout: of the landmarks.
        fps: frames a second as the file says; None if it does not.
        faces: how many faces the file holds; `points` are of one of them.
    """

    name: str
    points: NDArray[np.float64]
    layout: Layout
    fps: float | None = None
    faces: int = 1

    __repr__ = brief_repr

    @property
    def found(self) -> NDArray[np.bool_]:
        """Frames with the face, `(T,)`."""
        return np.asarray(np.isfinite(self.points).all((1, 2)))


Row = tuple[int, str, NDArray[np.float64]]
"""Frame, face, and points `(K, 2)`."""


def read_track(path: str | Path, face: str | None = None, size: tuple[int, int] | None = None) -> Track:
    """Reads the track of one face.

    Args:
        path: CSV with a line of names, as `ldeq video --csv` and OpenFace write it, or any table with the columns ``frame`` and
            ``x_0, y_0, x_1, ...`` (``x0`` and ``0_x`` are read, too); JSON as `ldeq video --json` writes it; or ``.npy``
            `(T, K, 2)`.
        face: which; None for the one that is in the most frames.
        size: width and height of the frames, by which coordinates that are fractions are multiplied; None if they are pixels.

    Raises:
        DataError: if the file cannot be read or is none of these, naming the line.
    """
    source = user_path(path)
    suffix = source.suffix.lower()
    if suffix == ".npy":
        points = _array(source)
        return Track(str(source), _scaled(points, size, source), _layout(points.shape[1], source))
    fps = None
    if suffix == ".json":
        rows, fps = _json_rows(source)
    else:
        rows, fps = _csv_rows(source)
    counts = Counter(name for _, name, _ in rows)
    if not rows:
        raise DataError(f"{source} holds no face.")
    chosen = counts.most_common(1)[0][0] if face is None else face
    if chosen not in counts:
        raise DataError(f"{source} has no face {chosen!r}: it has {', '.join(sorted(counts)[:20])}.")
    count, last = len(rows[0][2]), max(frame for frame, _, _ in rows)
    if last * count * 16 > LARGEST_TRACK:
        raise DataError(f"{source} reaches frame {last}, too far for the memory: score it in pieces.")
    points = np.full((last + 1, count, 2), np.nan)
    for frame, name, values in rows:
        if len(values) != count:
            raise DataError(f"frame {frame} of {source} has {len(values)} landmarks, and others have {count}.")
        if name == chosen:
            points[frame] = values
    return Track(str(source), _scaled(points, size, source), _layout(count, source), fps, len(counts))


def _layout(count: int, source: Path) -> Layout:
    if count not in TRACK_LAYOUTS:
        known = ", ".join(map(str, TRACK_LAYOUTS))
        raise DataError(f"{source} has {count} landmarks: sets of {known} are known; keep the columns of one of them.")
    return TRACK_LAYOUTS[count]


def _scaled(points: NDArray[np.float64], size: tuple[int, int] | None, source: Path) -> NDArray[np.float64]:
    if size is not None:
        # Fractions count edges of pixels, ours count centres.
        return points * np.asarray(size, np.float64) - 0.5
    largest = np.nanmax(np.abs(points)) if np.isfinite(points).any() else 0.0
    if 0 < largest <= 2:
        raise DataError(f"the coordinates of {source} look like fractions of the picture: add --fractions, and --video.")
    return points


def _array(source: Path) -> NDArray[np.float64]:
    array = read_array(source)
    if array.ndim != 3 or array.shape[2] != 2 or not array.size:
        raise DataError(f"{source} must hold numbers of shape (T, K, 2), got {array.shape}.")
    return _plausible(array, str(source))


def _json_rows(source: Path) -> tuple[list[Row], float | None]:
    try:
        document = json.loads(read_text(source))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{source} is no JSON document: {error}.") from error
    frames = document.get("frames") if isinstance(document, dict) else None
    if not isinstance(frames, list):
        raise DataError(f'{source} has no list of "frames", as ldeq video --json writes it.')
    rows: list[Row] = []
    for entry in frames:
        try:
            number, faces = _frame(entry["frame"], f"a frame of {source}"), entry["faces"]
            for face in faces:
                points = np.array(face["points"], np.float64)
                if points.ndim != 2 or points.shape[1] != 2:
                    raise ArgumentError("points must be pairs")
                rows.append((number, str(face["id"]), _plausible(points, f"frame {number} of {source}")))
        except DataError:
            raise
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise DataError(f"a frame of {source} is not as ldeq video --json writes it ({error!r}).") from error
    fps = document.get("fps")
    try:
        return rows, None if fps is None else checked_rate(fps)
    except ArgumentError as error:
        raise DataError(f"{source} cannot be scored: {error}.") from error


def _csv_rows(source: Path) -> tuple[list[Row], float | None]:
    numbers: list[int] = []

    def texts() -> Iterator[str]:
        for number, line in read_lines(source):
            numbers.append(number)
            yield line + "\n"

    lines = csv.reader(texts(), skipinitialspace=True)
    rows: list[Row] = []
    times: dict[int, float] = {}
    try:
        names = [name.strip().lower() for name in next(lines, [])]
        columns = _columns(names, source)
        for row in lines:
            where = f"line {numbers[-1]} of {source}"
            if not any(cell.strip() for cell in row):
                continue
            if len(row) != len(names):
                raise DataError(f"{where} has {len(row)} columns, the first line {len(names)}.")
            cells = dict(zip(names, row, strict=True))
            if _number(cells.get("success", "1"), where) == 0:  # OpenFace's mark of a frame without a face
                continue
            number = _frame(_number(cells["frame"], where), where) - columns.first
            if number < 0:
                raise DataError(f"{where} has a frame below {columns.first}.")
            values = np.array([_number(row[i], where) for i in columns.points]).reshape(-1, 2)
            rows.append((number, cells.get(columns.face, "0").strip() or "0", _plausible(values, where)))
            if columns.time and cells[columns.time].strip():
                times[number] = _number(cells[columns.time], where)
    except csv.Error as error:
        raise DataError(f"line {numbers[-1] if numbers else 1} of {source} is no line of a table: {error}.") from None
    return rows, _rate(times)


@dataclass(frozen=True)
class _Columns:
    points: Sequence[int]
    face: str
    time: str | None
    first: int


def _columns(names: list[str], source: Path) -> _Columns:
    if "frame" not in names:
        raise DataError(f'{source} has no column "frame": name the columns frame, x_0, y_0, x_1, ... in its first line.')
    if twice := [name for name, count in Counter(names).items() if count > 1 and name]:
        raise DataError(f"{source} has the column {twice[0]!r} twice.")
    places: dict[tuple[int, str], int] = {}
    for place, name in enumerate(names):
        if found := _NAME.match(name):
            axis, index = (found[1], found[2]) if found[1] else (found[4], found[3])
            # x1, y1, x2, y2 of our tables are the box; their landmarks have an underscore.
            if not ("x_0" in names and "_" not in name):
                places[int(index), axis] = place
    count = len(places) // 2
    missing = [f"{axis}_{i}" for i in range(count) for axis in "xy" if (i, axis) not in places]
    if not count or missing or len(places) % 2:
        raise DataError(f"{source} lacks the column {missing[0] if missing else 'x_0'}: landmarks are numbered from 0.")
    openface = "face_id" in names and "success" in names  # it counts frames from 1
    time = next((name for name in ("time", "timestamp") if name in names), None)
    face = next((name for name in ("face", "face_id") if name in names), "face")
    return _Columns([places[i, axis] for i in range(count) for axis in "xy"], face, time, int(openface))


def _number(cell: Any, where: str) -> float:
    try:
        return decimal(cell)
    except (TypeError, ValueError):
        raise DataError(f"{where} holds {str(cell)[:30]!r} where a number is expected.") from None


def _frame(value: Any, where: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < MOST_FRAMES or value != int(value):
        raise DataError(f"{where} has the number {str(value)[:30]}: frames are numbered from 0 to {MOST_FRAMES - 1}.")
    return int(value)


def _plausible(points: NDArray[np.float64], where: str) -> NDArray[np.float64]:
    if not (np.abs(points[np.isfinite(points)]) < 1e6).all():
        raise DataError(f"{where} has a coordinate that lies in no picture.")
    return np.where(np.isfinite(points), points, np.nan)


def _rate(times: dict[int, float]) -> float | None:
    """Frames a second, by the median over the steps."""
    order = sorted(times)
    steps = [(times[b] - times[a]) / (b - a) for a, b in pairwise(order)]
    middle = float(np.median(steps)) if steps else 0.0
    return 1 / middle if 1e-4 < middle < 1e4 else None
