"""How many labelled faces each detector finds, what else it takes for a face, and how long a picture takes.

    python tools/detectors.py '300w:~/300w#helen-test' wflw:~/WFLW

Each detector alone, and with --model with what comes behind it in `Landmarker`: landmarks, score and the merging of doubles.
A face is found if the box that fits it best covers half of the union with the tight box of its labels. What lies on no label
may be a face that nobody labelled: --sheet FOLDER leaves pictures of them to look at.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter

import cv2
import numpy as np
from numpy.typing import NDArray

from ldeq import Landmarker
from ldeq.data import open_faces, write_image
from ldeq.detection import make_detector
from ldeq.video.stream import overlap

Box = tuple[float, float, float, float]
Pixels = NDArray[np.uint8]
Finder = Callable[[Pixels], list[Box]]

FOUND = 0.5
"""Of the union of box and label, that both cover."""

ELSEWHERE = 0.1
"""A box that covers less than this with every label lies on none."""

TILE = 160


@dataclass
class Picture:
    pixels: Pixels
    labels: list[Box]


@dataclass
class Count:
    """What one detector did on one set."""

    faces: int = 0
    found: int = 0
    elsewhere: int = 0
    doubles: int = 0
    overlaps: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    tiles: list[Pixels] = field(default_factory=list)

    def add(self, picture: Picture, boxes: list[Box], seconds: float) -> None:
        self.seconds.append(seconds)
        self.faces += len(picture.labels)
        table = np.array([[overlap(label, box) for box in boxes] for label in picture.labels]).reshape(
            len(picture.labels), len(boxes)
        )
        best = table.max(1, initial=0)
        self.overlaps += best.tolist()
        self.found += int((best >= FOUND).sum())
        self.doubles += int(np.maximum((table >= FOUND).sum(1) - 1, 0).sum())
        for box, nearest in zip(boxes, table.max(0, initial=0), strict=True):
            if nearest < ELSEWHERE:
                self.elsewhere += 1
                self.tiles.append(cut(picture.pixels, box))

    def row(self) -> str:
        return (
            f"{self.found} of {self.faces} ({100 * self.found / self.faces:.1f} %) | {self.elsewhere} | {self.doubles} | "
            f"{np.median(self.overlaps):.2f} | {1e3 * np.median(self.seconds):.0f}"
        )


def cut(pixels: Pixels, box: Box) -> Pixels:
    """The box and what surrounds it, as a tile."""
    x1, y1, x2, y2 = box
    side = 1.6 * max(x2 - x1, y2 - y1)
    corner = np.array([(x1 + x2 - side) / 2, (y1 + y2 - side) / 2])
    matrix = np.array([[TILE / side, 0, -corner[0] * TILE / side], [0, TILE / side, -corner[1] * TILE / side]])
    return np.asarray(cv2.warpAffine(pixels, matrix, (TILE, TILE), flags=cv2.INTER_AREA), np.uint8)


def sheet(tiles: list[Pixels], columns: int = 12) -> Pixels:
    """All tiles as one picture."""
    blank = np.zeros((TILE, TILE, 3), np.uint8)
    rows = [tiles[i : i + columns] for i in range(0, len(tiles), columns)]
    return np.vstack([np.hstack(row + [blank] * (columns - len(row))) for row in rows])


def pictures_of(spec: str) -> list[Picture]:
    """The pictures of a set, each once, with the tight boxes of all its labels."""
    faces = open_faces(spec, "test")
    found: dict[tuple[Path, int | None], Picture] = {}
    for i in range(len(faces)):
        record = faces.record(i)
        (x1, y1), (x2, y2) = record.points.min(0).tolist(), record.points.max(0).tolist()
        picture = found.setdefault((Path(str(record.image)), None), Picture(np.zeros((0, 0, 3), np.uint8), []))
        if not picture.labels:
            picture.pixels = faces.read(i)
        picture.labels.append((x1, y1, x2, y2))
    return list(found.values())


def finders(names: list[str], model: str | None) -> dict[str, Finder]:
    """Each detector alone, and with the landmarks of a model behind it."""
    made: dict[str, Finder] = {}
    for name in names:
        detector = make_detector(name)
        made[name] = lambda pixels, detector=detector: [tuple(b) for b in detector(pixels).tolist()]  # type: ignore[misc]
        if model is None:
            continue
        landmarker = Landmarker.load(model, "cpu", detector=detector)
        made[f"{name} + {model}"] = lambda pixels, landmarker=landmarker: [f.box for f in landmarker(pixels)]  # type: ignore[misc]
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sets", nargs="+", help="labelled faces, as ldeq eval --data takes them")
    parser.add_argument("--detectors", default="haar,centerface")
    parser.add_argument("--model", help="such as small-68: shows each detector with the landmarks behind it, too")
    parser.add_argument(
        "--sheet", type=Path, help="folder for pictures of what lies on no label; never publish research photos"
    )
    arguments = parser.parse_args()
    made = finders(arguments.detectors.split(","), arguments.model)
    for spec in arguments.sets:
        pictures = pictures_of(spec)
        print(f"\n{spec}: {len(pictures)} pictures\n")
        print("| detector | found | on no label | doubles | overlap | ms | times the first |")
        print("| --- | --- | --- | --- | --- | --- | --- |")
        counts = {name: Count() for name in made}
        for picture in pictures:
            # One after another on each picture, so that whatever else the machine does slows all of them.
            for name, finder in made.items():
                begin = perf_counter()
                boxes = finder(picture.pixels)
                counts[name].add(picture, boxes, perf_counter() - begin)
        first = np.array(next(iter(counts.values())).seconds)
        for name, count in counts.items():
            print(f"| {name} | {count.row()} | {np.median(np.array(count.seconds) / first):.2f} |", flush=True)
            if arguments.sheet and count.tiles:
                arguments.sheet.mkdir(parents=True, exist_ok=True)
                stem = f"{spec.split(':')[0]}-{name}".replace(" ", "").replace("+", "-").replace("/", "-").replace(":", "-")
                write_image(arguments.sheet / f"{stem}.png", sheet(count.tiles))


if __name__ == "__main__":
    main()
