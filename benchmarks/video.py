"""Frames a second of a video, with the time of each stage apart: decode, crop, model, filter, draw, encode."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from ldeq.data import crop_box, get_layout, open_faces, warp
from ldeq.face import Face
from ldeq.models import LDEQ
from ldeq.video.drawing import draw_faces
from ldeq.video.filters import DEFAULT, make_filter
from ldeq.video.reading import VideoReader
from ldeq.video.tracking import Stopwatch, Tracker, TrackingSettings
from ldeq.video.writing import VideoWriter

STAGES = ("decode", "crop", "model", "filter", "draw", "encode")

PIPELINES = {
    "each frame alone": TrackingSettings(rwr=False),
    "RwR, 1 view": TrackingSettings(register=True, check_every=0),
    "RwR, 4 views": TrackingSettings(views=4, register=True, check_every=0),
}

RATE = 25

WARM_UP = 2


def make_clip(path: Path, frames: int, size: tuple[int, int]) -> NDArray[np.float64]:
    """Writes a drawn face that moves on a slow circle; returns its tight box in every frame, `(frames, 4)` in pixels."""
    width, height = size
    side = 2 * height // 3
    faces = open_faces(f"synthetic:1#seed=3,size={side}", "test")
    face, points = faces.read(0), faces.record(0).points
    low, high = points.min(0), points.max(0)
    boxes = []
    with VideoWriter(path, width, height, RATE) as video:
        for t in range(frames):
            x = (width - side) / 2 + side / 10 * np.cos(2 * np.pi * t / 50)
            y = (height - side) / 2 + side / 10 * np.sin(2 * np.pi * t / 50)
            place = np.array([[1.0, 0.0, x], [0.0, 1.0, y]])
            noise = np.random.default_rng(t).normal(0, 3, (height, width, 3))
            picture = warp(face, place, max(size))[:height, :width]
            video.write(np.clip(picture + noise, 0, 255).astype(np.uint8), t / RATE)
            boxes.append([low[0] + x, low[1] + y, high[0] + x, high[1] + y])
    return np.array(boxes)


def stages(model: LDEQ, settings: TrackingSettings, clip: Path, boxes: NDArray[np.float64]) -> dict[str, float]:
    """Frames a second of all stages and of the model alone, evaluations of the cell and milliseconds of each stage a frame.

    The boxes are given, so that weights that were never trained do the same work as trained ones, and no detector and no check
    runs. The first calls of the model are not counted: they allocate, and choose algorithms.
    """
    layout = get_layout(model.config.landmarks)
    smooth = make_filter(DEFAULT, layout)
    watch = Stopwatch()
    count = evaluations = 0
    with tempfile.TemporaryDirectory() as folder, VideoReader(clip) as reader:
        out = VideoWriter(Path(folder) / "out.mp4", reader.width, reader.height, reader.rate)
        with out:
            tracker = Tracker(model, settings=settings)
            state = tracker.start()
            if settings.rwr:
                # Weights that were never trained show no face, whose state would be kept: RwR starts from this one then.
                state.z, state.frames = model.initial_state(settings.views), 1
                state.z_square = crop_box("box", box=boxes[0], scale=tracker.crop_scale)
            frames = iter(reader)
            while True:
                begin = time.perf_counter()
                frame = next(frames, None)
                if frame is None:
                    break
                begin = watch.add("decode", begin)
                if not count:
                    for _ in range(WARM_UP):
                        tracker.step([frame.image], [state], boxes[:1])
                    tracker.watch = Stopwatch()
                (estimate,) = tracker.step([frame.image], [state], boxes[count : count + 1])
                evaluations += estimate.evaluations
                begin = time.perf_counter()
                points = smooth.step(estimate.points, estimate.std, 1 / RATE).astype(np.float32)
                begin = watch.add("filter", begin)
                picture = draw_faces(frame.image, [Face.of(points, estimate.std, layout)])
                begin = watch.add("draw", begin)
                out.write(picture, frame.time)
                watch.add("encode", begin)
                count += 1
            begin = time.perf_counter()
        watch.add("encode", begin)
    seconds = {**watch.seconds, **tracker.watch.seconds}
    return {
        "frames/s": count / sum(seconds.values()),
        "of the model alone": count / seconds["model"],
        "evaluations": evaluations / count,
        **{f"{stage} ms": 1e3 * seconds[stage] / count for stage in STAGES},
    }


def speed(
    model: LDEQ, frames: int, size: tuple[int, int] = (1280, 720), *, tell: Callable[[str], None] = print
) -> dict[str, dict[str, float]]:
    """`stages` of every pipeline on one clip."""
    found: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        clip = Path(folder) / "clip.mp4"
        boxes = make_clip(clip, frames, size)
        for name, settings in PIPELINES.items():
            found[name] = stages(model, settings, clip, boxes)
            tell(f"{name}: {', '.join(f'{key} {value:.3g}' for key, value in found[name].items())}")
    return found
