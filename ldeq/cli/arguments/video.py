"""Arguments of ``ldeq video`` and ``ldeq webcam``."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from ._optional import OptionalNumber, OptionalPath, OptionalText
from .following import PipelineArguments


@dataclass
class VideoArguments:
    """Follow the faces of a video without flicker.

    Example: ldeq video in.mp4 -o out.mp4 --compare
    """

    video: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="VIDEO")]
    """A video file or address; or pictures: a folder, a pattern such as 'frames/*.png', or numbered ones, frames/%04d.png."""
    out: Annotated[OptionalPath, tyro.conf.arg(aliases=["-o"])] = None
    """Where the video with its landmarks goes: .mp4, .m4v, .mov or .mkv; the sound goes along."""
    json: OptionalPath = None
    """Where landmarks go as JSON: time, number, points, deviations, box, reset of each face in each frame."""
    csv: OptionalPath = None
    """The same as CSV, a row a face."""
    compare: bool = False
    """Draw each frame alone on the left, RwR and its filter on the right, an eye enlarged, flicker below."""
    fps: OptionalNumber = None
    """Frames a second of pictures, 25 if absent; a video has its own."""
    box: OptionalText = None
    """x1,y1,x2,y2 in pixels of the first frame, tight around the landmarks, instead of the detector."""
    pipeline: tyro.conf.OmitArgPrefixes[PipelineArguments] = field(default_factory=PipelineArguments)

    def run(self) -> int:
        from ..video import Video

        return Video(**vars(self)).run()


@dataclass
class WebcamArguments:
    """Follow the faces in front of a camera, and write what it sees.

    Example: ldeq webcam -o out.mp4 --seconds 20. Ctrl-C ends it, and the file is whole.
    """

    out: Annotated[Path, tyro.conf.arg(aliases=["-o"])] = Path("webcam.mp4")
    """Where the video with its landmarks goes."""
    camera: int = 0
    """Number of the camera."""
    seconds: OptionalNumber = None
    """How long; until Ctrl-C if absent."""
    json: OptionalPath = None
    """Where landmarks go as JSON."""
    csv: OptionalPath = None
    """The same as CSV."""
    pipeline: tyro.conf.OmitArgPrefixes[PipelineArguments] = field(default_factory=PipelineArguments)

    def run(self) -> int:
        from ..video import Webcam

        return Webcam(**vars(self)).run()
