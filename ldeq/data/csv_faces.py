"""Faces from a table: one face a line, ``image, x0, y0, x1, y1, ...``.

The first line names the columns. ``image`` (or ``file``, ``filename``, ``path``) holds the picture, from the table's folder on.
The landmarks are ``x0, y0, x1, y1, ...`` or, where the layout has names, ``NAME_x, NAME_y``. Other columns are left alone, but
for ``split``, which says what a face is for, and ``box_x1, box_y1, box_x2, box_y2``, its rectangle. Columns are separated by
commas, semicolons or tabs; numbers have a decimal point.

Of a folder, ``train.csv`` is read for the split train and so on, else ``labels.csv``.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ldeq.data.errors import DataError, FaceError
from ldeq.data.layouts import Layout
from ldeq.data.own_sets import Convention, PictureFolder, find_layout, own_face
from ldeq.data.paths import some_of
from ldeq.data.records import FaceRecord, FaceSet, none_left
from ldeq.data.text import decimal, decimals, read_lines
from ldeq.files import user_path

_IMAGE_COLUMNS = ("image", "file", "filename", "file_name", "path", "picture")
_BOX_COLUMNS = ("box_x1", "box_y1", "box_x2", "box_y2")


def load_csv(
    path: str | os.PathLike[str], split: str = "train", layout: str | None = None, convention: Convention | None = None
) -> FaceSet:
    """The faces of a table; the module's docstring shows its form.

    Args:
        path: the table, or the folder that holds ``<split>.csv`` or ``labels.csv``; ``~`` is expanded.
        split: of a folder the table, and of a table with a column ``split`` the lines.
        layout: its name or its file; None for ``layout.yaml`` beside the table.
        convention: how coordinates are written; None is pixels counted from 0.

    Returns:
        The faces in the order of the table. Those whose picture or labels cannot be used are in `skipped`.

    Raises:
        DataError: for a table that is missing or lacks a column, a word where a number is expected, a name that leads out
            of the folder, a layout that cannot be read, or a table in which no face is left.
    """
    given = user_path(path)
    table = _table_in(given, split) if given.is_dir() else given
    shown = find_layout(table.parent, layout)
    rows = _Rows(table, shown)
    pictures = PictureFolder(table.parent, table)
    records: list[FaceRecord] = []
    skipped: list[tuple[str, str]] = []
    others: set[str] = set()
    for number, row in rows:
        of = rows.split(row)
        if of is not None and of != split:
            others.add(of)
            continue
        where = f"line {number} of {table}"
        try:
            picture, header = pictures.find(rows.image(row), where)
            points, rect = rows.points(row, where), rows.rect(row, where)
            records.append(own_face(picture, header, points, shown, convention or Convention(), rect))
        except FaceError as error:
            skipped.append((f"{table}, line {number}", f"{error.path.name}: {error.reason}"))
    if not records:
        why = none_left(skipped) if skipped else "it has no line"
        if others and not skipped:
            why = f"no line is of the split {split!r}; there are {', '.join(sorted(others)[:5])}"
        raise DataError(f"no face to load from {table}: {why}.")
    whole = () if rows.has_split or table.stem == split else (f"{table} has no column split, so all of it is {split}.",)
    return FaceSet(f"{table.parent.name}/{table.name} {split}", shown, records, skipped, whole)


def write_csv(path: str | os.PathLike[str], faces: FaceSet) -> Path:
    """Writes the labels of faces as a table that `load_csv` reads; the pictures stay where they are, below its folder.

    Raises:
        DataError: for a face whose picture does not lie in the table's folder.
        FileError: where the table cannot be written.
    """
    import io

    from ldeq.files import write_atomically

    target = user_path(path)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    names = [name for pair in coordinate_names(faces.layout) for name in pair]
    writer.writerow(["image", *names, *_BOX_COLUMNS])
    for record in faces.records:
        rect = record.rect or ("", "", "", "")
        numbers = [f"{value:.9g}" for value in record.points.ravel().tolist()]
        writer.writerow([relative_name(record, target.parent), *numbers, *rect])
    return write_atomically(target, text.getvalue())


def relative_name(record: FaceRecord, folder: Path) -> str:
    """The name of a face's picture from a folder on, with ``/``.

    Raises:
        DataError: where the picture does not lie in the folder.
    """
    if record.image is None:
        raise DataError("a drawn face has no picture file to name: write its picture first.")
    try:
        return record.image.absolute().relative_to(folder.absolute()).as_posix()
    except ValueError:
        raise DataError(f"the picture {record.image} does not lie in {folder}: write the labels beside the pictures.") from None


def coordinate_names(layout: Layout) -> list[tuple[str, str]]:
    """The two columns of each landmark."""
    if layout.names:
        return [(f"{name}_x", f"{name}_y") for name in layout.names]
    return [(f"x{i}", f"y{i}") for i in range(layout.count)]


def _table_in(folder: Path, split: str) -> Path:
    for name in (f"{split}.csv", "labels.csv"):
        if (folder / name).is_file():
            return folder / name
    other = next((each.name for each in sorted(folder.glob("*.csv"))), None)
    hint = f"; name the table itself if it is another: csv:{folder / other}" if other else ""
    raise DataError(f"{split}.csv or labels.csv expected in {folder}; found there: {some_of(folder)}{hint}.")


class _Rows:
    """The lines of a table, by the names of its columns."""

    def __init__(self, path: Path, layout: Layout) -> None:
        self.path, self.layout = path, layout
        self._lines = read_lines(path)
        self._number = 0
        header = next(self._lines, (1, ""))[1]
        self._separator = max(",;\t", key=header.count)
        self._names = [name.strip() for name in next(csv.reader([header], delimiter=self._separator), [])]
        twice = next((name for name in self._names if name and self._names.count(name) > 1), None)
        if twice is not None:
            raise DataError(f"two columns of {path} are named {twice!r}: give each a name of its own.")
        self._image = self._column(*_IMAGE_COLUMNS)
        self._points = self._point_columns()
        lower = [name.lower() for name in self._names]
        self._rect = [lower.index(name) for name in _BOX_COLUMNS] if set(_BOX_COLUMNS) <= set(lower) else None
        self._split = lower.index("split") if "split" in lower else None
        self.has_split = self._split is not None

    def _column(self, *names: str) -> int:
        lower = [name.lower() for name in self._names]
        for name in names:
            if name in lower:
                return lower.index(name)
        raise DataError(
            f"the first line of {self.path} has no column {names[0]}: write 'image,x0,y0,x1,y1,...' above the faces; it has "
            f"{', '.join(self._names[:6]) or 'nothing'}."
        )

    def _point_columns(self) -> list[int]:
        places = {name: i for i, name in enumerate(self._names)}
        numbered = [(f"x{i}", f"y{i}") for i in range(self.layout.count)]
        wanted = coordinate_names(self.layout)
        if not all(name in places for pair in wanted for name in pair) and "x0" in places:
            wanted = numbered
        flat = [name for pair in wanted for name in pair]
        absent = [name for name in flat if name not in places]
        if absent:
            more = f" and {len(absent) - 1} more" if len(absent) > 1 else ""
            raise DataError(f"{self.path} lacks the column {absent[0]}{more} of the layout {self.layout.name!r}.")
        if wanted == numbered and f"x{self.layout.count}" in places:
            raise DataError(f"{self.path} has a column x{self.layout.count}, and the layout {self.layout.name!r} has "
                            f"{self.layout.count} landmarks, numbered from 0.")  # fmt: skip
        return [places[name] for name in flat]

    def __iter__(self) -> Iterator[tuple[int, list[str]]]:
        def texts() -> Iterator[str]:
            for number, line in self._lines:
                self._number = number
                yield line + "\n"

        try:
            for row in csv.reader(texts(), delimiter=self._separator):
                if not any(cell.strip() for cell in row):
                    continue
                if len(row) != len(self._names):
                    raise DataError(
                        f"line {self._number} of {self.path} has {len(row)} columns, the first line {len(self._names)}."
                    )
                yield self._number, row
        except csv.Error as error:
            raise DataError(f"line {self._number} of {self.path} is no line of a table: {error}.") from None

    def image(self, row: list[str]) -> str:
        return row[self._image].strip()

    def split(self, row: list[str]) -> str | None:
        return row[self._split].strip() if self._split is not None else None

    def points(self, row: list[str], where: str) -> NDArray[np.float64]:
        """`(K, 2)`; an empty cell is NaN."""
        return self._floats([row[i] for i in self._points], where).reshape(-1, 2)

    def rect(self, row: list[str], where: str) -> tuple[float, float, float, float] | None:
        if self._rect is None or not any(row[i].strip() for i in self._rect):
            return None
        x1, y1, x2, y2 = self._floats([row[i] for i in self._rect], where).tolist()
        return x1, y1, x2, y2

    @staticmethod
    def _floats(cells: list[str], where: str) -> NDArray[np.float64]:
        try:
            return decimals([cell if cell.strip() else "nan" for cell in cells])
        except ValueError:
            word = next(cell for cell in cells if not _is_number(cell))
            hint = "; write a decimal point, not a comma" if "," in word else ""
            raise DataError(f"{where} holds {word[:30]!r} where a number is expected{hint}.") from None


def _is_number(cell: str) -> bool:
    try:
        decimal(cell or "0")
    except ValueError:
        return not cell.strip()
    return True
