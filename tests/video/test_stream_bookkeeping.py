"""Which faces a stream searches, keeps, forgets and finds again, with a tracker and a detector that answer as they are told."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from ldeq.data import IBUG68, SquareBox
from ldeq.inputs import InputError
from ldeq.video.stream import DETECTED_REFINE, REMEMBERED, SAME_FACE, SAME_TRACK, SEARCH_EVERY, Stream, overlap
from ldeq.video.tracking import Estimate, FaceState, Stopwatch

Box = tuple[float, float, float, float]
PICTURE = np.random.default_rng(0).integers(0, 256, (300, 400, 3), dtype=np.uint8)


def landmarks(box: Box) -> NDArray[np.float32]:
    """68 points whose extent is a box."""
    x1, y1, x2, y2 = box
    t = np.linspace(0, 1, 68)
    points = np.stack([x1 + t * (x2 - x1), y1 + (t * 7 % 1) * (y2 - y1)], -1)
    points[-1, 1] = y2
    return points.astype(np.float32)


class Scripted:
    """A tracker: every face is where its box was, until `lost` says in which frame a face in a place is lost."""

    def __init__(self, lost: Callable[[int, Box], bool] | None = None, move: Callable[[int, Box], Box] | None = None) -> None:
        self.watch = Stopwatch()
        self.lost, self.move = lost or (lambda frame, box: False), move or (lambda frame, box: box)
        self.frame = -1
        self.last: Any = None
        self.started: list[tuple[Box, int]] = []
        self.steps: list[int] = []

    def start(self, box: Any, refine: int = 0) -> FaceState:
        self.started.append((tuple(box), refine))
        state = FaceState(SquareBox(0.0, 0.0, 10.0), refine)
        state.place = tuple(box)  # type: ignore[attr-defined]
        return state

    def step(self, frames: Any, states: Any) -> list[Estimate]:
        self.steps.append(len(states))
        answers = []
        for state in states:
            box = self.move(self.frame, state.place)
            gone = self.lost(self.frame, box)
            reset = "start" if state.frames == 0 else None
            answers.append(
                Estimate(
                    landmarks(box), np.ones(68, np.float32), SquareBox(0.0, 0.0, 10.0), 0.1, 1, reset,
                    "it went" if gone else None, 0.9,
                )
            )  # fmt: skip
            if not gone:
                state.frames += 1
        return answers


class Detector:
    """Finds what it is told to, and notes in which frames it was asked."""

    def __init__(self, tracker: Scripted, find: Callable[[int], list[Box]]) -> None:
        self.tracker, self.find = tracker, find
        self.asked: list[int] = []

    def __call__(self, image: Any) -> Any:
        self.asked.append(self.tracker.frame)
        return np.array(self.find(self.tracker.frame), np.float64).reshape(-1, 4)


def run(
    frames: int, find: Callable[[int], list[Box]], tracker: Scripted | None = None, **options: Any
) -> tuple[list[list[tuple[int | None, str | None]]], Detector, Scripted]:
    """What each frame gives: number and reset of every face."""
    tracker = tracker or Scripted()
    detector = Detector(tracker, find)
    stream = Stream(tracker, IBUG68, detector, **options)  # type: ignore[arg-type]
    found = []
    for number in range(frames):
        tracker.frame = number
        found.append([(face.id, face.reset) for face in stream(PICTURE)])
    return found, detector, tracker


A: Box = (20.0, 20.0, 120.0, 120.0)
B: Box = (200.0, 30.0, 300.0, 130.0)


def test_the_bounds_are_those_of_the_documents() -> None:
    assert (DETECTED_REFINE, SEARCH_EVERY, SAME_FACE, SAME_TRACK, REMEMBERED) == (2, 5, 0.3, 0.6, 2.0)


def test_without_a_face_every_fifth_frame_is_searched() -> None:
    found, detector, tracker = run(12, lambda frame: [])
    assert detector.asked == [0, 5, 10]
    assert found == [[]] * 12 and tracker.steps == []


def test_with_a_face_nothing_is_searched_unless_it_is_asked_for() -> None:
    found, detector, tracker = run(12, lambda frame: [A])
    assert detector.asked == [0]
    assert found == [[(0, "start")]] + [[(0, None)]] * 11
    assert tracker.started == [(A, DETECTED_REFINE)]
    for every, asked in ((1, list(range(8))), (3, [0, 3, 6])):
        _, detector, tracker = run(8, lambda frame: [A], detect_every=every)
        assert detector.asked == asked
        assert len(tracker.started) == 1


def test_a_face_that_comes_in_gets_the_next_number() -> None:
    found, detector, _ = run(7, lambda frame: [A] if frame < 4 else [B, A], detect_every=2)
    assert detector.asked == [0, 2, 4, 6]
    assert found[3] == [(0, None)] and found[4] == [(0, None), (1, "start")] and found[5] == [(0, None), (1, None)]


def test_given_boxes_are_taken_as_they_are_and_the_detector_is_not_asked() -> None:
    found, detector, tracker = run(3, lambda frame: [], boxes=[A, B])
    assert detector.asked == []
    assert tracker.started == [(A, 0), (B, 0)]
    assert found[0] == [(0, "start"), (1, "start")]


def test_given_boxes_without_a_face_let_the_detector_look_in_the_same_frame() -> None:
    tracker = Scripted(lost=lambda frame, box: box == A)
    found, detector, _ = run(3, lambda frame: [B], tracker, boxes=[A])
    assert detector.asked == [0]
    assert found == [[(0, "start")], [(0, None)], [(0, None)]]


def test_a_lost_face_is_searched_for_in_the_same_frame_and_keeps_its_number() -> None:
    tracker = Scripted(lost=lambda frame, box: frame == 3 and box == A)
    near: Box = (30.0, 20.0, 130.0, 120.0)
    found, detector, _ = run(6, lambda frame: [A] if frame < 3 else [near], tracker)
    assert detector.asked == [0, 3]
    assert found[3] == [(0, "lost: it went")] and found[4] == [(0, None)]
    # Elsewhere it is another face.
    tracker = Scripted(lost=lambda frame, box: frame == 3 and box == A)
    found, _, _ = run(6, lambda frame: [A] if frame < 3 else [B], tracker)
    assert found[3] == [(1, "start")]


def boxes_of_overlap(iou: float) -> Box:
    """`A` moved to the right so that it overlaps the old one by that much."""
    shift = 100 * (1 - iou) / (1 + iou)
    return (A[0] + shift, A[1], A[2] + shift, A[3])


@pytest.mark.parametrize(("iou", "same"), [(0.28, False), (0.32, True)])
def test_a_detection_is_a_known_face_from_three_tenths_of_overlap_on(iou: float, same: bool) -> None:
    moved = boxes_of_overlap(iou)
    assert overlap(A, moved) == pytest.approx(iou)
    _, _, tracker = run(3, lambda frame: [A] if frame == 0 else [moved], detect_every=1)
    assert (len(tracker.started) == 1) == same
    # The same holds for one that was lost.
    tracker = Scripted(lost=lambda frame, box: frame == 2 and box == A)
    found, _, _ = run(4, lambda frame: [A] if frame < 2 else [moved], tracker)
    assert found[2] == [(0, "lost: it went") if same else (1, "start")]


@pytest.mark.parametrize(("iou", "same"), [(0.57, False), (0.63, True)])
def test_two_tracks_are_one_face_from_six_tenths_of_overlap_on(iou: float, same: bool) -> None:
    moved = boxes_of_overlap(iou)
    tracker = Scripted(move=lambda frame, box: moved if box == B and frame >= 2 else box)
    found, _, _ = run(4, lambda frame: [A, B], tracker)
    assert found[1] == [(0, None), (1, None)]
    assert found[2] == ([(0, None)] if same else [(0, None), (1, None)])
    assert found[3] == found[2]


@pytest.mark.parametrize(("pause", "remembered"), [(1.9, True), (2.1, False)])
def test_a_number_is_remembered_for_two_seconds(pause: float, remembered: bool) -> None:
    tracker = Scripted(lost=lambda frame, box: frame == 2 and box == A)
    detector = Detector(tracker, lambda frame: [] if 2 <= frame < 7 else [A])
    stream = Stream(tracker, IBUG68, detector)  # type: ignore[arg-type]
    times = [0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.2 + pause]
    found = []
    for number, time in enumerate(times):
        tracker.frame = number
        found.append([(face.id, face.reset) for face in stream(PICTURE, time)])
    assert detector.asked == [0, 2, 7]
    assert found[2] == []
    assert found[7] == [(0, "lost: it went") if remembered else (1, "start")]


def test_the_largest_faces_come_first_and_no_more_than_asked_for() -> None:
    found, detector, tracker = run(4, lambda frame: [A, B], max_faces=1, detect_every=1)
    assert found == [[(0, "start")]] + [[(0, None)]] * 3
    # With all places taken the detector rests.
    assert detector.asked == [0]
    assert len(tracker.started) == 2
    found, _, _ = run(2, lambda frame: [A, B], max_faces=2)
    assert found[0] == [(0, "start"), (1, "start")]


def test_what_is_no_face_from_the_start_gets_no_number() -> None:
    tracker = Scripted(lost=lambda frame, box: box == A)
    found, _, _ = run(3, lambda frame: [A, B], tracker)
    assert found[0] == [(0, "start")] and found[2] == [(0, None)]


def test_leaving_a_stream_forgets_the_faces() -> None:
    tracker = Scripted()
    with Stream(tracker, IBUG68, Detector(tracker, lambda frame: [A])) as stream:  # type: ignore[arg-type]
        tracker.frame = 0
        assert [face.id for face in stream(PICTURE)] == [0]
        assert stream.frames == 1
    assert stream._tracks == [] and stream._lost == []


@pytest.mark.parametrize(
    "options", [{"detect_every": -1}, {"max_faces": 0}, {"fps": 0.0}, {"fps": float("inf")}, {"fps": float("nan")}]
)
def test_arguments_out_of_range_are_named(options: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=r"^detect_every must be >= 0, max_faces >= 1 and fps > 0, got "):
        run(1, lambda frame: [], **options)
    run(1, lambda frame: [], detect_every=0, max_faces=1, fps=1e-3)


def test_overlap_is_intersection_over_union() -> None:
    assert overlap(A, A) == 1.0
    assert overlap(A, B) == 0.0
    assert overlap((0, 0, 2, 2), (1, 1, 3, 3)) == pytest.approx(1 / 7)
    assert overlap((0, 0, 2, 2), (2, 0, 4, 2)) == 0.0
    # Apart in both ways is no overlap: two negative lengths make no area.
    assert overlap((0, 0, 2, 2), (5, 5, 9, 9)) == 0.0
    assert overlap((0, 0, 4, 1), (1, 0, 2, 1)) == pytest.approx(0.25)
    assert overlap((0, 0, 0, 0), (0, 0, 0, 0)) == 0.0


class Shift:
    """A filter that moves points by one, and notes what it was given."""

    def __init__(self) -> None:
        self.dts: list[float] = []
        self.resets = 0

    def reset(self) -> None:
        self.resets += 1

    def step(self, points: Any, std: Any = None, dt: float = 1 / 30) -> Any:
        self.dts.append(dt)
        return np.asarray(points, np.float64) + 1.0


def test_each_face_has_a_filter_which_is_reset_where_it_starts() -> None:
    made: list[Shift] = []

    def smooth() -> Shift:
        made.append(Shift())
        return made[-1]

    tracker = Scripted()
    stream = Stream(tracker, IBUG68, Detector(tracker, lambda frame: [A, B]), smooth=smooth, fps=20.0)  # type: ignore[arg-type]
    for number in range(4):
        tracker.frame = number
        faces = stream(PICTURE)
    assert len(made) == 2 and [f.resets for f in made] == [1, 1]
    assert made[0].dts == pytest.approx([0.05] * 4)
    np.testing.assert_allclose(faces[0].points, landmarks(A) + 1, atol=1e-4)
    assert faces[0].box == pytest.approx(tuple(v + 1 for v in A), abs=1e-4)
    assert {"detect", "filter"} <= tracker.watch.seconds.keys()
