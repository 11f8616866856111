"""``ldeq score``."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from ..engine.settings import SettingsError
from ..files import user_path, write_atomically
from ..inputs import checked_rate
from ..video.reading import VideoReader
from ..video.scoring import score_track, table, write_page
from ..video.track_files import Track, read_track
from .arguments.score import ScoreArguments
from .outputs import Outputs

# If neither a file, a video nor --fps says it.
USUAL_RATE = 25.0


class Score(ScoreArguments):
    def run(self) -> int:
        if not self.tracks:
            raise SettingsError("nothing to score: name a file of landmarks")
        if self.fps is not None:
            checked_rate(self.fps, "--fps")
        if self.fractions and self.video is None:
            raise SettingsError("--fractions needs the size of the frames: add --video FILE")
        self._check_outputs()
        rate, size = self._video()
        given = {self._name(path): read_track(path, self.face, size if self.fractions else None) for path in self.tracks}
        truth, raw = (None if path is None else read_track(path, None, None) for path in (self.truth, self.raw))
        fps = self.fps or rate or next((t.fps for t in given.values() if t.fps), None) or USUAL_RATE
        scores = {name: score_track(track, fps, truth, raw) for name, track in given.items()}
        protocol = self._protocol(given, fps)
        print(table(scores, protocol), end="")
        if self.json:
            plain = {name: {k: round(v, 6) if np.isfinite(v) else None for k, v in row.items()} for name, row in scores.items()}
            write_atomically(self.json, json.dumps({"protocol": protocol, "tracks": plain}, indent=1) + "\n")
            print(f"wrote {self.json}")
        if self.report:
            print(f"wrote {write_page(user_path(self.report), given, scores, protocol, fps, truth)}")
        return 0

    def _check_outputs(self) -> None:
        if self.report and self.report.suffix.lower() not in (".html", ".htm"):
            raise SettingsError(f"--report {self.report} must end in .html")
        outputs = Outputs()
        for path in (*self.tracks, self.video, self.truth, self.raw):
            if path is not None:
                outputs.protect(path, f"{path}, which is read")
        for option, target in (("--report", self.report), ("--json", self.json)):
            if target is not None:
                outputs.file(option, target)

    def _name(self, path: Path) -> str:
        """The file's own name, or the path where two files share it."""
        alone = [other.name for other in self.tracks].count(path.name) == 1
        return (path.name if alone else str(path)).replace("|", "/")

    def _video(self) -> tuple[float | None, tuple[int, int] | None]:
        if self.video is None:
            return None, None
        with VideoReader(self.video) as reader:
            return float(reader.rate), (reader.width, reader.height)

    def _protocol(self, tracks: dict[str, Track], fps: float) -> str:
        layouts = sorted({track.layout.name for track in tracks.values()})
        frames = max(len(track.points) for track in tracks.values())
        against = f"truth {self.truth.name}" if self.truth else "no truth"
        behind = f", raw track {self.raw.name}" if self.raw else ""
        where = self.video.name if self.video else "no video given"
        return (
            f"{where}, {frames} frames at {fps:g} a second, {', '.join(layouts)}; {against}{behind}; stretches with the face, "
            "weighted by frames; jitter in percent of sqrt(w h), NMF and NAD per sqrt(w h) / 256"
        )
