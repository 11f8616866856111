"""Layouts of one's own: landmarks, mirror pairs, normaliser and lines in a YAML file.

```yaml
name: five
landmarks: [left_eye, right_eye, nose, left_mouth, right_mouth]   # or their number: 106
mirror:                            # pairs that change places in a mirror; the others stay as they are
  - [left_eye, right_eye]
  - [left_mouth, right_mouth]
normaliser: [left_eye, right_eye]  # errors are divided by their distance
parts:                             # lines to draw; may be absent
  mouth: [left_mouth, right_mouth]
```

A landmark is written by its name or its number from 0. A run of numbers is written ``0-15``, downwards ``32-17``, also in a
pair: ``[0-15, 32-17]`` pairs 0 with 32, 1 with 31, up to 15 with 17. A part that ends where it begins is a mapping:
``left_eye: {landmarks: [36-41], closed: true}``. "Left" and "right" are as seen in the picture.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from ldeq.data.errors import DataError
from ldeq.data.layouts import LAYOUTS, Layout, Opening, Part
from ldeq.data.text import read_text

from ..errors import ArgumentError

LAYOUT_FILE = "layout.yaml"
"""The name that is looked for beside the data."""

MOST_LANDMARKS = 2_000

# Bytes of a layout file.
_LARGEST = 1 << 20

_RUN = re.compile(r"(\d{1,4})\s*-\s*(\d{1,4})")

Landmark = Annotated[int, Field(ge=0, lt=MOST_LANDMARKS, strict=True)] | str
"""A number, a name, or a run of numbers such as ``"0-15"``."""


class _Document(BaseModel):
    model_config = ConfigDict(extra="forbid")


class PartDocument(_Document):
    """One line of the face."""

    landmarks: list[Landmark] = Field(min_length=1)
    closed: bool = False


class OpeningDocument(_Document):
    """Two lines that meet at both ends."""

    upper: list[Landmark] = Field(min_length=3)
    lower: list[Landmark] = Field(min_length=3)


class LayoutDocument(_Document):
    """A layout as YAML and weights hold it; the module's docstring shows the form."""

    name: str = Field(min_length=1, max_length=80)
    landmarks: Annotated[int, Field(ge=2, le=MOST_LANDMARKS, strict=True)] | list[str]
    mirror: list[tuple[Landmark, Landmark]]
    normaliser: tuple[Landmark, Landmark]
    parts: dict[str, PartDocument] = Field(default_factory=dict)
    openings: dict[str, OpeningDocument] = Field(default_factory=dict)

    @field_validator("parts", mode="before")
    @classmethod
    def _bare_lists(cls, value: Any) -> Any:
        """A part that is a list is the landmarks of an open line."""
        if not isinstance(value, Mapping):
            return value
        return {name: {"landmarks": part} if isinstance(part, list) else part for name, part in value.items()}

    @field_validator("landmarks")
    @classmethod
    def _distinct(cls, value: int | list[str]) -> int | list[str]:
        if isinstance(value, list):
            if not 2 <= len(value) <= MOST_LANDMARKS:
                raise ArgumentError(f"2 to {MOST_LANDMARKS} landmarks expected, {len(value)} found")
            twice = next((name for name in value if value.count(name) > 1), None)
            if twice is not None:
                raise ArgumentError(f"the name {twice!r} stands there twice")
        return value

    def layout(self) -> Layout:
        """The layout.

        Raises:
            ValueError: for a landmark that there is not, or that stands in two mirror pairs.
        """
        names = tuple(self.landmarks) if isinstance(self.landmarks, list) else ()
        count = self.landmarks if isinstance(self.landmarks, int) else len(names)
        numbers = _Numbers(count, names)
        left, right = (numbers.one(item, "normaliser") for item in self.normaliser)
        if left == right:
            raise ArgumentError("normaliser: two different landmarks expected, whose distance shows the size of the face")
        return Layout(
            name=self.name,
            count=count,
            mirror=_mirror_map(numbers, self.mirror),
            outer_eyes=(left, right),
            parts={key: Part(numbers.all(part.landmarks, f"parts.{key}"), part.closed) for key, part in self.parts.items()},
            openings={key: self._opening(numbers, key, item) for key, item in self.openings.items()},
            names=names,
        )

    @staticmethod
    def _opening(numbers: _Numbers, key: str, item: OpeningDocument) -> Opening:
        upper, lower = (numbers.all(line, f"openings.{key}") for line in (item.upper, item.lower))
        if len(upper) != len(lower) or len(upper) < 3:
            raise ArgumentError(f"openings.{key}: upper and lower must have as many landmarks, at least three, each with both "
                             "corners")  # fmt: skip
        return Opening(upper, lower)


