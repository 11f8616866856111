"""``ldeq predict``."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from ..data import ImageError, crop_box, draw_landmarks, read_image, write_image
from ..engine.settings import SettingsError
from ..face import Face
from ..landmarker import Landmarker
from ..video.converging import draw_convergence, write_animation


@dataclass
class Predict:
    """Find faces and their landmarks in pictures.

    Example: ldeq predict face.jpg -o out.jpg --json out.json
    """

    images: tyro.conf.Positional[list[Path]]
    """Pictures."""
    out: Annotated[Path | None, tyro.conf.arg(aliases=["-o"])] = None
    """Where the picture with its landmarks goes; a folder for several pictures."""
    json: Path | None = None
    """Where points, deviations and boxes go."""
    converge: Path | None = None
    """Where a GIF of the first face's heatmaps goes, evaluation by evaluation."""
    box: str | None = None
    """x1,y1,x2,y2 in pixels, tight around the landmarks (jaw to brows), instead of the detector."""
    cropped: bool = False
    """The picture is one face, cropped as for training."""
    model: str = "small-68"
    """A shipped model or a ``.safetensors`` file."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1."""

    def run(self) -> int:
        boxes = parse_box(self.box)
        several = len(self.images) > 1
        if several and self.out and self.out.suffix:
            raise SettingsError(f"-o {self.out} looks like a file; give a folder for {len(self.images)} pictures")
        if self.converge and (several or self.converge.suffix.lower() != ".gif"):
            raise SettingsError(f"--converge takes one picture and the name of a .gif file, got {self.converge}")
        landmarker = Landmarker.load(self.model, self.device)
        results, failures = [], 0
        for path in self.images:
            try:
                image = read_image(path, exif=True)
            except ImageError as error:
                print(f"skipped: {error}", file=sys.stderr)
                failures += 1
                continue
            original = image
            faces = landmarker(image, boxes, cropped=self.cropped)
            results.append({"image": str(path), "faces": [_record(face) for face in faces]})
            print(f"{path}: {len(faces)} {'face' if len(faces) == 1 else 'faces'}")
            if not faces:
                print("  none found; give a box with --box x1,y1,x2,y2, or --cropped for a face crop", file=sys.stderr)
            if self.out:
                for face in faces:
                    image = draw_landmarks(image, face.points, face.layout)
                target = self.out / f"{path.stem}.png" if several or not self.out.suffix else self.out
                write_image(target, image)
                print(f"  wrote {target}")
            if self.converge and faces:
                square = crop_box("landmarks", points=faces[0].points, scale=landmarker.pretrained.crop_scale)
                write_animation(self.converge, draw_convergence(landmarker.pretrained, original, square))
                print(f"  wrote {self.converge}")
        if self.json:
            self.json.parent.mkdir(parents=True, exist_ok=True)
            document = {"model": self.model, "layout": landmarker.layout.name, "images": results}
            self.json.write_text(json.dumps(document, indent=1) + "\n")
            print(f"wrote {self.json}")
        if not (self.out or self.json or self.converge):
            for result in results:
                print(json.dumps(result))
        return 2 if failures else 0


def parse_box(text: str | None) -> list[list[float]] | None:
    """``x1,y1,x2,y2`` as boxes `(1, 4)`; None for None.

    Raises:
        SettingsError: if it is anything else.
    """
    if text is None:
        return None
    try:
        x1, y1, x2, y2 = (float(v) for v in text.split(","))
    except ValueError:
        raise SettingsError(f"--box takes four numbers, x1,y1,x2,y2, got {text!r}") from None
    if not (x1 < x2 and y1 < y2):
        raise SettingsError(f"--box takes x1,y1,x2,y2 with x1 < x2 and y1 < y2, got {text!r}")
    return [[x1, y1, x2, y2]]


def _record(face: Face) -> dict[str, object]:
    return {
        "box": [round(v, 2) for v in face.box],
        "points": [[round(float(x), 2), round(float(y), 2)] for x, y in face.points],
        "std": [round(float(v), 3) for v in face.std],
    }
