"""What trembles is told apart from what moves."""

from __future__ import annotations

import numpy as np
import pytest

from ldeq.data.synthetic import SyntheticFaces
from ldeq.metrics import at_rest, face_size, in_face_frame, jitter

FACE = SyntheticFaces(3, seed=1, size=256).record(0).points.astype(np.float64)
SIZE = float(face_size(FACE))


def still(frames: int = 400) -> np.ndarray:
    return np.repeat(FACE[None], frames, 0)


def moved(frames: int = 100) -> np.ndarray:
    """A head that shifts, turns and comes nearer, smoothly."""
    t = np.arange(frames) / frames
    z = (FACE[:, 0] + 1j * FACE[:, 1])[None] - 100
    z = z * (1 + 0.3 * t)[:, None] * np.exp(0.4j * t)[:, None] + (60 * t)[:, None]
    return np.stack([z.real, z.imag], -1)


def test_white_noise_has_its_own_deviation() -> None:
    noise = np.random.default_rng(0).normal(0, 0.01 * SIZE, still().shape)
    value = np.sqrt((jitter(still() + noise) ** 2).mean())
    assert value == pytest.approx(np.sqrt(2) * 1.0, rel=0.03)  # percent of the face's size, x and y together


def test_steady_motion_does_not_tremble() -> None:
    t = np.arange(50)[:, None, None]
    assert jitter(still(50) + 7.0 * t).max() < 1e-9


def test_the_face_frame_takes_the_head_away_and_keeps_the_face() -> None:
    face = in_face_frame(moved())
    assert np.abs(face - face[0]).max() < 1e-9 * SIZE
    speaks = moved()
    speaks[:, 85:88, 1] += 5 * np.sin(np.arange(100) * 2)[:, None]
    assert np.ptp(in_face_frame(speaks)[:, 86, 1]) > 5


def test_a_leap_of_the_head_is_no_tremor_of_the_face() -> None:
    shaken = still(60) + np.random.default_rng(0).normal(0, 3, (60, 1, 2))
    assert jitter(shaken).mean() > 0.5
    assert jitter(in_face_frame(shaken)).max() < 1e-9


@pytest.mark.parametrize("fps", [25.0, 60.0])
def test_rest_is_found_under_noise(fps: float) -> None:
    count = int(2 * fps)
    noise = np.random.default_rng(0).normal(0, 0.005 * SIZE, (3 * count, 98, 2))
    track = still(3 * count)
    track[count : 2 * count] += (0.5 * SIZE * np.arange(count) / fps)[:, None, None]
    track[2 * count :] += 0.5 * SIZE * count / fps
    rest = at_rest(track + noise, fps)
    margin = int(0.8 * fps)
    assert rest[: count - margin].all() and rest[2 * count + margin :].all()
    assert not rest[count + margin : 2 * count - margin].any()


@pytest.mark.parametrize("points", [np.zeros((2, 5, 2)), np.zeros((5, 2)), np.full((5, 4, 2), np.nan)])
def test_what_is_no_track_is_refused(points: np.ndarray) -> None:
    with pytest.raises(ValueError, match="points must"):
        jitter(points)
