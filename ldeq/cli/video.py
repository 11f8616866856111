"""``ldeq video`` and ``ldeq webcam``."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any

import cv2
import numpy as np
import tyro
from numpy.typing import NDArray
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from ..engine.console import PLAIN_INTERVAL, Console
from ..engine.interruption import StopRequest
from ..engine.settings import SettingsError
from ..landmarker import Landmarker
from ..video.drawing import Comparison, draw_faces
from ..video.filters import DEFAULT, FILTERS, make_filter
from ..video.landmark_files import CsvLandmarks, JsonLandmarks, LandmarkWriter, landmarks_partial
from ..video.reading import VideoError, VideoFrame, VideoReader
from ..video.stream import SAME_FACE, Stream, overlap
from ..video.tracking import Stopwatch, TrackingSettings
from ..video.writing import VideoWriter, checked_path, partial_path
from .predict import parse_box

STAGES = ("decode", "detect", "crop", "model", "filter", "each frame alone", "draw", "write")

# How a shell tells that Ctrl-C ended a command.
INTERRUPTED = 130


@dataclass
class Pipeline:
    """How faces are followed and smoothed."""

    rwr: bool = True
    """Recurrence without recurrence: each frame starts from the last one's state. Off solves each frame alone."""
    iters: int = 1
    """Cell evaluations a frame and view with RwR."""
    views: int = 4
    """Ways in which each face is looked at, 1, 2 or 4: 4 flicker least, and cost as much as each frame alone."""
    smooth: str = "auto"
    """auto, none, or a causal filter: ema, one-euro, savgol-causal, face-frame."""
    detector: str = "haar"
    """haar, or yunet:FILE with a YuNet ONNX file."""
    detect_every: int = 0
    """Frames between two searches for faces that came in; 0 searches only where there is no face."""
    max_faces: int | None = None
    """The largest so many faces are followed; all of them if absent."""
    model: str = "small-68"
    """A shipped model or a ``.safetensors`` file."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1."""

    def filter_name(self, landmarker: Landmarker) -> str | None:
        """What `smooth` stands for."""
        name = {"auto": DEFAULT, "none": None}.get(self.smooth, self.smooth)
        if name is None:
            return None
        try:
            causal = make_filter(name, landmarker.layout).causal
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
            fps=rate,
        )

    def _tracking(self, plain: bool) -> TrackingSettings:
        if plain:
            return TrackingSettings(rwr=False)
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
        return solve if name is None else f"{solve} + {name}"


def causal_filters() -> list[str]:
    return [name for name, (kind, _) in FILTERS.items() if kind.causal]


@dataclass
class Video:
    """Follow the faces of a video without flicker.

    Example: ldeq video in.mp4 -o out.mp4 --compare
    """

    video: tyro.conf.Positional[Path]
    """A video, whatever PyAV reads."""
    out: Annotated[Path | None, tyro.conf.arg(aliases=["-o"])] = None
    """Where the video with its landmarks goes: .mp4, .m4v, .mov or .mkv; the sound goes along."""
    json: Path | None = None
    """Where landmarks go as JSON: time, number, points, deviations, box, reset of each face in each frame."""
    csv: Path | None = None
    """The same as CSV, a row a face."""
    compare: bool = False
    """Draw each frame alone on the left, RwR and its filter on the right, an eye enlarged, flicker below."""
    box: str | None = None
    """x1,y1,x2,y2 in pixels of the first frame, tight around the landmarks, instead of the detector."""
    pipeline: tyro.conf.OmitArgPrefixes[Pipeline] = field(default_factory=Pipeline)

    def run(self) -> int:
        if not (self.out or self.json or self.csv):
            raise SettingsError("nothing to write: give -o out.mp4, --json or --csv")
        if self.compare and not self.out:
            raise SettingsError("--compare draws a video: give -o out.mp4")
        check_places({"-o": self.out, "--json": self.json, "--csv": self.csv}, self.video)
        console = Console()
        try:
            return self._follow(console)
        except KeyboardInterrupt:
            console.warn("ended at once; what was computed is saved")
            return INTERRUPTED

    def _follow(self, console: Console) -> int:
        box = parse_box(self.box)
        landmarker = Landmarker.load(self.pipeline.model, self.pipeline.device)
        with ExitStack() as stack:
            reader = stack.enter_context(VideoReader(self.video))
            rate = float(reader.rate)
            console.say(
                f"{self.video}: {reader.width} x {reader.height}, {rate:.2f} frames/s; {landmarker.pretrained.name} on "
                f"{next(landmarker.model.parameters()).device}, {self.pipeline.describe(landmarker)}"
            )
            streams = [self.pipeline.stream(landmarker, rate, box)]
            comparison = None
            if self.compare:
                streams.append(self.pipeline.stream(landmarker, rate, box, plain=True))
                titles = ("each frame alone", self.pipeline.describe(landmarker))
                comparison = Comparison(reader.width, reader.height, landmarker.layout, titles)
            facts = {"source": str(self.video), "fps": rate}
            sink = stack.enter_context(_Sink(self.json, self.csv, landmarker, facts, console))
            if self.out:
                width, height, aspect = reader.width, reader.height, reader.aspect
                if comparison is not None:
                    width, height, aspect = comparison.width, comparison.height, Fraction(1)
                sink.video = VideoWriter(self.out, width, height, reader.rate, self.video, reader.start, aspect)
            stop = stack.enter_context(StopRequest(lambda: console.say("stopping after this frame; Ctrl-C again ends at once")))
            run = _Run(streams, sink, comparison, console, box)
            progress = stack.enter_context(_progress(console, self.video.name, reader.count))
            for frame in run.decoded(iter(reader)):
                run.step(frame)
                progress(run.frames)
                if stop.noted:
                    break
            sink.complete = not stop.noted
            for path in sink.close():
                console.say(f"wrote {path}")
            run.report()
            if stop.noted:
                console.warn(f"stopped after {_counted(run.frames)}; what was computed is saved")
            if reader.problem:
                console.warn(f"{reader.problem}; what could be read was used")
            if sink.video is not None and sink.video.problem:
                console.warn(sink.video.problem)
            if not run.found:
                console.warn("no face was found; give the first one's box with --box x1,y1,x2,y2, or try --detector yunet:FILE")
            return INTERRUPTED if stop.noted else 0


