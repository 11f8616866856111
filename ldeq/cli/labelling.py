"""Landmarks for many pictures: batches, and whole data sets as JSON lines."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..data import ImageError
from ..engine.console import Console
from ..engine.settings import SettingsError
from ..face import Face
from ..inputs import InputError
from ..label_files import face_record
from ..landmarker import Landmarker
from .json_lines import JsonLines, Line
from .pictures import Picture

MOST = 4096
"""Pictures in a batch."""

_READERS = 8

Pixels = NDArray[np.uint8]


class Answer(NamedTuple):
    """What came of one picture.

    - `pixels`: the picture, None if it could not be used.
    - `faces`: what was found.
    - `fault`: why the picture could not be used, or nothing.
    """

    pixels: Pixels | None
    faces: list[Face]
    fault: str = ""


def answers(
    landmarker: Landmarker,
    pictures: Sequence[Picture],
    size: int = 1,
    boxes: Sequence[Sequence[float]] | None = None,
    cropped: bool = False,
    min_score: float | None = None,
) -> Iterator[Answer]:
    """The faces of each picture, in order.

    Args:
        landmarker: finds them.
        pictures: what to look at; `size` of them are read and seen by the model together.
        size: of a batch.
        boxes: of the faces in every picture, instead of the detector.
        cropped: each picture is one face.
        min_score: as `Landmarker.batch` takes it.
    """
    with ThreadPoolExecutor(min(size, _READERS)) as readers:
        for first in range(0, len(pictures), size):
            chunk = pictures[first : first + size]
            read = list(readers.map(_read, chunk)) if len(chunk) > 1 else [_read(chunk[0])]
            found = _faces(landmarker, [p for p in read if not isinstance(p, str)], boxes, cropped, min_score)
            for picture, pixels in zip(chunk, read, strict=True):
                if isinstance(pixels, str):
                    yield Answer(None, [], pixels)
                    continue
                faces = next(found)
                yield Answer(None, [], f"{picture.name}: {faces}") if isinstance(faces, str) else Answer(pixels, faces)


def process_number() -> tuple[int, int]:
    """Which process this is and of how many, as torchrun tells them.

    Raises:
        SettingsError: if RANK and WORLD_SIZE in the environment are no such numbers.
    """
    texts = os.environ.get("RANK", "0"), os.environ.get("WORLD_SIZE", "1")
    try:
        rank, world = map(int, texts)
    except ValueError:
        rank, world = -1, 1
    if not 0 <= rank < world:
        raise SettingsError(
            f"RANK is {texts[0]!r} and WORLD_SIZE is {texts[1]!r}; start the processes with torchrun, or unset them"
        )
    return rank, world


def label(
    pictures: Sequence[Picture],
    lines: JsonLines,
    load: Callable[[], Landmarker],
    size: int,
    boxes: Sequence[Sequence[float]] | None,
    cropped: bool,
    min_score: float | None = None,
) -> int:
    """Writes a line for each picture of this process's share that has none, and ends with one file.

    Args:
        pictures: all of the command, each once.
        lines: where they go.
        load: gives the landmarker, if there is anything left to do.
        size: of a batch.
        boxes: as in `answers`.
        cropped: as in `answers`.
        min_score: as in `answers`.

    Returns:
        The exit status: 2 if a picture could not be read.
    """
    console = Console()
    with lines:
        known = lines.lines()
        rank, world = lines.rank, lines.world
        # By number in the whole list: another process may have begun to write, and all must agree on the shares.
        mine = [p for i, p in enumerate(pictures) if i % world == rank and not _is_done(known.get(p.name))]
        if known:
            console.say(f"{lines.target}: {sum(map(_is_done, known.values()))} of {len(pictures)} pictures have their lines")
        try:
            _write(lines, mine, lambda part: answers(load(), part, size, boxes, cropped, min_score), size, console)
        except KeyboardInterrupt:
            console.warn("stopped; run the same command again to go on")
            raise
    found = lines.finish()
    if found is None:
        console.say(f"process {rank} of {world} is done; the last one writes {lines.target}")
        return 0
    faces = sum(line.faces or 0 for line in found.values())
    failed = sum(line.faces is None for line in found.values())
    console.say(f"wrote {lines.target}: {len(found)} pictures, {faces} face{'s' * (faces != 1)}")
    if failed:
        console.warn(f"{failed} could not be read; their lines say why, and the same command tries them again")
    return 2 if failed else 0


def _write(
    lines: JsonLines,
    mine: Sequence[Picture],
    answered: Callable[[Sequence[Picture]], Iterator[Answer]],
    size: int,
    console: Console,
) -> None:
    if not mine:
        return
    batch: list[dict[str, Any]] = []
    with console.counting("pictures", len(mine)) as count:
        for number, (picture, answer) in enumerate(zip(mine, answered(mine), strict=True), 1):
            batch.append(_record(picture, answer))
            if len(batch) == size or number == len(mine):
                lines.add(batch)
                batch = []
                count(number, len(mine))


def _record(picture: Picture, answer: Answer) -> dict[str, Any]:
    if answer.pixels is None:
        return {"image": picture.name, "error": answer.fault}
    height, width = answer.pixels.shape[:2]
    return {"image": picture.name, "width": width, "height": height, "faces": [face_record(face) for face in answer.faces]}


def _is_done(line: Line | None) -> bool:
    return line is not None and line.faces is not None


def _read(picture: Picture) -> Pixels | str:
    try:
        return picture.read()
    except ImageError as error:
        return str(error)


def _faces(
    landmarker: Landmarker,
    pictures: list[Pixels],
    boxes: Sequence[Sequence[float]] | None,
    cropped: bool,
    min_score: float | None,
) -> Iterator[list[Face] | str]:
    """The faces of each picture, or why it has none: a box may lie outside some pictures alone."""
    try:
        yield from landmarker.batch(
            pictures, None if boxes is None else [boxes] * len(pictures), cropped=cropped, min_score=min_score
        )
    except InputError as error:
        if len(pictures) == 1:
            yield str(error)
            return
        for pixels in pictures:
            yield from _faces(landmarker, [pixels], boxes, cropped, min_score)
