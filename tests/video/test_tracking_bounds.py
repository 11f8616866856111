"""Where the tracker's judgements turn over: each bound holds at its exact value, and one step beyond it does not."""

from __future__ import annotations

import numpy as np
import pytest
from clips import drawn, tight

from ldeq import Landmarker
from ldeq.data import SquareBox
from ldeq.video.plausible import EXTENT, INSIDE, LEAP, SMALLEST, has_leapt, impossible
from ldeq.video.tracking import Stopwatch, Tracker, TrackingSettings

SHAPE = (200, 300)


def box(x: float, y: float, width: float, height: float) -> np.ndarray:
    """Landmarks whose extent is a box."""
    return np.array([[x, y], [x + width, y], [x, y + height], [x + width, y + height]], np.float32)


def judged(points: np.ndarray, size: float, std: float = 1.0) -> str | None:
    return impossible(points, np.full(len(points), std, np.float32), size, SHAPE)


def test_the_settings_are_those_that_the_documents_and_the_published_figures_mean() -> None:
    assert vars(TrackingSettings()) == {
        "rwr": True, "iters": 1, "views": 1, "register": False, "slack": 0.02, "side_slack": 0.04, "check_every": 30,
        "settled": 0.22, "patience": 3, "min_score": None, "first": "full",
    }  # fmt: skip
    assert (LEAP, EXTENT, INSIDE, SMALLEST) == (0.1, (0.5, 1.3), 0.35, 12.0)


def test_the_released_settings_are_those_of_the_release() -> None:
    """z0(t) = z*(t-1), one iteration plus the final evaluation, no penalty, no registration, and frame 0 alike, from zeros."""
    changed = {key: v for key, v in vars(TrackingSettings.released()).items() if v != vars(TrackingSettings())[key]}
    assert changed == {"iters": 2, "slack": 0.0, "side_slack": 0.0, "check_every": 0, "first": "budget"}
    with pytest.raises(ValueError, match="^first must be 'full' or 'budget', got 'small'$"):
        TrackingSettings(first="small")  # type: ignore[arg-type]


@pytest.mark.parametrize(("name", "low"), [("iters", 1), ("slack", 0), ("side_slack", 0), ("check_every", 0), ("patience", 1)])
def test_a_setting_may_be_at_its_bound_and_not_below(name: str, low: int) -> None:
    assert getattr(TrackingSettings(**{name: low}), name) == low  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=rf"^{name} must be >= {low}, got {low - 1}$"):
        TrackingSettings(**{name: low - 1})  # type: ignore[arg-type]


@pytest.mark.parametrize("views", [0, 3, 5, 8])
def test_views_are_one_two_or_four(views: int) -> None:
    with pytest.raises(ValueError, match=rf"^views must be 1, 2 or 4, got {views}$"):
        TrackingSettings(views=views)


def test_landmarks_that_are_no_numbers_are_no_face() -> None:
    points = box(50, 50, 40, 40)
    assert judged(points, 40) is None
    assert judged(points, 40, std=float("nan")) == "the model answered with NaN"
    points[1, 0] = np.inf
    assert judged(points, 40) == "the model answered with NaN"


def test_a_face_of_twelve_pixels_is_a_face() -> None:
    assert judged(box(50, 50, 12, 3), 12) is None
    assert judged(box(50, 50, 3, 12), 12) is None
    assert judged(box(50, 50, 11.5, 11.5), 12) == "the face is 12 pixels small"


def test_a_face_may_shrink_to_half_and_grow_by_a_third_of_its_size() -> None:
    assert judged(box(50, 50, 32, 20), 64) == "the face's size changed by a factor of 0.50"
    assert judged(box(50, 50, 33, 20), 64) is None
    assert judged(box(50, 50, 51, 60), 50) is None
    assert judged(box(50, 50, 65.0, 60), 50) == "the face's size changed by a factor of 1.30"
    assert judged(box(50, 50, 20, 70), 50) == "the face's size changed by a factor of 1.40"


