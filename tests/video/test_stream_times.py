"""The clock of a stream: milliseconds, duplicates, times that are none, clocks that are set back."""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np
import pytest
from clips import drawn, moving, tight
from numpy.typing import ArrayLike, NDArray

from ldeq import Landmarker
from ldeq.errors import LdeqError
from ldeq.video.stream import Stream

PICTURE = np.random.default_rng(0).integers(0, 255, (40, 48, 3)).astype(np.uint8)


@pytest.fixture
def stream() -> Stream:
    return Landmarker.load("small-68", "cpu").stream(detector=lambda picture: np.zeros((0, 4)))


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, "x", [1.0], 10**400])
@pytest.mark.parametrize("first", [True, False])
def test_a_time_that_is_none_is_refused_once_and_the_stream_goes_on(stream: Stream, bad: Any, first: bool) -> None:
    if not first:
        stream(PICTURE, 1.0)
    with pytest.raises(LdeqError, match="finite number of seconds, got"):
        stream(PICTURE, bad)
    for t in range(5):
        assert stream(PICTURE, 1.04 + 0.04 * t) == []
    assert stream.frames == (5 if first else 6)


def test_a_frame_shown_twice_is_refused_and_the_next_one_is_not(stream: Stream) -> None:
    stream(PICTURE, 1.0)
    for _ in range(3):
        with pytest.raises(LdeqError, match="must be after that of the last one, got 1.0 after 1.0"):
            stream(PICTURE, 1.0)
    stream(PICTURE, 1.04)


def test_a_clock_that_is_set_back_is_refused_once_and_followed_from_there(stream: Stream) -> None:
    dts: list[float] = []
    step = stream._clock.step
    stream._clock.step = lambda time: dts.append(step(time)) or dts[-1]  # type: ignore[func-returns-value, method-assign]
    for t in (5.0, 5.04):
        stream(PICTURE, t)
    with pytest.raises(LdeqError, match="got 0.0 after 5.04"):
        stream(PICTURE, 0.0)
    for t in (0.04, 0.08):
        stream(PICTURE, t)
    assert dts[1:] == pytest.approx([0.04] * 3)
    # One frame out of its order is no clock set back: what follows it is later than what came before it.
    with pytest.raises(LdeqError, match="got 0.06 after 0.08"):
        stream(PICTURE, 0.06)
    stream(PICTURE, 0.12)
    assert dts[-1] == pytest.approx(0.04)


@pytest.mark.parametrize(
    ("unit", "scale"), [("milliseconds", 1e3), ("microseconds", 1e6), ("nanoseconds", 1e9)], ids=lambda v: str(v)
)
def test_times_in_another_unit_are_told_once(stream: Stream, unit: str, scale: float) -> None:
    with pytest.warns(UserWarning, match=rf"times are in seconds: if these are {unit}, divide them by {int(scale):,}") as told:
        for t in range(6):
            stream(PICTURE, t * scale / 30)
    assert len(told) == 1
    assert told[0].filename == __file__


def test_seconds_and_short_pauses_are_not_told(stream: Stream) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for t in (0.0, 0.04, 1.5, 1.54, 3.4):
            stream(PICTURE, t)
        stream(PICTURE)


@pytest.mark.parametrize("fps", [0, -1, math.nan, math.inf])
def test_a_frame_rate_that_is_none_is_a_sentence(fps: float) -> None:
    with pytest.raises(LdeqError, match="fps > 0"):
        Landmarker.load("small-68", "cpu").stream(fps=fps)


def test_the_filter_gets_the_time_since_the_last_frame_that_was_taken() -> None:
    seen: list[float] = []

    class Recorder:
        def reset(self) -> None:
            pass

        def step(self, points: ArrayLike, std: ArrayLike | None = None, dt: float = 1 / 30) -> NDArray[np.float64]:
            seen.append(dt)
            return np.asarray(points, np.float64)

    with Landmarker.load("small-68", "cpu").stream(boxes=[tight(drawn(3)[1])], smooth=Recorder) as stream:
        frames = list(moving(3, 3))
        stream(frames[0], 0.0)
        with pytest.raises(LdeqError):
            stream(frames[1], math.nan)
        stream(frames[1], 0.05)
    assert seen[1:] == pytest.approx([0.05])
