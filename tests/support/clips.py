"""Clips made on the spot: drawn faces that move over a plain ground, written with PyAV."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import cast

import av
import cv2
import numpy as np
from numpy.typing import NDArray

from ldeq.data import open_faces

SIZE = 256


@cache
def drawn(seed: int) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """A drawn face seen from the front and its 98 points, `(256, 256, 3)` and `(98, 2)`."""
    faces = open_faces(f"synthetic:24#seed={seed},size={SIZE}", "test")
    for i in range(len(faces)):
        if not any(faces.record(i).attributes.values()):
            return faces.read(i), faces.record(i).points
    raise AssertionError("no plain face among 24")


def tight(points: NDArray[np.float32]) -> tuple[float, float, float, float]:
    """Box of what the shipped model's 68 landmarks span: the 98 ones without the ends of the jaw line differ little."""
    (x1, y1), (x2, y2) = points.min(0).tolist(), points.max(0).tolist()
    return x1, y1, x2, y2


def shifted(image: NDArray[np.uint8], dx: float, dy: float, noise: float = 0.0, seed: int = 0) -> NDArray[np.uint8]:
    """The picture moved, its edge continued, with sensor noise of a deviation in grey levels."""
    matrix = np.array([[1.0, 0.0, dx], [0.0, 1.0, dy]])
    moved = cv2.warpAffine(image, matrix, image.shape[1::-1], borderMode=cv2.BORDER_REFLECT).astype(np.float64)
    moved += np.random.default_rng(seed).normal(0, noise, image.shape) if noise else 0
    return np.clip(moved, 0, 255).astype(np.uint8)


def moving(seed: int, count: int, noise: float = 3.0) -> Iterator[NDArray[np.uint8]]:
    """A face on a slow circle of 8 pixels."""
    image, _ = drawn(seed)
    for t in range(count):
        yield shifted(image, 8 * np.cos(t / 9) - 8, 8 * np.sin(t / 9), noise, t)


def pattern(width: int, height: int, t: int = 0) -> NDArray[np.uint8]:
    """Smooth colours, red to the right and green down, blue in time: codecs keep it within a few levels."""
    x, y = np.meshgrid(np.linspace(20, 220, width), np.linspace(20, 220, height))
    return np.stack((x, y, np.full_like(x, 40 + 6 * t)), axis=-1).astype(np.uint8)


def write_clip(
    path: Path,
    frames: Sequence[NDArray[np.uint8]],
    times: Sequence[float] | None = None,
    codec: str = "libx264",
    sound: str | None = None,
    rotation: int = 0,
    options: dict[str, str] | None = None,
) -> Path:
    """A clip of 25 frames a second, or of the given times, with a tone if `sound` names a codec."""
    with av.open(str(path), "w", options=options or {}) as container:
        stream = cast("av.VideoStream", container.add_stream(codec, rate=25))
        stream.height, stream.width = frames[0].shape[:2]
        odd = stream.height % 2 or stream.width % 2
        stream.pix_fmt = "yuv444p" if odd and codec == "libx264" else "yuvj420p" if codec == "mjpeg" else "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        if rotation:
            stream.set_display_rotation(rotation)
        tone = None if sound is None else cast("av.AudioStream", container.add_stream(sound, rate=44_100, layout="mono"))
        for i, image in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24").reformat(format=stream.pix_fmt)
            frame.pts = round(1000 * (i / 25 if times is None else times[i]))
            frame.time_base = stream.codec_context.time_base
            container.mux(stream.encode(frame))
        if tone is not None:
            seconds = len(frames) / 25 if times is None else times[-1]
            samples = (8000 * np.sin(np.arange(int(44_100 * seconds)) * 0.06)).astype(np.int16)
            sent = 0
            size = tone.codec_context.frame_size or 1024
            for start in range(0, len(samples), size):
                part = av.AudioFrame.from_ndarray(samples[None, start : start + size], format="s16", layout="mono")
                part.sample_rate, part.pts = 44_100, sent
                sent += part.samples
                for piece in av.AudioResampler(tone.format, tone.layout, 44_100).resample(part):
                    container.mux(tone.encode(piece))
            container.mux(tone.encode(None))
        container.mux(stream.encode(None))
    return path


def read_clip(path: Path) -> list[tuple[float, NDArray[np.uint8]]]:
    """Times and frames, with PyAV alone."""
    with av.open(str(path)) as container:
        return [(f.time or 0.0, cast("NDArray[np.uint8]", f.to_ndarray(format="rgb24"))) for f in container.decode(video=0)]
