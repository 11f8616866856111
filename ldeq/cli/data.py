"""``ldeq data check``, ``ldeq data make-faces`` and ``ldeq data make-clips``."""

from __future__ import annotations

import json

from ..data import DataError, Faces, check, open_faces, write_wflw
from ..data.clips import make_clips
from ..data.sources import is_video_spec, open_videos, source_folder
from ..engine.console import Console
from ..files import write_atomically
from .arguments.data import DataCheckArguments, MakeClipsArguments, MakeFacesArguments
from .outputs import Outputs
from .signature import write_picture


class DataCheck(DataCheckArguments):
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


class MakeFaces(MakeFacesArguments):
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


class MakeClips(MakeClipsArguments):
    def run(self) -> int:
        Outputs().new_folder("--out", self.out)
        faces, console = open_faces(self.data, "test"), Console()
        with console.counting("clips", self.easy + self.hard) as count:
            about = make_clips(faces, self.out, self.easy, self.hard, self.seed, self.part, self.frames, self.noise, count)
        print(f"wrote {self.easy} easy and {self.hard} hard clips, described in {about}")
        print(f"score a model on them with: ldeq eval MODEL --data wflw-v:{self.out} --split hard")
        return 0
