"""How well the score of a face separates faces from everything else.

    python tools/face_scores.py --300w ~/300w --wflw ~/WFLW

Faces in boxes off by 6 % of their size and 10 % in size, against background of the same photos, noise, grey, texture, and faces
turned by a quarter or a half. Prints quantiles of the score by kind, and the area under the ROC curve.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from ldeq import Landmarker
from ldeq.data import load_300w, load_wflw
from ldeq.detection import detect_faces
from ldeq.video.stream import overlap

Box = tuple[float, float, float, float]
SIDE = 256


class Sample(NamedTuple):
    kind: str
    image: NDArray[np.uint8]
    box: Box


def tight(points: NDArray[np.float32]) -> Box:
    (x1, y1), (x2, y2) = points.min(0).tolist(), points.max(0).tolist()
    return x1, y1, x2, y2


def off(box: Box, rng: np.random.Generator) -> Box:
    """The box as a detector might give it."""
    x1, y1, x2, y2 = box
    w, h, side = x2 - x1, y2 - y1, max(x2 - x1, y2 - y1)
    cx, cy = (x1 + x2) / 2 + rng.normal(0, 0.06) * side, (y1 + y2) / 2 + rng.normal(0, 0.06) * side
    ratio = float(np.exp(rng.normal(0, 0.1)))
    return cx - w * ratio / 2, cy - h * ratio / 2, cx + w * ratio / 2, cy + h * ratio / 2


def turned(image: NDArray[np.uint8], box: Box, quarters: int) -> tuple[NDArray[np.uint8], Box]:
    x1, y1, x2, y2 = box
    for _ in range(quarters):
        width = image.shape[1]
        image = np.ascontiguousarray(np.rot90(image))
        x1, y1, x2, y2 = y1, width - 1 - x2, y2, width - 1 - x1
    return image, (x1, y1, x2, y2)


def faces(photos: Path, count: int, rng: np.random.Generator) -> Iterator[Sample]:
    found = load_300w(photos, "test")
    for n, i in enumerate(range(0, len(found), max(1, len(found) // count))):
        image, box = found.read(i), off(tight(found.record(i).points), rng)
        yield Sample("face", image, box)
        if n % 2 == 0:
            yield Sample(f"turned by {90 * (1 + n // 2 % 3)}", *turned(image, box, 1 + n // 2 % 3))


def hard_faces(photos: Path, count: int, rng: np.random.Generator) -> Iterator[Sample]:
    """Hard faces, and background of the same photos: boxes in which there is neither a label nor anything for the detector."""
    found = load_wflw(photos, "test")
    boxes: dict[str, list[Box]] = {}
    for i in range(len(found)):
        boxes.setdefault(found.read(i).tobytes()[:4096].hex(), []).append(tight(found.record(i).points))
    for i in range(min(count, len(found))):
        image = found.read(i)
        yield Sample("hard face", image, off(tight(found.record(i).points), rng))
        height, width = image.shape[:2]
        for _ in range(30):
            side = float(np.exp(rng.uniform(np.log(40), np.log(min(height, width) / 2))))
            x, y = rng.uniform(0, width - side), rng.uniform(0, height - side)
            box = (x, y, x + side, y + side)
            if any(overlap(box, other) > 0.01 for other in boxes[image.tobytes()[:4096].hex()]):
                continue
            low, high = max(0, int(y - 0.4 * side)), max(0, int(x - 0.4 * side))
            part = image[low : int(y + 1.4 * side), high : int(x + 1.4 * side)]
            if not len(detect_faces(np.ascontiguousarray(part))):
                yield Sample("background", image, box)
                break


def patterns(count: int, rng: np.random.Generator) -> Iterator[Sample]:
    """Noise, grey and textures."""
    box: Box = (60.0, 60.0, 190.0, 190.0)
    place = np.arange(SIDE)
    for i in range(count):
        yield Sample("noise", rng.integers(0, 255, (SIDE, SIDE, 3)).astype(np.uint8), off(box, rng))
        grey = rng.integers(0, 255) + rng.normal(0, rng.uniform(0, 5), (SIDE, SIDE, 3))
        yield Sample("grey", np.clip(grey, 0, 255).astype(np.uint8), off(box, rng))
        blurred = cv2.GaussianBlur(rng.normal(size=(SIDE, SIDE)), (0, 0), rng.uniform(1, 20))
        waves = np.sin(place[None] * rng.uniform(0.05, 1) + place[:, None] * rng.uniform(0, 0.5))
        board = ((place[None] // (4 + i) + place[:, None] // (4 + i)) % 2).astype(float)
        slope = place[None] * rng.uniform() + place[:, None] * rng.uniform()
        for values in (blurred, waves, board, slope):
            texture = cv2.normalize(values, np.empty(0), 0, 255, cv2.NORM_MINMAX).astype(np.uint8)
            yield Sample("texture", np.repeat(texture[..., None], 3, 2), off(box, rng))


def auc(positive: NDArray[np.float64], negative: NDArray[np.float64]) -> float:
    """Area under the ROC curve: how often a face scores above what is none."""
    return float((positive[:, None] > negative[None]).mean() + 0.5 * (positive[:, None] == negative[None]).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--300w", dest="photos", type=Path, required=True)
    parser.add_argument("--wflw", type=Path, required=True)
    parser.add_argument("--model", default="small-68")
    parser.add_argument("--count", type=int, default=100, help="faces of each data set")
    arguments = parser.parse_args()
    landmarker, rng = Landmarker.load(arguments.model), np.random.default_rng(0)
    samples = [*faces(arguments.photos, arguments.count, rng), *hard_faces(arguments.wflw, arguments.count, rng)]
    samples += patterns(max(4, arguments.count // 5), rng)
    scores: dict[str, list[float]] = {}
    for sample in samples:
        (face,) = landmarker(sample.image, [sample.box])
        scores.setdefault(sample.kind, []).append(face.score or 0.0)
    print("| kind | boxes | 2 % | 10 % | median | 90 % | 98 % | above 0.5 |\n| --- | --- | --- | --- | --- | --- | --- | --- |")
    for kind, values in scores.items():
        shown = " | ".join(f"{v:.3f}" for v in np.quantile(values, (0.02, 0.1, 0.5, 0.9, 0.98)))
        print(f"| {kind} | {len(values)} | {shown} | {100 * np.mean(np.array(values) > 0.5):.0f} % |")
    positive = np.array([v for kind, values in scores.items() if "face" in kind for v in values])
    negative = np.array([v for kind, values in scores.items() if "face" not in kind for v in values])
    print(f"\nArea under the ROC curve: {auc(positive, negative):.4f} ({len(positive)} faces, {len(negative)} others)")


if __name__ == "__main__":
    main()
