"""Scores a model on labelled videos: each frame alone, with recurrence without recurrence, and through smoothing filters."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .. import metrics
from ..brief import brief_repr
from ..data import DataError, Layout, VideoRecord, VideoSet
from ..errors import ArgumentError
from ..files import saved_bytes, write_atomically
from .filters import Filter, filter_track
from .tracking import FaceState, Tracker

Boxes = Literal["given", "tracked"]

COLUMNS: dict[str, str] = {
    "nme": "NME %",
    "nme_box": "NME % of sqrt(wh)",
    "nmf": "NMF",
    "nad1": "NAD(1)",
    "nad8": "NAD(8)",
    "lag": "lag, frames",
    "lag_mouth": "lag of the mouth, frames",
    "mouth": "mouth opening, % of sqrt(wh)",
    "eyes": "eye opening, % of sqrt(wh)",
}
"""Figure of `metrics.video_summary` -> its heading in a table."""


@dataclass(frozen=True)
class VideoTrack:
    """What a model answered on one video.

    Attributes:
        name: the video's id.
        fps: frames a second.
        predicted: `(T, K, 2)` float32, pixels of the frames.
        std: `(T, K)` float32, the model's own deviations in the same pixels.
        points: `(T, K, 2)` float32, the labels.
        lost: numbers of the frames in which the tracker lost the face; it was started again from the next given box.
        evaluations: mean number of cell evaluations a frame took.
    """

    name: str
    fps: float
    predicted: NDArray[np.float32]
    std: NDArray[np.float32]
    points: NDArray[np.float32]
    lost: tuple[int, ...] = ()
    evaluations: float = 0.0

    __repr__ = brief_repr

    def filtered(self, smooth: Filter) -> VideoTrack:
        """The same track through a filter."""
        points = filter_track(smooth, self.predicted, self.std, self.fps).astype(np.float32)
        return VideoTrack(self.name, self.fps, points, self.std, self.points, self.lost, self.evaluations)


@dataclass(frozen=True)
class VideoEvaluation:
    """The scores of one pipeline on a set of videos.

    Attributes:
        protocol: one line that says how the score was made.
        videos: id -> `metrics.video_summary` of it.
        lost: number of frames in which a face was lost.
        evaluations: mean number of cell evaluations a frame.
    """

    protocol: str
    videos: Mapping[str, Mapping[str, float]]
    lost: int
    evaluations: float

    @property
    def mean(self) -> dict[str, float]:
        """The plain mean over the videos; a lag that is not defined in a video is left out of its mean."""
        rows = list(self.videos.values())
        table = {name: np.array([row[name] for row in rows], np.float64) for name in COLUMNS}
        return {name: float(np.nanmean(v)) if np.isfinite(v).any() else float("nan") for name, v in table.items()}


@dataclass
class _Running:
    """A video under way."""

    record: VideoRecord
    frames: Iterator[NDArray[np.uint8]]
    boxes: NDArray[np.float64]
    state: FaceState
    points: list[NDArray[np.float32]] = field(default_factory=list)
    std: list[NDArray[np.float32]] = field(default_factory=list)
    lost: list[int] = field(default_factory=list)
    evaluations: int = 0


def track_videos(
    tracker: Tracker,
    videos: VideoSet,
    boxes: Boxes = "tracked",
    jitter: float = 0.0,
    seed: int = 0,
    batch: int = 8,
    progress: Callable[[int, int], None] | None = None,
) -> list[VideoTrack]:
    """Follows the labelled face of every video, `batch` videos at a time; a video that ends makes room for the next one.

    One frame of each running video is in memory. Results do not depend on `batch` beyond the rounding of batched arithmetic.

    Args:
        tracker: with the settings to score.
        boxes: ``"given"`` crops every frame by its own labelled box; ``"tracked"`` only the first, and again after a loss.
        jitter: standard deviation of Gaussian noise on the corners of the given boxes, as a part of their longer side.
        seed: of the jitter; each video has its own noise, whatever else is evaluated.
        progress: called with (frames done, all frames).

    Returns:
        One track a video, in the order of the set.

    Raises:
        DataError: for a video that cannot be read, or landmarks of another layout than the model's.
        ValueError: for a batch below 1 or a negative jitter.
    """
    if batch < 1 or not jitter >= 0:
        raise ArgumentError(f"batch must be at least 1 and jitter at least 0, got {batch} and {jitter}")
    if videos.layout.count != tracker.model.config.landmarks:
        raise DataError(f"the model predicts {tracker.model.config.landmarks} landmarks and {videos.name} has "
                        f"{videos.layout.count}; choose videos or a model of the other layout.")  # fmt: skip
    total = sum(len(record) for record in videos.records)
    waiting = list(enumerate(videos.records))[::-1]
    tracks: dict[str, VideoTrack] = {}
    running: list[_Running] = []
    done = 0
    while waiting or running:
        while waiting and len(running) < batch:
            number, record = waiting.pop()
            shaken = jittered(record.boxes, jitter, np.random.default_rng([seed, number]))
            state = tracker.start(None if boxes == "given" else shaken[0])
            running.append(_Running(record, record.frames(), shaken, state))
        t = [len(video.points) for video in running]
        frames = [next(video.frames) for video in running]
        given = [video.boxes[i] for video, i in zip(running, t, strict=True)] if boxes == "given" else None
        estimates = tracker.step(frames, [video.state for video in running], given)
        for video, i, estimate in zip(running, t, estimates, strict=True):
            # Where a model breaks down, the last answer stands; the frame counts as lost.
            broken = bool(video.points) and not np.isfinite(estimate.points).all()
            video.points.append(video.points[-1] if broken else estimate.points)
            video.std.append(estimate.std)
            video.evaluations += estimate.evaluations
            if estimate.lost is not None:
                video.lost.append(i)
                again = video.boxes[min(i + 1, len(video.boxes) - 1)]
                video.state = tracker.start(None if boxes == "given" else again)
        for video in running:
            if len(video.points) == len(video.record):
                tracks[video.record.name] = _finished(video)
        running = [video for video in running if len(video.points) < len(video.record)]
        done += len(t)
        if progress is not None:
            progress(done, total)
    return [tracks[record.name] for record in videos.records]


def _finished(video: _Running) -> VideoTrack:
    return VideoTrack(
        name=video.record.name,
        fps=video.record.fps,
        predicted=np.stack(video.points).astype(np.float32),
        std=np.stack(video.std).astype(np.float32),
        points=video.record.points,
        lost=tuple(video.lost),
        evaluations=video.evaluations / len(video.points),
    )


def jittered(boxes: ArrayLike, jitter: float, rng: np.random.Generator) -> NDArray[np.float64]:
    """Boxes `(T, 4)` with Gaussian noise on their corners, its deviation `jitter` of each box's longer side."""
    b = np.asarray(boxes, np.float64)
    side = (b[:, 2:] - b[:, :2]).max(1, keepdims=True)
    # Never inside out, however strong the noise.
    noise = np.clip(jitter * rng.standard_normal(b.shape), -0.2, 0.2)
    return b + noise * side


