"""Settings for parts of the face, filters named in a text, and MediaPipe's filter as a baseline."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from ldeq.data import IBUG68
from ldeq.video.filters import filter_from_text, filter_track, make_filter

TRACK = np.cumsum(np.random.default_rng(0).normal(size=(40, 68, 2)), 0) + 200 * np.random.default_rng(1).random((68, 2))
MOUTH = list(IBUG68.indices("mouth"))
REST = [i for i in range(68) if i not in MOUTH]


def test_a_part_has_its_own_settings_and_the_rest_keeps_those_given() -> None:
    calm, lively = make_filter("one-euro", IBUG68, min_cutoff=1.0), make_filter("one-euro", IBUG68, min_cutoff=1.0, beta=90.0)
    both = make_filter("one-euro", IBUG68, min_cutoff=1.0, parts={"mouth": {"beta": 90.0}})
    whole, quick, mixed = (filter_track(f, TRACK, None, 25) for f in (calm, lively, both))
    np.testing.assert_array_equal(mixed[:, REST], whole[:, REST])
    np.testing.assert_array_equal(mixed[:, MOUTH], quick[:, MOUTH])
    assert np.abs(whole - quick)[:, MOUTH].max() > 0.1
    assert both.causal
    stepped = np.stack([both.step(points, None, 1 / 25) for points in TRACK])
    np.testing.assert_allclose(stepped, mixed)
    both.reset()
    np.testing.assert_array_equal(both.step(TRACK[5], None, 1 / 25), TRACK[5])


def test_a_filter_that_looks_ahead_can_have_parts_too() -> None:
    both = make_filter("gaussian", IBUG68, sigma=0.2, parts={"eyes": {"sigma": 1e-6}})
    assert not both.causal
    eyes = list(IBUG68.indices("eyes"))
    smooth = filter_track(both, TRACK, None, 25)
    np.testing.assert_allclose(smooth[:, eyes], TRACK[:, eyes])
    assert np.abs(smooth - TRACK)[:, REST].max() > 1


def test_a_text_names_a_filter_with_its_settings() -> None:
    told = filter_from_text("one-euro,min_cutoff=1,mouth.beta=90", IBUG68)
    made = make_filter("one-euro", IBUG68, min_cutoff=1.0, parts={"mouth": {"beta": 90.0}})
    np.testing.assert_array_equal(filter_track(told, TRACK, None, 25), filter_track(made, TRACK, None, 25))
    whole = filter_from_text("savgol,window=5,order=2", IBUG68)  # a number without a fraction is an integer
    np.testing.assert_array_equal(
        filter_track(whole, TRACK, None, 25), filter_track(make_filter("savgol", IBUG68, window=5, order=2), TRACK, None, 25)
    )


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("one-euro,beta", "must be NAME=NUMBER, got 'beta'"),
        ("one-euro,beta=x", "must be NAME=NUMBER"),
        ("one-euro,ear.beta=1", "no part 'ear': choose from"),
        ("one-euro,mouth.bta=1", "did you mean beta"),
        ("one-eur", "did you mean one-euro"),
        ("one-euro,beta=-1", "beta"),
        ("", "unknown filter ''"),
    ],
)
def test_a_text_that_names_none_is_a_sentence(text: str, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence.replace("?", "\\?")):
        filter_from_text(text, IBUG68)


def test_the_filter_of_mediapipe_is_its_formula() -> None:
    """Written down apart: a low-pass whose cutoff is 0.05 Hz + 80 |speed|, speed from raw values in face sizes a second."""
    dt = 1 / 25
    want = [TRACK[0]]
    x, speed = TRACK[0].copy(), np.zeros((68, 2))
    gain_of_speed = 1 / (1 + 1 / (2 * math.pi * 1.0 * dt))
    for before, now in itertools.pairwise(TRACK):
        size = ((now[:, 0].max() - now[:, 0].min()) + (now[:, 1].max() - now[:, 1].min())) / 2
        speed += gain_of_speed * ((now - before) / size / dt - speed)
        x = x + (now - x) / (1 + 1 / (2 * math.pi * (0.05 + 80 * abs(speed)) * dt))
        want.append(x)
    np.testing.assert_allclose(filter_track(make_filter("mediapipe", IBUG68), TRACK, None, 25), want)
