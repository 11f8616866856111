"""A stream of frames: faces found, followed under stable numbers, smoothed, and found anew after a cut or a loss."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter
from types import TracebackType
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..data import Layout
from ..detection import Detector
from ..face import Face
from .cuts import CUT, DOUBT, CutDetector
from .tracking import Estimate, FaceState, Tracker

Box = tuple[float, float, float, float]

# Crops taken anew around the landmarks after a detection, whose boxes are coarse.
DETECTED_REFINE = 2

# Frames between two searches while there is no face: the detector costs more than following one does.
SEARCH_EVERY = 5

# A detection that overlaps a known face by this much is that face; two tracks that do follow the same one.
SAME_FACE = 0.3
SAME_TRACK = 0.6

# Seconds in which a lost face that is found again in its place keeps its number.
REMEMBERED = 2.0


class PointFilter(Protocol):
    """Smooths the landmarks of one face; `ldeq.video.filters` has several."""

    def reset(self) -> None:
        """Forget every frame."""

    def step(self, points: ArrayLike, std: ArrayLike | None = None, dt: float = 1 / 30) -> NDArray[np.float64]:
        """`(K, 2)` pixels, `(K,)` deviations, seconds since the last frame: smoothed `(K, 2)`."""


@dataclass(eq=False)
class _Track:
    id: int | None  # a number once there is a face: detectors see many that are none
    state: FaceState
    filter: PointFilter | None
    reset: str
    box: Box | None = None


@dataclass(frozen=True)
class _Lost:
    id: int
    box: Box
    reason: str
    time: float


class Stream:
    """Takes one frame after the other. Make one with `Landmarker.stream`.

    ```python
    with lm.stream(rwr=True, smooth="face-frame") as s:
        for frame in frames:
            for face in s(frame):
                face.id, face.points, face.reset
    ```

    What it keeps does not grow with the number of frames.
    """

    def __init__(
        self,
        tracker: Tracker,
        layout: Layout,
        detector: Detector,
        *,
        smooth: Callable[[], PointFilter] | None = None,
        boxes: ArrayLike | None = None,
        detect_every: int = 0,
        max_faces: int | None = None,
        fps: float = 30.0,
    ) -> None:
        """
        Args:
            tracker: follows the faces.
            layout: of their landmarks.
            detector: finds them.
            smooth: makes the filter of a face, None for none.
            boxes: `(N, 4)` tight boxes of the faces in the first frame; the detector then runs only once they are lost.
            detect_every: frames between two searches for faces that came in; 0 searches only where there is no face.
            max_faces: the largest so many are followed; None for all.
            fps: frames a second of frames that come without a time.

        Raises:
            ValueError: for an argument out of range.
        """
        if detect_every < 0 or (max_faces is not None and max_faces < 1) or not fps > 0:
            raise ValueError(
                f"detect_every must be >= 0, max_faces >= 1 and fps > 0, got {detect_every}, {max_faces} and {fps}"
            )
        self.tracker, self.layout, self.detector, self.smooth = tracker, layout, detector, smooth
        self.detect_every, self.max_faces, self.fps = detect_every, max_faces, fps
        self._first = None if boxes is None else np.asarray(boxes, np.float64).reshape(-1, 4)
        self._cuts = CutDetector()
        self._tracks: list[_Track] = []
        self._lost: list[_Lost] = []
        self._next_id = 0
        self._time: float | None = None
        self._searched: int | None = None
        self.frames = 0

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._tracks, self._lost = [], []

    def __call__(self, frame: NDArray[np.uint8], time: float | None = None) -> list[Face]:
        """The faces of the next frame.

        Args:
            frame: `(H, W, 3)` RGB uint8.
            time: of this frame in seconds, for the filters; one step of `fps` after the last one if None.

        Returns:
            One `Face` for each face that is followed, in the order of their numbers.

        Raises:
            ValueError: for a picture of another shape or a time that does not advance.
        """
        if not isinstance(frame, np.ndarray) or frame.ndim != 3 or frame.shape[2] != 3 or frame.dtype != np.uint8:
            raise ValueError(f"frame must be an RGB uint8 array (H, W, 3), got {getattr(frame, 'shape', type(frame).__name__)}")
        dt = 1 / self.fps
        if time is not None and self._time is not None:
            dt = time - self._time
            if not dt > 0:
                raise ValueError(f"the time of a frame must be after that of the last one, got {time} after {self._time}")
        self._time = (self._time or 0.0) + dt if time is None else time

        likeness = self._cuts.likeness(frame)
        if likeness < CUT and self.frames:
            self._tracks, self._lost = [], []
        for track in self._tracks:
            track.state.suspect |= likeness < DOUBT
        given = self._first is not None
        found = self._search(frame, "cut" if likeness < CUT and self.frames else "start") if self._search_due(likeness) else []
        answers = self._step(frame, self._tracks + found)
        gone = any(a.lost and t.state.frames for t, a in answers) and self._searched != self.frames
        if gone or (given and not self._tracks):
            # What was lost in this frame may be elsewhere in this frame; so may what is not in the box that was given.
            answers = [(t, a) for t, a in answers if not a.lost]
            answers += self._step(frame, self._search(frame, "start"))
        self.frames += 1
        return self._faces([(t, a) for t, a in answers if not a.lost], dt)

    def _search_due(self, likeness: float) -> bool:
        if self._searched is None or (likeness < CUT and self.frames):
            return True
        since = self.frames - self._searched
        return since >= SEARCH_EVERY if not self._tracks else 0 < self.detect_every <= since

    def _search(self, frame: NDArray[np.uint8], reason: str) -> list[_Track]:
        """Tracks of what may be faces that are not followed yet."""
        self._searched = self.frames
        if self.max_faces is not None and len(self._tracks) >= self.max_faces:
            return []
        begin = perf_counter()
        if self._first is not None:
            boxes, refine, self._first = self._first, 0, None
        else:
            boxes, refine = self.detector(frame), DETECTED_REFINE
        self.tracker.watch.add("detect", begin)
        found: list[_Track] = []
        for x1, y1, x2, y2 in boxes.tolist():
            box = (x1, y1, x2, y2)
            if any(t.box is not None and overlap(t.box, box) > SAME_FACE for t in self._tracks):
                continue
            known = next((lost for lost in self._lost if overlap(lost.box, box) > SAME_FACE), None)
            if known is not None:
                self._lost.remove(known)
            track = _Track(
                None if known is None else known.id,
                self.tracker.start(box, refine),
                self.smooth() if self.smooth is not None else None,
                reason if known is None else f"lost: {known.reason}",
                None if known is None else known.box,
            )
            found.append(track)
        return found

    def _step(self, frame: NDArray[np.uint8], tracks: list[_Track]) -> list[tuple[_Track, Estimate]]:
        """Takes tracks one frame further, and forgets those that are lost."""
        if not tracks:
            return []
        assert self._time is not None
        answers = list(zip(tracks, self.tracker.step([frame] * len(tracks), [t.state for t in tracks]), strict=True))
        self._lost = [lost for lost in self._lost if self._time - lost.time <= REMEMBERED]
        for track, estimate in answers:
            if track in self._tracks and estimate.lost:
                self._tracks.remove(track)
            elif track not in self._tracks and not estimate.lost:
                self._tracks.append(track)
            if estimate.lost and track.box is not None and track.id is not None:
                self._lost.append(_Lost(track.id, track.box, estimate.lost, self._time))
        return answers

    def _faces(self, answers: list[tuple[_Track, Estimate]], dt: float) -> list[Face]:
        faces: list[Face] = []
        for track, estimate in sorted(answers, key=lambda pair: float("inf") if pair[0].id is None else pair[0].id):
            raw = Face.of(estimate.points, estimate.std, self.layout)
            # Only here, where what the detector took for a face has been dropped: it may be larger than the face.
            enough = self.max_faces is not None and len(faces) >= self.max_faces
            if enough or any(overlap(raw.box, face.box) > SAME_TRACK for face in faces):
                self._tracks.remove(track)
                continue
            if track.id is None:
                track.id, self._next_id = self._next_id, self._next_id + 1
            track.box = raw.box
            reset = track.reset if estimate.reset == "start" else estimate.reset
            points = estimate.points
            if track.filter is not None:
                begin = perf_counter()
                if reset:
                    track.filter.reset()
                points = track.filter.step(points, estimate.std, dt).astype(np.float32)
                self.tracker.watch.add("filter", begin)
            faces.append(Face.of(points, estimate.std, self.layout, track.id, reset))
        return faces


def overlap(a: Box, b: Box) -> float:
    """Intersection over union of two boxes (x1, y1, x2, y2)."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    both = max(0.0, width) * max(0.0, height)
    areas = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1])
    return both / (areas - both) if areas > both else 0.0
