"""What moves in a made clip moves as people, hands and cameras do: against stated angles, frequencies and durations."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from ldeq.data.clips import motion
from ldeq.data.clips.motion import DIFFICULTIES, Motion, blink, draw_motion, speak

FPS = 100.0

# Degrees, fractions of the face, stops: the farthest that each difficulty goes.
FARTHEST = {
    "easy": {"roll": 6, "yaw": 9, "pitch": 6, "across": 0.07, "down": 0.049, "zoom": 0.05, "gain": 0.15, "shading": 0.1},
    "hard": {"roll": 15, "yaw": 17, "pitch": 11, "across": 0.16, "down": 0.112, "zoom": 0.14, "gain": 0.7, "shading": 0.35},
}
RANGES: dict[str, dict[str, Any]] = {
    "easy": {
        "speech": (0.05, 0.11), "blink_pause": (1.5, 4.0), "noise": (1.0, 3.0), "exposure": (0.2, 0.4), "defocus": (0.0, 0.0),
        "occluders": (0, 0), "pace": 0.6, "shake": 0.0,
    },
    "hard": {
        "speech": (0.08, 0.17), "blink_pause": (0.8, 2.5), "noise": (4.0, 10.0), "exposure": (0.5, 1.0), "defocus": (0.0, 1.6),
        "occluders": (1, 2), "pace": 1.0, "shake": 0.004,
    },
}  # fmt: skip


def long_motion(name: str) -> Motion:
    """Ten minutes of it, many draws one after another."""
    parts = [draw_motion(np.random.default_rng(seed), 1500, 25.0, DIFFICULTIES[name]) for seed in range(10)]
    return Motion(**{key: np.concatenate([vars(part)[key] for part in parts]) for key in vars(parts[0])})


@pytest.mark.parametrize("name", DIFFICULTIES)
def test_every_part_of_the_motion_goes_as_far_as_stated_and_no_farther(name: str) -> None:
    far, m = FARTHEST[name], long_motion(name)
    shake = 2 * RANGES[name]["shake"]
    reached = {
        "roll": np.degrees(np.abs(m.roll)).max(),
        "yaw": np.degrees(np.abs(m.yaw)).max(),
        "pitch": np.degrees(np.abs(m.pitch)).max(),
        "zoom": np.abs(np.log(m.zoom)).max(),
        "shading": np.abs(m.shading).max(),
    }
    for part, value in reached.items():
        assert 0.93 * far[part] < value <= far[part], part
    for part, way in (("across", m.shift[:, 0]), ("down", m.shift[:, 1])):
        assert 0.93 * far[part] < np.abs(way).max() <= far[part] + shake, part
    # Darker by up to 1.25 of the gain, brighter by 0.75 of it.
    assert -1.25 * far["gain"] <= m.gain.min() < -1.18 * far["gain"]
    assert 0.68 * far["gain"] < m.gain.max() <= 0.75 * far["gain"]
    assert 0.93 < np.abs(m.brows).max() <= 1
    assert m.blur.min() == 0 and 0.93 < m.blur.max() <= 1
    assert 0.4 < np.mean(m.blur == 0) < 0.6


@pytest.mark.parametrize("name", DIFFICULTIES)
def test_a_difficulty_has_its_published_ranges(name: str) -> None:
    for key, value in RANGES[name].items():
        assert getattr(DIFFICULTIES[name], key) == value, key


@pytest.mark.parametrize("name", DIFFICULTIES)
def test_each_part_moves_at_its_own_frequencies(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hz: head and camera 0.1 up to the pace, hands 2 to 5, light, brows and lens between."""
    asked: list[tuple[float, float]] = []
    wander = motion.drift

    def noted(rng: np.random.Generator, time: motion.Array, low: float, high: float) -> motion.Array:
        asked.append((low, round(high, 9)))
        return wander(rng, time, low, high)

    monkeypatch.setattr(motion, "drift", noted)
    draw_motion(np.random.default_rng(0), 30, 25.0, DIFFICULTIES[name])
    pace = RANGES[name]["pace"]
    head, light, shading, lens = (0.1, pace), (0.1, 1.5), (0.1, 0.8), (0.2, 1.0)
    zoom = (0.05, round(0.6 * pace, 9))
    assert asked == [*5 * [head], *2 * [(2.0, 5.0)], zoom, (0.2, 2.0), light, shading, shading, lens]