@pytest.mark.parametrize("side", ["left", "right", "top", "bottom"])
def test_a_third_of_a_face_must_lie_in_the_picture_whose_edge_is_half_a_pixel_out(side: str) -> None:
    for inside, gone in ((36.0, None), (34.0, "66 % of the face left the picture")):
        points = {
            "left": box(-0.5 - (100 - inside), 20, 100, 50),
            "right": box(299.5 - inside, 20, 100, 50),
            "top": box(20, -0.5 - (100 - inside), 50, 100),
            "bottom": box(20, 199.5 - inside, 50, 100),
        }[side]
        assert judged(points, 100) == gone
    # In a corner, the shares of width and height multiply.
    assert judged(box(-0.5 - 40, -0.5 - 40, 100, 100), 100) is None
    assert judged(box(-0.5 - 41, -0.5 - 41, 100, 100), 100) == "65 % of the face left the picture"


def test_a_face_quite_outside_has_left_the_picture() -> None:
    assert judged(box(400, 50, 50, 50), 50) == "100 % of the face left the picture"
    assert judged(box(-90, -90, 50, 50), 50) == "100 % of the face left the picture"


def test_a_face_that_is_a_tenth_of_the_crop_off_has_not_leapt() -> None:
    square = SquareBox(0.5, -19.5, 200.0)
    assert (square.cx, square.cy) == (100.0, 80.0)
    for dx, dy, leapt in ((20, 0, False), (0, -20, False), (20.5, 0, True), (0, -20.5, True), (12, 16, False), (15, 15, True)):
        assert has_leapt(box(100 + dx - 40, 80 + dy - 30, 80, 60), square) is leapt, (dx, dy)


def test_what_is_no_face_does_not_leap() -> None:
    square = SquareBox(0.5, -19.5, 200.0)
    assert has_leapt(box(10, 10, 12, 5), square)
    assert not has_leapt(box(10, 10, 11, 11), square)
    nan = box(10, 10, 50, 50)
    nan[0, 1] = np.nan
    assert not has_leapt(nan, square)


def test_frames_states_and_boxes_must_be_as_many() -> None:
    tracker = Tracker(Landmarker.load("small-68", "cpu").model)
    picture = np.zeros((64, 64, 3), np.uint8)
    state = tracker.start((10, 10, 50, 50))
    assert state.square is not None and state.square.side == pytest.approx(40 * 1.2)
    with pytest.raises(ValueError, match="^1 states need as many frames, got 2$"):
        tracker.step([picture, picture], [state])
    with pytest.raises(ValueError, match="^a face without a crop: give start"):
        tracker.step([picture, picture], [state, tracker.start()])
    for wrong in ([[1, 2, 3, 4]] * 2, [1, 2, 3, 4], [[1, 2, 3]]):
        with pytest.raises(ValueError, match=r"^boxes must have shape \(1, 4\), x1 y1 x2 y2 in pixels, got \("):
            tracker.step([picture], [state], wrong)


def test_a_face_off_the_crop_is_looked_at_again_in_a_crop_around_it() -> None:
    """Both looks are counted, and the crop that is told is the second one."""
    lm = Landmarker.load("small-68", "cpu")
    image, points = drawn(3)
    tracker = Tracker(lm.model, lm.pretrained.crop_scale, TrackingSettings(check_every=0, register=True))
    state = tracker.start(tight(points))
    (first,) = tracker.step([image], [state])
    assert (first.reset, first.lost, state.frames) == ("start", None, 1)
    assert state.square is not None
    off = 0.2 * state.square.side
    state.square = SquareBox(state.square.x0 + off, state.square.y0, state.square.side)
    (second,) = tracker.step([image], [state])
    assert (second.reset, second.lost, state.frames) == (None, None, 2)
    assert second.evaluations == first.evaluations + 1
    low, high = second.points.min(0), second.points.max(0)
    assert np.hypot(second.square.cx - (low[0] + high[0]) / 2, second.square.cy - (low[1] + high[1]) / 2) < 0.3 * off
    np.testing.assert_allclose(second.points, first.points, atol=0.1 * off)


def test_a_stopwatch_adds_what_each_stage_took(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([3.0, 7.0, 9.0])
    monkeypatch.setattr("ldeq.video.tracking.time.perf_counter", lambda: next(times))
    watch = Stopwatch()
    assert watch.add("crop", 1.0) == 3.0
    assert watch.add("model", 3.0) == 7.0
    watch.add("crop", 8.0)
    assert watch.seconds == {"crop": 3.0, "model": 4.0}
