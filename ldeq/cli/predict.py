"""``ldeq predict``."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ..confidence import check_min_score
from ..data import crop_box, draw_landmarks
from ..detection import INSTALL, choose_detector
from ..engine.settings import SettingsError
from ..engine.weights import find_weights
from ..face import Face
from ..files import followed, is_special, user_path
from ..label_files import FORMATS, Found, check_format, face_record, json_text, write_labels
from ..landmarker import Landmarker
from ..spelling import did_you_mean
from ..video.converging import draw_convergence, write_animation
from .arguments.predict import PredictArguments
from .json_lines import JsonLines, part_path
from .labelling import MOST, answers, label, process_number
from .min_score import no_score
from .outputs import Outputs
from .pictures import Picture, find_pictures, output_names
from .signature import is_signed_png, write_picture

MORE = "for the points, pose and openings: --json FILE (or - to print them), --labels FILE; for a drawing: -o PICTURE"


class Predict(PredictArguments):
    def run(self) -> int:
        boxes = parse_box(self.box)
        if boxes and self.cropped:
            raise SettingsError("--box and --cropped exclude each other: a crop is one face as a whole; leave one out")
        if not 1 <= self.batch <= MOST:
            raise SettingsError(f"--batch must lie between 1 and {MOST}, got {self.batch}")
        check_min_score(self.min_score, "--min-score")
        pictures, kind = find_pictures(self.images), self._format()
        if self.jsonl:
            return self._label(pictures, boxes)
        if process_number()[1] > 1:
            raise SettingsError("several processes share the pictures with --jsonl FILE alone; give it, or start one process")
        places = self._places(pictures, kind)
        landmarker = self._load("auto")
        if kind:
            check_format(kind, landmarker.layout)
        found: list[Found] = []
        failures = 0
        stems = output_names(pictures, "")
        results = answers(landmarker, pictures, self.batch, boxes, self.cropped, self.min_score)
        for picture, stem, drawn, (image, faces, fault) in zip(pictures, stems, places, results, strict=True):
            if image is None:
                print(f"skipped: {fault}", file=sys.stderr)
                failures += 1
                continue
            height, width = image.shape[:2]
            found.append(Found(picture.name, picture.path, stem, width, height, faces))
            self._tell(found[-1])
            if not faces:
                print(f"  none found; {self._remedy()}", file=sys.stderr)
            if drawn:
                self._draw(drawn, image, faces)
            if self.converge and faces:
                square = crop_box("landmarks", points=faces[0].points, scale=landmarker.pretrained.crop_scale)
                write_animation(self.converge, draw_convergence(landmarker.pretrained, image, square))
                self._say(f"  wrote {self.converge}")
        if self._prints_document():
            print(json_text(found, landmarker.layout, self.model), end="")
        elif self.json:
            write_labels(user_path(self.json), "json", found, landmarker.layout, self.model)
            self._say(f"wrote {self.json}")
        if self.labels and kind:
            written = write_labels(user_path(self.labels), kind, found, landmarker.layout, self.model)
            self._say(f"wrote {written[0]}" if len(written) == 1 else f"wrote {len(written)} files to {self.labels}")
        if self._only_tells() and sys.stdout.isatty() and any(picture.faces for picture in found):
            print(MORE)
        return 2 if failures else 0

    def _only_tells(self) -> bool:
        return not (self.out or self.json or self.labels or self.converge)

    def _prints_document(self) -> bool:
        return str(self.json) in ("-", "/dev/stdout")

    def _say(self, line: str) -> None:
        """A line for people, which must not come between the brackets of a document."""
        print(line, file=sys.stderr if self._prints_document() else sys.stdout)

    def _tell(self, found: Found) -> None:
        """What was found in a picture: for a program that reads the output, a line of JSON."""
        if self._only_tells() and not sys.stdout.isatty():
            print(json.dumps({"image": found.name, "faces": [face_record(face) for face in found.faces]}), flush=True)
            return
        self._say(f"{found.name}: {len(found.faces)} {'face' if len(found.faces) == 1 else 'faces'}")
        if self._only_tells():
            for number, face in enumerate(found.faces, 1):
                print(f"  {number}: {face_line(face)}")

    def _load(self, threads: Literal["auto"] | None) -> Landmarker:
        found = Landmarker.load(self.model, self.device, threads=threads, engine=self.engine, detector=self.detector)
        if told := no_score(found.pretrained, self.min_score):
            print(f"note: {told}", file=sys.stderr)
        return found

    def _detector(self) -> str:
        return choose_detector()[0] if self.detector == "auto" else self.detector

    def _remedy(self) -> str:
        """What helps where no face is found."""
        ways = ["give a box with --box x1,y1,x2,y2", "--cropped for a face crop"]
        if self._detector() == "haar":
            ways.insert(0, f"install a better detector, {INSTALL}")
        return ", or ".join(ways)

    def _label(self, pictures: list[Picture], boxes: list[list[float]] | None) -> int:
        """Writes a line a picture, from where an earlier run stopped."""
        assert self.jsonl is not None
        for option in ("out", "json", "labels", "format", "converge"):
            if getattr(self, option):
                raise SettingsError(f"--jsonl writes a line a picture and nothing else; leave out --{option}")
        outputs = Outputs()
        self._protect_inputs(outputs, pictures)
        rank, world = process_number()
        if is_special(user_path(self.jsonl)):
            raise SettingsError(f"--jsonl {self.jsonl} cannot be continued after a stop; give the name of a file")
        target = followed(user_path(self.jsonl))
        outputs.file("--jsonl", self.jsonl, part_path(target, rank, world))
        kept = "" if self.min_score is None else f", min score {self.min_score:g}"
        boxes_from = self.box or ("cropped" if self.cropped else f"detector {self._detector()}")
        about = {"model": self.model, "boxes": boxes_from + kept}
        return label(
            list({picture.name: picture for picture in pictures}.values()),
            JsonLines(target, list(dict.fromkeys(picture.name for picture in pictures)), about, rank, world),
            lambda: self._load(None if world > 1 else "auto"),
            self.batch,
            boxes,
            self.cropped,
            self.min_score,
        )

    def _protect_inputs(self, outputs: Outputs, pictures: list[Picture]) -> None:
        for picture in pictures:
            if picture.path is not None:
                outputs.protect(picture.path, f"the picture {picture.path} itself")
        outputs.protect(find_weights(self.model), "the file of the model")
        if self.detector.startswith("yunet:"):
            outputs.protect(self.detector.removeprefix("yunet:"), "the file of the detector")

    def _places(self, pictures: list[Picture], kind: str | None) -> list[Path | None]:
        """Where each picture is drawn, after a check of everything that will be written."""
        several = len(pictures) > 1
        if self.converge and (several or self.converge.suffix.lower() != ".gif"):
            raise SettingsError(f"--converge takes one picture and the name of a .gif file, got {self.converge}")
        outputs = Outputs()
        self._protect_inputs(outputs, pictures)
        places: list[Path | None] = [None] * len(pictures)
        if self.out:
            places = self._drawings(outputs, pictures, self.out)
        if self.json and not self._prints_document():
            outputs.file("--json", self.json)
        if self.converge:
            outputs.file("--converge", self.converge, media=True)
        if self.labels and kind:
            self._check_labels(outputs, pictures, self.labels, kind)
        return places

    def _format(self) -> str | None:
        """Of --labels; None without it."""
        if self.labels is None:
            if self.format:
                raise SettingsError("--format has no effect without --labels; add --labels FILE, or leave it out")
            return None
        if self.format and self.format not in FORMATS:
            raise SettingsError(
                f"unknown --format {self.format!r}{did_you_mean(self.format, FORMATS)}; choose one of {', '.join(FORMATS)}"
            )
        suffix = self.labels.suffix.lower().removeprefix(".")
        guess = suffix if suffix in ("csv", "json") else None if suffix else "pts"
        if (kind := self.format or guess) is None:
            raise SettingsError(f"--labels {self.labels} does not tell its format; add --format {', '.join(FORMATS)}")
        return kind

    @staticmethod
    def _check_labels(outputs: Outputs, pictures: list[Picture], target: Path, kind: str) -> None:
        if kind != "pts":
            outputs.file("--labels", target)
            return
        folder = outputs.folder("--labels", target, output_names(pictures, ".pts"))
        # They may be labels that somebody made by hand, which lie beside the pictures as well.
        if folder.exists() and next(folder.glob("*.pts"), None):
            raise SettingsError(f"--labels {folder} holds .pts files already; choose another folder")

    def _drawings(self, outputs: Outputs, pictures: list[Picture], path: Path) -> list[Path | None]:
        out, several = user_path(path), len(pictures) > 1
        if several and out.suffix and not out.is_dir():
            raise SettingsError(f"-o {out} looks like a file; give a folder for {len(pictures)} pictures")
        if not several and not out.is_dir() and (out.suffix or out.exists()):
            return [outputs.picture("-o", out)]
        names = output_names(pictures, ".png")
        folder = outputs.folder("-o", out, names)
        for name in names:
            # The user did not choose these names, so only a file of this command's own is replaced.
            if (folder / name).exists() and not is_signed_png(folder / name):
                raise SettingsError(f"{folder / name} exists, and ldeq did not make it; choose another folder with -o")
        return [folder / name for name in names]

    def _draw(self, target: Path, image: NDArray[np.uint8], faces: list[Face]) -> None:
        for face in faces:
            image = draw_landmarks(image, face.points, face.layout)
        write_picture(target, image)
        self._say(f"  wrote {target}")


def face_line(face: Face) -> str:
    """What a person wants to know of a face first: its box as --box takes it, its score, and how the head is turned."""
    parts = ["box " + ",".join(f"{v:.0f}" for v in face.box)]
    if face.score is not None:
        parts.append(f"score {face.score:.2f}")
    if face.pose is not None:
        parts.append(", ".join(f"{name} {round(value)}" for name, value in face.pose._asdict().items()) + " degrees")
    return "; ".join(parts)


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
        raise SettingsError(f"--box takes four numbers, x1,y1,x2,y2, got {text[:80]!r}") from None
    if not all(map(math.isfinite, (x1, y1, x2, y2))):
        raise SettingsError(f"--box takes four finite numbers, x1,y1,x2,y2 in pixels, got {text!r}")
    if not (x1 < x2 and y1 < y2):
        raise SettingsError(f"--box takes x1,y1,x2,y2 with x1 < x2 and y1 < y2, got {text!r}")
    return [[x1, y1, x2, y2]]
