"""``ldeq data check``, ``ldeq data make-faces`` and ``ldeq data make-clips``."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from ..data import DataError, Faces, check, open_faces, write_wflw
from ..data.clips import make_clips
from ..data.sources import is_video_spec, open_videos, source_folder
from ..engine.console import Console
from ..files import write_atomically
from .outputs import Outputs
from .signature import write_picture


@dataclass
class DataCheck:
    """Decode every picture of a data set, judge its labels, draw a contact sheet.

    Example: ldeq data check wflw ~/WFLW --split test --sheet sheet.png
    """

    kind: tyro.conf.Positional[str]
    """300w, wflw, hih, wflw-v or synthetic; or all in one, as in wflw:~/WFLW#test."""
    folder: tyro.conf.Positional[str | None] = None
    """Where it lies (synthetic: how many)."""
    split: str | None = None
    """The split; ``train`` by default, for wflw-v ``all``."""
    sheet: Path | None = None
    """Picture with a sample of faces and their landmarks drawn."""
    samples: Annotated[int, tyro.conf.arg(metavar="N")] = 30
    """Faces on the sheet."""
    json: Path | None = None
    """Where the findings go as JSON."""

    def run(self) -> int:
        spec = f"{self.kind}:{self.folder}" if self.folder else self.kind
        # Of a video every frame is decoded, and the middle one is judged.
        faces: Faces = open_videos(spec, self.split) if is_video_spec(spec) else open_faces(spec, self.split)
        self._check_outputs(spec)
        with Console().counting(faces.name, len(faces)) as count:
            report = check(faces, self.sheet, samples=self.samples, progress=count, write=write_picture)
        print(report.text())
        if self.json:
            write_atomically(self.json, json.dumps(report.to_dict(), indent=1) + "\n")
        return 0 if report.ok else 1

    def _check_outputs(self, spec: str) -> None:
        if self.samples < 1:
            raise DataError(f"--samples must be >= 1, got {self.samples}")
        outputs = Outputs()
        if folder := source_folder(spec):
            outputs.protect_folder(folder, "the data set")
        if self.sheet:
            outputs.picture("--sheet", self.sheet)
        if self.json:
            outputs.file("--json", self.json)


@dataclass
class MakeFaces:
    """Draw synthetic faces into a folder, in WFLW's own layout: pictures, 98 landmarks, rectangle, attributes.

    Example: ldeq data make-faces ~/faces --count 1000 --seed 1, then use it as wflw:~/faces
    """

    folder: tyro.conf.Positional[Path]
    """Where they go; it must not hold a data set already."""
    count: int = 1000
    """Faces of the train list; the test list gets a fifth of that, from another seed."""
    seed: int = 0
    """Another seed draws other faces."""
    size: int = 256
    """Side of the pictures in pixels."""

    def run(self) -> int:
        folder = Outputs().new_folder("FOLDER", self.folder)
        total = 0
        for split, count in (("train", self.count), ("test", max(1, self.count // 5))):
            faces = open_faces(f"synthetic:{count}#seed={self.seed},size={self.size}", split)
            with Console().counting(f"drawing {split}", count) as progress:
                write_wflw(folder, split, faces, progress)
            total += count
        print(f"wrote {total} faces; look at them with: ldeq data check wflw {self.folder} --sheet sheet.png")
        return 0


@dataclass
class MakeClips:
    """Move labelled photos: clips of speaking, blinking, turning faces with exact landmarks, in the layout of WFLW-V.

    Example: ldeq data make-clips --data 300w:~/300w#helen-test --out ~/clips, then use it as wflw-v:~/clips
    """

    data: str
    """The photos: 300w:FOLDER#helen-test, wflw:FOLDER#test."""
    out: Path
    """Where the clips go; a new or empty folder."""
    easy: int = 50
    """Clips with calm motion and good light."""
    hard: int = 50
    """Clips with fast motion, things before the face, blur, noise and changing light."""
    seed: int = 0
    """Another seed makes other motion, noise and things before the face."""
    part: Literal["tune", "test", "all"] = "test"
    """Photos to use: ``tune`` and ``test`` show different people, so that filters are tuned on others than those that
    judge them."""
    frames: int | None = None
    """Frames of every clip; 110 to 150 by default."""
    noise: bool = True
    """Noise of the sensor; without it the clips are otherwise the same."""

    def run(self) -> int:
        Outputs().new_folder("--out", self.out)
        faces, console = open_faces(self.data, "test"), Console()
        with console.counting("clips", self.easy + self.hard) as count:
            about = make_clips(faces, self.out, self.easy, self.hard, self.seed, self.part, self.frames, self.noise, count)
        print(f"wrote {self.easy} easy and {self.hard} hard clips, described in {about}")
        print(f"score a model on them with: ldeq eval MODEL --data wflw-v:{self.out} --split hard")
        return 0


@dataclass
class Data:
    """Look at data sets, and make one."""

    command: (
        Annotated[DataCheck, tyro.conf.subcommand("check")]
        | Annotated[MakeFaces, tyro.conf.subcommand("make-faces")]
        | Annotated[MakeClips, tyro.conf.subcommand("make-clips")]
    )

    def run(self) -> int:
        return self.command.run()
