"""What ``ldeq video`` and ``ldeq webcam`` share: settings of the pipeline, and a frame's way from decoding to the files."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from ..confidence import check_min_score
from ..engine.console import PLAIN_INTERVAL, Console
from ..engine.settings import SettingsError
from ..engine.weights import find_weights
from ..files import user_path
from ..landmarker import Landmarker
from ..threads import ThreadChoice, ThreadTuner
from ..video.drawing import Comparison, draw_faces
from ..video.filters import DEFAULT, FILTERS, filter_from_text
from ..video.landmark_files import CsvLandmarks, JsonLandmarks, LandmarkWriter, landmarks_partial
from ..video.reading import VideoError, VideoFrame
from ..video.stream import SAME_FACE, Stream, overlap
from ..video.tracking import Stopwatch, TrackingSettings
from ..video.writing import VideoWriter, checked_path, partial_path
from .arguments.following import PipelineArguments
from .min_score import no_score
from .outputs import Outputs

STAGES = ("decode", "detect", "crop", "model", "filter", "each frame alone", "draw", "write")


class Pipeline(PipelineArguments):
    def load(self) -> Landmarker:
        """
        Raises:
            CheckpointError: for the model, and `SettingsError` for the device or the engine.
        """
        check_min_score(self.min_score, "--min-score")
        found = Landmarker.load(self.model, self.device, threads="auto", engine=self.engine)
        if told := no_score(found.pretrained, self.min_score):
            print(f"note: {told}", file=sys.stderr)
        return found

    def filter_name(self, landmarker: Landmarker) -> str | None:
        """What `smooth` stands for."""
        name = {"auto": DEFAULT, "none": None}.get(self.smooth, self.smooth)
        if name is None:
            return None
        try:
            causal = filter_from_text(name, landmarker.layout).causal
        except ValueError as error:
            raise SettingsError(f"--smooth: {error}") from error
        if not causal:
            raise SettingsError(f"--smooth {name} looks at later frames; choose one of {', '.join(causal_filters())}")
        return name

    def stream(self, landmarker: Landmarker, rate: float, box: list[list[float]] | None, plain: bool = False) -> Stream:
        """The stream; with `plain`, each frame alone and without a filter, everything else the same."""
        least = {"iters": (self.iters, 1), "detect-every": (self.detect_every, 0), "max-faces": (self.max_faces, 1)}
        for name, (value, low) in least.items():
            if value is not None and value < low:
                raise SettingsError(f"--{name} must be >= {low}, got {value}")
        return landmarker.stream(
            tracking=self._tracking(plain),
            smooth=None if plain else self.filter_name(landmarker),
            boxes=box,
            detector=self.detector,
            detect_every=self.detect_every,
            max_faces=self.max_faces,
            min_score=self.min_score,
            fps=rate,
        )

    def _tracking(self, plain: bool) -> TrackingSettings:
        if plain:
            return TrackingSettings(rwr=False)
        if self.released:
            if not self.rwr or self.iters != Pipeline.iters or self.views not in (1, Pipeline.views):
                raise SettingsError("--released sets how RwR runs; leave out --no-rwr, --iters and --views")
            return TrackingSettings.released()
        try:
            return TrackingSettings(rwr=self.rwr, iters=self.iters, views=self.views, register=True)
        except ValueError as error:
            raise SettingsError(f"--{error}") from error

    def describe(self, landmarker: Landmarker) -> str:
        """In a few words."""
        views = f"{self.views} views" if self.views > 1 else ""
        evaluations = f"{self.iters} evaluation{'s' * (self.iters > 1)}"
        spent = " x ".join(filter(None, (views, evaluations if self.rwr else "")))
        solve = ", ".join(filter(None, ("RwR" if self.rwr else "each frame alone", spent)))
        name = self.filter_name(landmarker)
        solve = "RwR as released" if self.released else solve
        return solve if name is None else f"{solve} + {name}"


def causal_filters() -> list[str]:
    return [name for name, (kind, _) in FILTERS.items() if kind.causal]


def check_places(outputs: dict[str, Path | None], pipeline: Pipeline, inputs: Sequence[Path] = ()) -> None:
    """Refuses to write one file over another, or where nothing can be written, before anything is computed.

    Args:
        outputs: by the option that names them.
        pipeline: its model and its detector may be files.
        inputs: the files of the video.

    Raises:
        SettingsError: if an output, or the name under which it grows, is a file that is read or another output, or if it
            cannot be written.
        VideoError: if ``-o`` names no video.
    """
    guard = Outputs()
    for path in inputs:
        guard.protect(path, "the video itself")
    guard.protect(find_weights(pipeline.model), "the file of the model")
    if pipeline.detector.startswith("yunet:"):
        guard.protect(pipeline.detector.removeprefix("yunet:"), "the file of the detector")
    for option, output in outputs.items():
        if output is not None:
            target = checked_path(output) if option == "-o" else user_path(output)
            draws = option == "-o"
            guard.file(option, output, partial_path(target) if draws else landmarks_partial(target), media=draws)


@contextmanager
def progress_of(console: Console, name: str, total: int | None) -> Iterator[Callable[[int], None]]:
    """A bar with frames a second, without a terminal a line now and then; yields the function that takes the frames done."""
    begin = last = time.monotonic()
    if console.rich.is_terminal:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[speed]:.1f} frames/s"),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=console.rich, transient=True) as bar:
            task = bar.add_task(name, total=total, speed=0.0)
            yield lambda done: bar.update(task, completed=done, speed=done / max(time.monotonic() - begin, 1e-3))
        return

    def line(done: int) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= PLAIN_INTERVAL:
            last = now
            console.say(f"frame {done}{f' of {total}' if total else ''}, {done / (now - begin):.1f} frames/s")

    yield line


def counted(frames: int) -> str:
    return f"{frames} frame{'s' * (frames != 1)}"


class Sink:
    """Everything that a run writes; whole after `close`, partial after an error."""

    def __init__(
        self, json: Path | None, csv: Path | None, landmarker: Landmarker, facts: dict[str, Any], console: Console
    ) -> None:
        self.console = console
        self.video: VideoWriter | None = None
        self.tables: list[LandmarkWriter] = []
        if json:
            known = {"model": landmarker.pretrained.name, "layout": landmarker.layout.name}
            self.tables.append(JsonLandmarks(json, {**known, **facts}))
        if csv:
            self.tables.append(CsvLandmarks(csv, landmarker.layout))
        self.complete = True
        self.frames = 0

    def __enter__(self) -> Sink:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.close()
            return
        self.complete = False
        # What went wrong first is told; that a file cannot be ended then follows from it.
        for path in self._end()[0]:
            if path.exists() and self.frames:
                self.console.say(f"what was computed is in {path}")

    def close(self) -> list[Path]:
        """Ends every file, the others, too, where one of them cannot be ended.

        Returns:
            Where they are.

        Raises:
            VideoError: the first that happened.
        """
        paths, failures = self._end()
        if failures:
            raise failures[0]
        return paths

    def _end(self) -> tuple[list[Path], list[VideoError]]:
        paths, failures = [], []
        parts: list[LandmarkWriter | VideoWriter] = [*self.tables]
        if self.video is not None:
            parts.append(self.video)
        for part in parts:
            try:
                paths.append(part.close(self.complete))
            except VideoError as error:
                failures.append(error)
        return paths, failures


class Run:
    """The way of a frame through the streams, the drawing and the files, with the time of each stage."""

    def __init__(
        self,
        streams: list[Stream],
        sink: Sink,
        comparison: Comparison | None,
        console: Console,
        box: list[list[float]] | None = None,
        threads: ThreadChoice | None = None,
    ) -> None:
        self.streams, self.sink, self.comparison, self.console, self.box = streams, sink, comparison, console, box
        self.watch = Stopwatch()
        self.tuner = None if threads is None else ThreadTuner(threads)
        self.frames = self.found = self.lost = 0

    def decoded(self, frames: Iterator[VideoFrame]) -> Iterator[VideoFrame]:
        """The frames, timed."""
        while True:
            begin = time.perf_counter()
            frame = next(frames, None)
            self.watch.add("decode", begin)
            if frame is None:
                return
            yield frame

    def step(self, frame: VideoFrame) -> None:
        begin = time.perf_counter()
        faces, *others = [stream(frame.image, frame.time) for stream in self.streams]
        if self.tuner is not None:
            self.tuner.add(time.perf_counter() - begin)
        self.found += bool(faces)
        begin = time.perf_counter()
        if self.box is not None and not self.frames:
            x1, y1, x2, y2 = self.box[0]
            if not any(overlap(face.box, (x1, y1, x2, y2)) > SAME_FACE for face in faces):
                self.console.warn("there is no face in the --box; it must be tight around the landmarks, in the first frame")
        for face in faces:
            if face.reset and (face.reset != "start" or self.frames):
                what = "is found" if face.reset == "start" else f"starts anew: {face.reset}"
                self.console.say(f"frame {frame.index}, {frame.time:.2f} s: face {face.id} {what}")
        if self.sink.video is not None:
            if self.comparison is not None:
                picture = self.comparison.draw(frame.image, others[0], faces, frame.time)
            else:
                picture = draw_faces(frame.image, faces)
            begin = self.watch.add("draw", begin)
            self.sink.video.write(picture, frame.time)
        for table in self.sink.tables:
            table.write(frame.index, frame.time, faces)
        self.watch.add("write", begin)
        self.frames += 1
        self.sink.frames = self.frames

    def report(self) -> None:
        """Frames a second, and the milliseconds of each stage."""
        seconds = {**self.watch.seconds, **self.streams[0].tracker.watch.seconds}
        if others := sum(sum(stream.tracker.watch.seconds.values()) for stream in self.streams[1:]):
            seconds["each frame alone"] = others
        total = sum(seconds.values())
        if not self.frames or not total:
            return
        stages = ", ".join(f"{s} {1e3 * seconds[s] / self.frames:.1f}" for s in STAGES if s in seconds)
        model = seconds.get("model", 0.0)
        line = f"{counted(self.frames)}, {self.found} with a face; {self.frames / total:.1f} frames/s"
        if model:
            line += f", {self.frames / model:.1f} by the model alone"
        self.console.say(f"{line}. Milliseconds a frame: {stages}")
        if self.comparison is not None:
            left, right = self.comparison.flicker
            self.console.say(
                f"flicker {left:.3f} % of the face's size each frame alone, {right:.3f} % so (without a ground truth)"
            )