def score(tracks: Sequence[VideoTrack], layout: Layout, protocol: str) -> VideoEvaluation:
    """The figures of tracks.

    Raises:
        DataError: if there is none.
    """
    if not tracks:
        raise DataError("no video to score; check the split that was asked for.")
    return VideoEvaluation(
        protocol=protocol,
        videos={track.name: metrics.video_summary(track.predicted, track.points, layout) for track in tracks},
        lost=sum(len(track.lost) for track in tracks),
        evaluations=float(np.mean([track.evaluations for track in tracks])),
    )


def protocol_line(videos: VideoSet, tracker: Tracker, boxes: Boxes, jitter: float, weights: str) -> str:
    """How scores were made, in one line: printed with every table."""
    frames = sum(len(record) for record in videos.records)
    how = {"given": "boxes given in every frame", "tracked": "first box given, then tracked from the landmarks"}[boxes]
    if jitter:
        how += f", given boxes with noise of {100 * jitter:g} % of their side"
    return (
        f"{videos.name}, {len(videos)} videos, {frames} frames, {videos.layout.name}; {weights}; crop box x "
        f"{tracker.crop_scale:g}, {how}; NME inter-ocular of each frame, and sqrt(w h) beside it; NMF and NAD per sqrt(w h) / "
        "256; plain mean over videos"
    )


def markdown_table(evaluations: Mapping[str, VideoEvaluation]) -> str:
    """Pipelines side by side under the protocol line.

    Args:
        evaluations: name of the pipeline -> its scores, all made in the same way.
    """
    lines = [next(iter(evaluations.values())).protocol, ""]
    lines.append("| pipeline | " + " | ".join(COLUMNS.values()) + " | lost frames | cell evaluations |")
    lines.append("| --- |" + " --- |" * (len(COLUMNS) + 2))
    for name, evaluation in evaluations.items():
        mean = evaluation.mean
        figures = [f"{mean[c]:.1f}" if c in ("nmf", "nad1", "nad8") else f"{mean[c]:.2f}" for c in COLUMNS]
        lines.append(f"| {name} | {' | '.join(figures)} | {evaluation.lost} | {evaluation.evaluations:.2f} |")
    return "\n".join(lines) + "\n"


REPORT = ("report.md", "report.json", "tracks.npz")
"""The files that `write_report` writes."""


def write_report(
    evaluations: Mapping[str, VideoEvaluation], tracks: Mapping[str, Sequence[VideoTrack]], folder: Path
) -> list[Path]:
    """Writes ``report.md``, ``report.json`` (every video's figures) and ``tracks.npz`` (every prediction).

    In ``tracks.npz`` an array is named ``PIPELINE/VIDEO/predicted`` or ``/std``.

    Raises:
        FileError: if the folder cannot be written.
    """
    paths = [folder / name for name in REPORT]
    table: dict[str, Any] = {
        name: {
            "protocol": e.protocol,
            "mean": _plain(e.mean),
            "lost": e.lost,
            "evaluations": e.evaluations,
            "videos": {video: _plain(figures) for video, figures in e.videos.items()},
        }
        for name, e in evaluations.items()
    }
    arrays: dict[str, Any] = {}
    for name, pipeline in tracks.items():
        for track in pipeline:
            arrays[f"{name}/{track.name}/predicted"], arrays[f"{name}/{track.name}/std"] = track.predicted, track.std
    # The document comes first: by it the folder is known as a report from then on.
    write_atomically(paths[1], json.dumps(table, indent=1) + "\n")
    write_atomically(paths[0], markdown_table(evaluations))
    write_atomically(paths[2], saved_bytes(lambda file: np.savez_compressed(file, **arrays)))
    return paths


def _plain(figures: Mapping[str, float]) -> dict[str, float | None]:
    # JSON has no NaN.
    return {name: round(value, 5) if np.isfinite(value) else None for name, value in figures.items()}