class _Numbers:
    """Landmarks by name, number or run."""

    def __init__(self, count: int, names: Sequence[str]) -> None:
        self.count = count
        self._by_name = {name: i for i, name in enumerate(names)}

    def run(self, item: int | str, where: str) -> tuple[int, ...]:
        if isinstance(item, str) and item in self._by_name:
            return (self._by_name[item],)
        numbers: tuple[int, ...]
        if isinstance(item, int):
            numbers = (item,)
        elif match := _RUN.fullmatch(item.strip()):
            first, last = int(match[1]), int(match[2])
            numbers = tuple(range(first, last + 1) if last >= first else range(first, last - 1, -1))
        else:
            raise ArgumentError(f"{where}: there is no landmark {item!r}")
        for number in numbers:
            if number >= self.count:
                raise ArgumentError(f"{where}: there is no landmark {number}, they are numbered from 0 to {self.count - 1}")
        return numbers

    def one(self, item: int | str, where: str) -> int:
        found = self.run(item, where)
        if len(found) != 1:
            raise ArgumentError(f"{where}: one landmark expected, not the run {item!r}")
        return found[0]

    def all(self, items: Sequence[int | str], where: str) -> tuple[int, ...]:
        return tuple(number for item in items for number in self.run(item, where))


def _mirror_map(numbers: _Numbers, pairs: Sequence[tuple[int | str, int | str]]) -> tuple[int, ...]:
    mirror = list(range(numbers.count))
    seen: set[int] = set()
    for first, second in pairs:
        a, b = numbers.run(first, "mirror"), numbers.run(second, "mirror")
        if len(a) != len(b):
            raise ArgumentError(f"mirror: {first!r} has {len(a)} landmarks and {second!r} has {len(b)}")
        for i, j in zip(a, b, strict=True):
            again = next((k for k in (i, j) if k in seen), None)
            if again is not None:
                raise ArgumentError(f"mirror: landmark {again} stands in two pairs")
            seen |= {i, j}
            mirror[i], mirror[j] = j, i
    return tuple(mirror)


def read_layout(path: str | os.PathLike[str]) -> Layout:
    """The layout in a YAML file.

    Raises:
        DataError: where the file cannot be read, is no such document, or names a landmark that there is not.
    """
    try:
        document = yaml.load(read_text(path, _LARGEST), Loader=_PlainLoader)
    except DataError:
        raise
    # A constructor of YAML raises whatever it stumbles over, such as an IndexError for "!!int ''".
    except Exception as error:
        raise DataError(f"{os.fspath(path)} is not valid YAML: {_first_line(error)}.") from None
    return layout_from(document, os.fspath(path))


def layout_from(document: Any, source: str) -> Layout:
    """The layout in a parsed document.

    Args:
        document: as `layout_document` gives it.
        source: the file that holds it, for messages.

    Raises:
        DataError: where it is none.
    """
    try:
        layout = LayoutDocument.model_validate(document).layout()
        if layout.name in LAYOUTS and not is_known(layout):
            raise ArgumentError(f"name: {layout.name!r} is the name of another layout; choose one of your own")
        return layout
    except ValidationError as error:
        # A misspelt key also misses the right one; the former says more.
        first = min(error.errors(), key=lambda e: e["type"] != "extra_forbidden")
        where = ".".join(str(part) for part in first["loc"] if not str(part).startswith(("list[", "constrained-", "function-")))
        raise DataError(f"{source} is no layout: {where or 'it'}: {_plain(first['msg'])}.") from None
    except ValueError as error:
        raise DataError(f"{source} is no layout: {error}.") from None


def layout_document(layout: Layout) -> dict[str, Any]:
    """A layout as plain values, for YAML and JSON; `layout_from` reads it."""
    return {
        "name": layout.name,
        "landmarks": list(layout.names) or layout.count,
        "mirror": [[i, j] for i, j in enumerate(layout.mirror) if i < j],
        "normaliser": list(layout.outer_eyes),
        "parts": {key: {"landmarks": list(p.indices), "closed": p.closed} for key, p in layout.parts.items()},
        "openings": {key: {"upper": list(o.upper), "lower": list(o.lower)} for key, o in layout.openings.items()},
    }


def is_known(layout: Layout) -> bool:
    """Whether a layout is one of `LAYOUTS`, so that its name says all."""
    return LAYOUTS.get(layout.name) == layout


class _PlainLoader(yaml.SafeLoader):
    """YAML without aliases: nested ones grow to any size, and a layout needs none."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError(f"line {self.peek_event().start_mark.line + 1} holds an alias (*), which is not taken")
        return super().compose_node(parent, index)


def _first_line(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    problem = getattr(error, "problem", None)
    mark = getattr(error, "problem_mark", None)
    if problem and mark is not None:
        return f"{problem} in line {mark.line + 1}"
    return str(error).partition("\n")[0]


def _plain(message: str) -> str:
    text = message.removeprefix("Value error, ").replace("Input should be", "it should be")
    return "there is no such key" if text == "Extra inputs are not permitted" else text[:1].lower() + text[1:]