def test_shake_is_added_twice_its_deviation() -> None:
    d = DIFFICULTIES["hard"]
    calm = type(d)(**{**vars(d), "shake": 0.0})
    with_hand, without = (draw_motion(np.random.default_rng(2), 3000, FPS, x).shift for x in (d, calm))
    shake = with_hand - without
    assert 0.93 * 2 * d.shake < np.abs(shake).max() <= 2 * d.shake


@pytest.mark.parametrize(("low", "high"), [(0.1, 0.6), (2.0, 5.0)])
def test_wandering_is_five_waves_whose_slow_ones_reach_farther(low: float, high: float) -> None:
    """The sum, written out: log-uniform frequencies, amplitudes over the root of the frequency, bent to lie within 1."""
    time = np.arange(400) / FPS
    rng = np.random.default_rng(4)
    frequency = [np.log(low) + (np.log(high) - np.log(low)) * u for u in rng.random(5)]
    weight, phase = 0.5 + 0.5 * rng.random(5), 2 * np.pi * rng.random(5)
    total, power = np.zeros(400), 0.0
    for f, w, p in zip(np.exp(frequency), weight, phase, strict=True):
        total += w * f**-0.5 * np.sin(2 * np.pi * f * time + p)
        power += w * w / f
    expected = np.tanh(1.2 * total / power**0.5)
    np.testing.assert_allclose(motion.drift(np.random.default_rng(4), time, low, high), expected, atol=1e-12)


def test_lids_fall_faster_than_they_rise_and_rest_as_long_as_stated() -> None:
    time = np.arange(300_000) / 1000
    closure = blink(np.random.default_rng(7), time, (1.5, 4.0))
    shut = closure > 0
    starts, ends = np.flatnonzero(np.diff(shut.astype(int)) == 1) + 1, np.flatnonzero(np.diff(shut.astype(int)) == -1) + 1
    starts, ends = starts[: len(ends)], ends[: len(starts)]
    assert len(starts) > 60
    lengths, pauses = (ends - starts) / 1000, (starts[1:] - ends[:-1]) / 1000
    assert 0.148 < lengths.min() < 0.16 and 0.24 < lengths.max() < 0.252
    assert 1.49 < pauses.min() < 1.7 and 3.8 < pauses.max() < 4.01
    assert 0.1 <= starts[0] / 1000 <= 2.0
    depths = np.array([closure[a:b].max() for a, b in zip(starts, ends, strict=True)])
    assert 0.85 <= depths.min() < 0.87 and 0.98 < depths.max() <= 1
    for a, b, depth in zip(starts, ends, depths, strict=True):
        lid = closure[a:b] / depth
        falling, rising = np.searchsorted(lid, 0.5) / (b - a), 1 - np.flatnonzero(lid >= 0.5)[-1] / (b - a)
        # Half of the way after half of the fall (38 % of the blink) and before half of the rise (50 %).
        assert falling == pytest.approx(0.19, abs=0.015)
        assert rising == pytest.approx(0.25, abs=0.015)


def test_syllables_last_as_in_speech_and_phrases_pause() -> None:
    time = np.arange(80_000) / 400
    jaw, rounding = speak(np.random.default_rng(3), time)
    assert jaw.min() == 0 and 0.95 < jaw.max() <= 1
    assert -0.6 <= rounding.min() < -0.5 and 0.9 < rounding.max() <= 1
    closed = np.concatenate([[0], (jaw == 0).astype(int), [0]])
    starts, ends = np.flatnonzero(np.diff(closed) == 1), np.flatnonzero(np.diff(closed) == -1)
    pauses = (ends - starts)[1:-1] / 400
    pauses = pauses[pauses > 0.12]
    assert len(pauses) > 50
    # A pause of 0.15 to 0.8 s, less what the last syllable runs over (a quarter of a third of a second at most).
    assert pauses.max() < 0.8 and pauses.max() > 0.7
    talking = (starts[1:] - ends[:-1]) / 400
    # 3 to 9 syllables of 0.13 to 0.33 s.
    assert talking.max() < 9 * 0.334 and talking.max() > 1.6
    peaks = np.flatnonzero((jaw[1:-1] > jaw[:-2]) & (jaw[1:-1] >= jaw[2:]) & (jaw[1:-1] > 0.05))
    rate = 400 / np.diff(peaks)
    assert 3.0 < np.median(rate) < 7.5


def test_a_clip_of_no_frame_moves_nothing() -> None:
    none = np.zeros(0)
    assert blink(np.random.default_rng(0), none, (1.0, 2.0)).shape == (0,)
    assert all(part.shape == (0,) for part in speak(np.random.default_rng(0), none))