@dataclass
class Webcam:
    """Follow the faces in front of a camera, and write what it sees.

    Example: ldeq webcam -o out.mp4 --seconds 20. Ctrl-C ends it, and the file is whole.
    """

    out: Annotated[Path, tyro.conf.arg(aliases=["-o"])] = Path("webcam.mp4")
    """Where the video with its landmarks goes."""
    camera: int = 0
    """Number of the camera."""
    seconds: float | None = None
    """How long; until Ctrl-C if absent."""
    json: Path | None = None
    """Where landmarks go as JSON."""
    csv: Path | None = None
    """The same as CSV."""
    pipeline: tyro.conf.OmitArgPrefixes[Pipeline] = field(default_factory=Pipeline)

    def run(self) -> int:
        if self.seconds is not None and not self.seconds > 0:
            raise SettingsError(f"--seconds must be > 0, got {self.seconds}")
        check_places({"-o": self.out, "--json": self.json, "--csv": self.csv})
        console = Console()
        capture = cv2.VideoCapture(self.camera)
        if not capture.isOpened():
            raise VideoError(
                f"there is no camera {self.camera}, or another program holds it; try --camera 1, or: ldeq video FILE"
            )
        landmarker = Landmarker.load(self.pipeline.model, self.pipeline.device)
        rate = capture.get(cv2.CAP_PROP_FPS) or 30.0
        with ExitStack() as stack:
            stack.callback(capture.release)
            facts = {"source": f"camera {self.camera}", "fps": rate}
            sink = stack.enter_context(_Sink(self.json, self.csv, landmarker, facts, console))
            stop = stack.enter_context(StopRequest(lambda: None))
            run = _Run([self.pipeline.stream(landmarker, rate, None)], sink, None, console)
            console.say(f"camera {self.camera}: {self.pipeline.describe(landmarker)}; Ctrl-C ends")
            for frame in run.decoded(_camera_frames(capture)):
                if sink.video is None:
                    height, width = frame.image.shape[:2]
                    sink.video = VideoWriter(self.out, width, height, rate=rate)
                run.step(frame)
                if stop.noted or (self.seconds is not None and frame.time >= self.seconds):
                    break
            if not run.frames:
                raise VideoError(f"camera {self.camera} gives no pictures; is it covered, or held by another program?")
            for path in sink.close():
                console.say(f"wrote {path}")
            run.report()
        return 0


def _camera_frames(capture: cv2.VideoCapture) -> Iterator[VideoFrame]:
    begin, index = time.perf_counter(), 0
    while True:
        good, picture = capture.read()
        if not good:
            return
        image: NDArray[np.uint8] = np.asarray(cv2.cvtColor(picture, cv2.COLOR_BGR2RGB), np.uint8)
        yield VideoFrame(index, time.perf_counter() - begin, image)
        index += 1


def check_places(outputs: dict[str, Path | None], video: Path | None = None) -> None:
    """Refuses to write one file over another before anything is computed.

    Args:
        outputs: by the option that names them.
        video: what is read, or None.

    Raises:
        SettingsError: if an output, or the name under which it grows, is the video or another output.
        VideoError: if one cannot be written at all.
    """
    taken = {} if video is None else {os.path.realpath(video): "the video itself"}
    for option, path in outputs.items():
        if path is None:
            continue
        names = (checked_path(path), partial_path(path)) if option == "-o" else (path, landmarks_partial(path))
        for name in names:
            place = os.path.realpath(name)
            if place in taken:
                grows = "" if name == path else f" would grow as {name}, which"
                raise SettingsError(f"{option} {path}{grows} is {taken[place]}; choose another name")
            taken[place] = f"where {option} goes, too"


@contextmanager
def _progress(console: Console, name: str, total: int | None) -> Iterator[Callable[[int], None]]:
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


def _counted(frames: int) -> str:
    return f"{frames} frame{'s' * (frames != 1)}"


class _Sink:
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

    def __enter__(self) -> _Sink:
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


class _Run:
    """The way of a frame through the streams, the drawing and the files, with the time of each stage."""

    def __init__(
        self,
        streams: list[Stream],
        sink: _Sink,
        comparison: Comparison | None,
        console: Console,
        box: list[list[float]] | None = None,
    ) -> None:
        self.streams, self.sink, self.comparison, self.console, self.box = streams, sink, comparison, console, box
        self.watch = Stopwatch()
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
        faces, *others = [stream(frame.image, frame.time) for stream in self.streams]
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
        line = f"{_counted(self.frames)}, {self.found} with a face; {self.frames / total:.1f} frames/s"
        if model:
            line += f", {self.frames / model:.1f} by the model alone"
        self.console.say(f"{line}. Milliseconds a frame: {stages}")
        if self.comparison is not None:
            left, right = self.comparison.flicker
            self.console.say(
                f"flicker {left:.3f} % of the face's size each frame alone, {right:.3f} % so (without a ground truth)"
            )
