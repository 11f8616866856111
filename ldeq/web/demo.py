"""The drawn faces of the page: clips of faces that turn, speak and blink, as numbered JPEG pictures."""

from __future__ import annotations

import json
from collections.abc import Iterator

import cv2
import numpy as np
from numpy.typing import NDArray

from ..data import open_faces
from ..data.clips import Clip

FACES = "synthetic:4#seed=4,size=384"
CHOSEN = (3, 1)
"""A face with glasses, in bad light; one with a fringe."""

FRAMES = 90
QUALITY = 90


def drawn_clips() -> Iterator[Clip]:
    """The clips of the page, frame by frame the same on every machine."""
    faces = open_faces(FACES, "test")
    for index in CHOSEN:
        yield Clip(faces.read(index), faces.record(index).points, faces.layout, "hard", [0, index], None, FRAMES)


def demo_files() -> dict[str, bytes]:
    """Names of files to their content: ``0/000.jpg`` and so on, and ``demo.json`` with the rates and the first boxes."""
    files: dict[str, bytes] = {}
    clips = []
    for number, clip in enumerate(drawn_clips()):
        names = [f"{number}/{t:03d}.jpg" for t in range(len(clip))]
        files |= {name: _jpeg(frame) for name, frame in zip(names, clip.frames(), strict=True)}
        clips.append({"fps": clip.settings.fps, "frames": names, "box": [round(float(v), 2) for v in clip.boxes[0]]})
    files["demo.json"] = (json.dumps({"clips": clips}) + "\n").encode()
    return files


def _jpeg(frame: NDArray[np.uint8]) -> bytes:
    _, data = cv2.imencode(".jpg", cv2.cvtColor(frame, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
    return data.tobytes()
