"""A stream of frames: faces found, followed under stable numbers, smoothed, and found anew after a cut or a loss."""

from __future__ import annotations

import math
import threading
import warnings
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
from ..inputs import InputError, checked_boxes, checked_picture, is_finite
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

# A longer step between two frames, in seconds, is more likely a time in another unit than a pause, and is told once.
LONG_STEP = 2.0


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

    What it keeps does not grow with the number of frames. Threads may share it: frames are taken one after the other.
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
        if detect_every < 0 or (max_faces is not None and max_faces < 1) or not 0 < fps < math.inf:
            raise InputError(
                f"detect_every must be >= 0, max_faces >= 1 and fps > 0, got {detect_every}, {max_faces} and {fps}"
            )
        self.tracker, self.layout, self.detector, self.smooth = tracker, layout, detector, smooth
        self.detect_every, self.max_faces, self.fps = detect_every, max_faces, fps
        self._first = None if boxes is None else checked_boxes(boxes)
        self._cuts = CutDetector()
        self._tracks: list[_Track] = []
        self._lost: list[_Lost] = []
        self._next_id = 0
        self._clock = _Clock(fps)
        self._searched: int | None = None
        self.frames = 0
        self._lock = threading.Lock()

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._tracks, self._lost = [], []

    def __call__(self, frame: NDArray[np.uint8], time: float | None = None) -> list[Face]:
        """The faces of the next frame.

        Args:
            frame: `(H, W, 3)` RGB uint8.
            time: of this frame in seconds, for the filters; one step of `fps` after the last one if None. A step of more
                than `LONG_STEP` seconds gives a warning, once: milliseconds are the usual cause.

        Returns:
            One `Face` for each face that is followed, in the order of their numbers.

        Raises:
            InputError: for a picture of another shape, boxes far outside the first picture, what a detector or a filter of
                the caller's returned, or a time that is not finite or does not advance. The frame is then left out, and the
                stream goes on with the next one. A clock that was set back is refused once and followed from there.
        """
        with self._lock:
            return self._next(checked_picture(frame, "frame must be"), time)

    def _next(self, frame: NDArray[np.uint8], time: float | None) -> list[Face]:
        if self._first is not None:
            boxes, self._first = self._first, None  # boxes that are refused are refused once
            self._first = checked_boxes(boxes, frame.shape)
        dt = self._clock.step(time)
        self._lost = [lost for lost in self._lost if self._clock.now - lost.time <= REMEMBERED]

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
            found_boxes = checked_boxes(self.detector(frame), frame.shape, "what the detector returns")
            boxes, refine = found_boxes, DETECTED_REFINE
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
                self._new_filter(),
                reason if known is None else f"lost: {known.reason}",
                None if known is None else known.box,
            )
            found.append(track)
        return found

    def _new_filter(self) -> PointFilter | None:
        made = None if self.smooth is None else self.smooth()
        if made is not None and not (hasattr(made, "step") and hasattr(made, "reset")):
            raise InputError(f"smooth must make filters with the methods step and reset, it made {made!r:.60}")
        return made

    def _step(self, frame: NDArray[np.uint8], tracks: list[_Track]) -> list[tuple[_Track, Estimate]]:
        """Takes tracks one frame further, and forgets those that are lost."""
        if not tracks:
            return []
        answers = list(zip(tracks, self.tracker.step([frame] * len(tracks), [t.state for t in tracks]), strict=True))
        for track, estimate in answers:
            if track in self._tracks and estimate.lost:
                self._tracks.remove(track)
            elif track not in self._tracks and not estimate.lost:
                self._tracks.append(track)
            if estimate.lost and track.box is not None and track.id is not None:
                self._lost.append(_Lost(track.id, track.box, estimate.lost, self._clock.now))
        return answers

    def _faces(self, answers: list[tuple[_Track, Estimate]], dt: float) -> list[Face]:
        faces: list[Face] = []
        for track, estimate in sorted(answers, key=lambda pair: float("inf") if pair[0].id is None else pair[0].id):
            raw = Face.of(estimate.points, estimate.std, self.layout)  # its box
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
                points = checked_points(track.filter.step(points, estimate.std, dt), points)
                self.tracker.watch.add("filter", begin)
            faces.append(Face.of(points, estimate.std, self.layout, track.id, reset, estimate.score, estimate.deviation))
        return faces


class _Clock:
    """The times of the frames of a stream."""

    def __init__(self, fps: float) -> None:
        self._step = 1 / fps
        self._last: float | None = None
        self._refused: float | None = None
        self._told = False

    @property
    def now(self) -> float:
        """Time of the last frame; 0 before the first."""
        return self._last or 0.0

    def step(self, time: float | None) -> float:
        """Seconds since the last frame."""
        if time is None:
            self._last = self.now + self._step
            return self._step
        if not is_finite(time):
            raise InputError(
                f"the time of a frame must be a finite number of seconds, got {time!r:.99}; this frame is left out"
            )
        last, refused, self._refused = self._last, self._refused, None
        if last is None:
            self._last = time
            return self._step
        if refused is not None and refused < time <= last:
            last = refused  # the clock was set back, and goes on from there
        if not time > last:
            self._refused = time if time < last else refused
            raise InputError(
                f"the time of a frame must be after that of the last one, got {time} after {last}; this frame is left out"
            )
        self._last = time
        self._tell_long_step(time - last)
        return time - last

    def _tell_long_step(self, dt: float) -> None:
        if dt <= LONG_STEP or self._told:
            return
        self._told = True
        unit, factor = next(
            (u for u in (("milliseconds", 10**3), ("microseconds", 10**6)) if dt / u[1] <= LONG_STEP), ("nanoseconds", 10**9)
        )
        warnings.warn(
            f"two frames of this stream are {dt:.6g} seconds apart, too far for a filter to help; times are in seconds: if "
            f"these are {unit}, divide them by {factor:,}",
            stacklevel=5,
        )


def checked_points(smoothed: object, points: NDArray[np.float32]) -> NDArray[np.float32]:
    """What a filter made of the points of a face, as float32.

    Raises:
        InputError: if it is of another shape or not finite.
    """
    try:
        array = np.asarray(smoothed, np.float32)
    except (TypeError, ValueError, OverflowError):
        array = np.zeros(0, np.float32)
    if array.shape != points.shape or not np.isfinite(array).all():
        raise InputError(f"a filter must return finite points of shape {points.shape}, got {type(smoothed).__name__}")
    return array


def overlap(a: Box, b: Box) -> float:
    """Intersection over union of two boxes (x1, y1, x2, y2)."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    both = max(0.0, width) * max(0.0, height)
    areas = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1])
    return both / (areas - both) if areas > both else 0.0
