"""``ldeq video`` and ``ldeq webcam``."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import cv2
import numpy as np
import tyro
from numpy.typing import NDArray

from ..engine.console import Console
from ..engine.interruption import StopRequest
from ..engine.settings import SettingsError
from ..landmarker import Landmarker
from ..video.drawing import Comparison, draw_faces
from ..video.filters import DEFAULT, FILTERS, make_filter
from ..video.landmark_files import CsvLandmarks, JsonLandmarks, LandmarkWriter
from ..video.reading import VideoError, VideoFrame, VideoReader
from ..video.stream import Stream
from ..video.tracking import Stopwatch, TrackingSettings
from ..video.writing import VideoWriter
from .predict import parse_box

STAGES = ("decode", "detect", "crop", "model", "filter", "draw", "write")


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
        if self.iters < 1:
            raise SettingsError(f"--iters must be >= 1, got {self.iters}")
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
        solve = f"RwR, {self.iters} evaluation{'s' * (self.iters > 1)}" if self.rwr else "each frame alone"
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
        if self.out and self.out.resolve() == self.video.resolve():
            raise SettingsError(f"-o {self.out} is the video itself; choose another name")
        console = Console()
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
            size = (comparison.width, comparison.height) if comparison else (reader.width, reader.height)
            sink = stack.enter_context(_Sink(self.json, self.csv, landmarker, {"source": str(self.video), "fps": rate}))
            if self.out:
                sink.video = VideoWriter(self.out, size[0], size[1], rate, self.video, reader.start)
            stop = stack.enter_context(StopRequest(lambda: console.say("stopping after this frame; Ctrl-C again ends at once")))
            run = _Run(streams, sink, comparison, console)
            with console.counting(str(self.video.name), reader.count or 0) as progress:
                for frame in run.decoded(iter(reader)):
                    run.step(frame)
                    progress(run.frames, reader.count or run.frames)
                    if stop.noted:
                        break
            sink.complete = not stop.noted
            for path in sink.close():
                console.say(f"wrote {path}")
            run.report()
            if stop.noted:
                console.warn(f"stopped after {run.frames} frames; what was computed is saved")
            if reader.problem:
                console.warn(f"{reader.problem}; what could be read was used")
            if not run.found:
                console.warn("no face was found; give the first one's box with --box x1,y1,x2,y2, or try --detector yunet:FILE")
            return 130 if stop.noted else 0


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
            sink = stack.enter_context(_Sink(self.json, self.csv, landmarker, {"source": f"camera {self.camera}", "fps": rate}))
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


class _Sink:
    """Everything that a run writes; whole after `close`, partial after an error."""

    def __init__(self, json: Path | None, csv: Path | None, landmarker: Landmarker, facts: dict[str, Any]) -> None:
        self.video: VideoWriter | None = None
        self.tables: list[LandmarkWriter] = []
        if json:
            known = {"model": landmarker.pretrained.name, "layout": landmarker.layout.name}
            self.tables.append(JsonLandmarks(json, {**known, **facts}))
        if csv:
            self.tables.append(CsvLandmarks(csv, landmarker.layout))
        self.complete = True

    def __enter__(self) -> _Sink:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.complete &= kind is None
        self.close()

    def close(self) -> list[Path]:
        """Ends every file; returns where they are."""
        paths = [] if self.video is None else [self.video.close(self.complete)]
        for table in self.tables:
            table.close(self.complete)
            paths.append(table.path)
        return paths


class _Run:
    """The way of a frame through the streams, the drawing and the files, with the time of each stage."""

    def __init__(self, streams: list[Stream], sink: _Sink, comparison: Comparison | None, console: Console) -> None:
        self.streams, self.sink, self.comparison, self.console = streams, sink, comparison, console
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
        for face in faces:
            if face.reset and (face.reset != "start" or self.frames):
                self.console.say(f"frame {frame.index}, {frame.time:.2f} s: face {face.id} starts anew: {face.reset}")
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

    def report(self) -> None:
        """Frames a second, and the milliseconds of each stage."""
        tracker = self.streams[0].tracker.watch.seconds
        seconds = {**self.watch.seconds, **tracker}
        total = sum(seconds.values())
        if not self.frames or not total:
            return
        stages = ", ".join(f"{s} {1e3 * seconds[s] / self.frames:.1f}" for s in STAGES if s in seconds)
        model = seconds.get("model", 0.0)
        line = f"{self.frames} frames, {self.found} with a face; {self.frames / total:.1f} frames/s"
        if model:
            line += f", {self.frames / model:.1f} by the model alone"
        self.console.say(f"{line}. Milliseconds a frame: {stages}")
        if self.comparison is not None:
            left, right = self.comparison.flicker
            self.console.say(
                f"flicker {left:.3f} % of the face's size each frame alone, {right:.3f} % so (without a ground truth)"
            )
