"""``ldeq video`` and ``ldeq webcam``."""

from __future__ import annotations

from contextlib import ExitStack
from fractions import Fraction
from pathlib import Path

import cv2

from ..engine.console import Console
from ..engine.interruption import StopRequest
from ..engine.settings import SettingsError
from ..video.camera import camera_frames, open_camera
from ..video.drawing import Comparison
from ..video.reading import VideoError, VideoReader
from ..video.sources import PictureSequence, camera_rate, open_video
from ..video.writing import VideoWriter
from .arguments.video import VideoArguments, WebcamArguments
from .following import Pipeline, Run, Sink, check_places, counted, progress_of
from .predict import parse_box

# How a shell tells that Ctrl-C ended a command.
INTERRUPTED = 130


class Video(VideoArguments):
    def run(self) -> int:
        if not (self.out or self.json or self.csv):
            raise SettingsError("nothing to write: give -o out.mp4, --json or --csv")
        if self.compare and not self.out:
            raise SettingsError("--compare draws a video: give -o out.mp4")
        reader, pipeline = open_video(self.video, self.fps), Pipeline(**vars(self.pipeline))
        console = Console()
        try:
            with reader:
                check_places({"-o": self.out, "--json": self.json, "--csv": self.csv}, pipeline, reader.files)
                return self._follow(reader, pipeline, console)
        except KeyboardInterrupt:
            console.warn("ended at once")  # the sink has said where the frames are, if there are some
            return INTERRUPTED

    def _follow(self, reader: VideoReader | PictureSequence, pipeline: Pipeline, console: Console) -> int:
        box = parse_box(self.box)
        landmarker = pipeline.load()
        with ExitStack() as stack:
            rate = float(reader.rate)
            console.say(
                f"{reader.shown}: {reader.width} x {reader.height}, {rate:.2f} frames/s; {landmarker.pretrained.name} on "
                f"{next(landmarker.model.parameters()).device}, {pipeline.describe(landmarker)}"
            )
            streams = [pipeline.stream(landmarker, rate, box)]
            comparison = None
            if self.compare:
                streams.append(pipeline.stream(landmarker, rate, box, plain=True))
                titles = ("each frame alone", pipeline.describe(landmarker))
                comparison = Comparison(reader.width, reader.height, landmarker.layout, titles)
            facts = {"source": reader.shown, "fps": rate}
            sink = stack.enter_context(Sink(self.json, self.csv, landmarker, facts, console))
            if self.out:
                width, height, aspect = reader.width, reader.height, reader.aspect
                if comparison is not None:
                    width, height, aspect = comparison.width, comparison.height, Fraction(1)
                sink.video = VideoWriter(self.out, width, height, reader.rate, reader.sound, reader.start, aspect)
            stop = stack.enter_context(StopRequest(lambda: console.say("stopping after this frame; Ctrl-C again ends at once")))
            run = Run(streams, sink, comparison, console, box, landmarker.threads)
            progress = stack.enter_context(progress_of(console, Path(reader.shown).name, reader.count))
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
                console.warn(f"stopped after {counted(run.frames)}; what was computed is saved")
            if reader.problem:
                console.warn(f"{reader.problem}; what could be read was used")
            if sink.video is not None and sink.video.problem:
                console.warn(sink.video.problem)
            if reader.has_audio and reader.sound is None and self.out:
                console.warn("the sound is left out: what comes over the network is read once; save it as a file for its sound")
            if not run.found:
                console.warn(
                    "no face was found; give the first one's box with --box x1,y1,x2,y2, or another --detector (ldeq doctor)"
                )
            return INTERRUPTED if stop.noted else 0


class Webcam(WebcamArguments):
    def run(self) -> int:
        if self.seconds is not None and not self.seconds > 0:
            raise SettingsError(f"--seconds must be > 0, got {self.seconds}")
        pipeline = Pipeline(**vars(self.pipeline))
        check_places({"-o": self.out, "--json": self.json, "--csv": self.csv}, pipeline)
        console = Console()
        capture = open_camera(self.camera)
        landmarker = pipeline.load()
        rate, word = camera_rate(capture.get(cv2.CAP_PROP_FPS))
        if word:
            console.warn(word)
        with ExitStack() as stack:
            stack.callback(capture.release)
            facts = {"source": f"camera {self.camera}", "fps": rate}
            sink = stack.enter_context(Sink(self.json, self.csv, landmarker, facts, console))
            stop = stack.enter_context(StopRequest(lambda: None))
            run = Run([pipeline.stream(landmarker, rate, None)], sink, None, console, threads=landmarker.threads)
            console.say(f"camera {self.camera}: {pipeline.describe(landmarker)}; Ctrl-C ends")
            for frame in run.decoded(camera_frames(capture)):
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
