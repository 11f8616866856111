"""The parts of the filter in the face's frame against their formulas, one number at a time."""

from __future__ import annotations

import math

import numpy as np
import pytest

from ldeq.data.layouts import WFLW98
from ldeq.data.synthetic import SyntheticFaces
from ldeq.video.filters.face_frame import FaceFrame, FaceFrameSettings, Walk
from ldeq.video.filters.face_modes import _lids, face_modes, rigid_landmarks

DEFAULTS = {
    "noise": 0.036, "pose_process": 0.28, "bend_process": 0.0346, "opening_process": 0.066, "detail_process": 0.01,
    "lively_process": 0.044, "pose_speed": 0.01, "bend_speed": 0.471, "opening_speed": 6.0, "detail_speed": 0.00588,
    "trend": 0.05, "speed_cutoff": 47.6, "bend_gate": 1.0, "opening_gate": 50.0, "detail_gate": 28.9, "consensus": 1.7,
    "caution": 2.04, "usual": 2.0, "std_floor": 0.005,
}  # fmt: skip


def test_the_tuned_settings_are_those_that_were_measured() -> None:
    assert vars(FaceFrameSettings()) == DEFAULTS


@pytest.mark.parametrize("trend", [0.0, 0.2])
@pytest.mark.parametrize("gate", [math.inf, 1.5])
@pytest.mark.parametrize("share", [0.0, 0.7])
def test_a_walk_is_a_kalman_filter_of_a_random_walk(trend: float, gate: float, share: float) -> None:
    """Scalar recursion in plain Python: prediction, process noise that grows with the speed, gate, gain, trend."""
    rng = np.random.default_rng(0)
    y, dt, noise, process, speed_gain = np.cumsum(rng.normal(size=30)), 0.04, 0.3, 0.9, 0.4
    walk = Walk(y[:1].copy(), np.array([noise]))
    x, p, v, seen, left = float(y[0]), noise, 0.0, 0.0, 0.0
    for measured in y[1:].tolist():
        predicted = x + v * dt
        innovation = measured - predicted
        q = p + process * process * dt
        if share:
            seen += speed_gain * ((measured - x) / dt - seen)
            q += (share * dt * seen) ** 2
        surprise = min(innovation**2, (innovation - left) ** 2) / (q + noise)
        gain = q / (q + noise * (1 + surprise / gate**2))
        x, p = predicted + gain * innovation, (1 - gain) * q
        if trend:
            v += trend * gain**2 / (2 - gain) * innovation / dt
        left = measured - x
        found = walk.step(np.array([measured]), np.array([noise]), dt, process, share, speed_gain, trend, gate)
        assert found[0] == pytest.approx(x, abs=1e-12)
        assert walk.p[0] == pytest.approx(p, abs=1e-12)


def test_the_two_numbers_of_a_vector_share_their_speed_and_their_surprise() -> None:
    walk = Walk(np.zeros((1, 2)), np.full((1, 1), 0.1), vectors=True)
    found = walk.step(np.array([[3.0, 0.0]]), np.full((1, 1), 0.1), 0.1, 0.5, 0.2, 0.5, 0.0, 2.0)
    q = 0.1 + 0.5**2 * 0.1 + (0.2 * 0.1) ** 2 * (0.5 * 30.0) ** 2
    gain = q / (q + 0.1 * (1 + 4.5 / (4.0 * (q + 0.1))))
    np.testing.assert_allclose(found, [[3.0 * gain, 0.0]], atol=1e-12)


def test_noise_grows_where_a_heatmap_is_wider_than_usual_and_usual_follows_slowly() -> None:
    s = FaceFrameSettings()
    filter_ = FaceFrame(s, WFLW98)
    filter_._usual = None
    y, scale = np.zeros((1, 98, 2)), np.array([50.0])
    usual = math.log(2.0 / 50.0)
    np.testing.assert_allclose(filter_._variance(np.full((1, 98), 2.0), y, scale, 0.0), (s.noise * 0.04) ** 2, rtol=1e-12)
    for std, rate in ((6.0, 0.25), (1.0, 1.0), (5.0, 0.25)):
        above = math.log(std / 50.0) - usual
        expected = s.noise**2 * math.exp(2 * (math.log(std / 50.0) + s.caution * max(above, 0.0)))
        np.testing.assert_allclose(filter_._variance(np.full((1, 98), std), y, scale, 0.5), expected, rtol=1e-12)
        usual += rate * 0.5 / (s.usual + 0.5) * above
        np.testing.assert_allclose(np.asarray(filter_._usual), usual, rtol=1e-12)
    np.testing.assert_allclose(filter_._variance(None, y, scale, 0.5), (s.noise * s.std_floor) ** 2)


def test_a_mode_is_known_as_well_as_the_landmarks_that_it_moves() -> None:
    """The harmonic mean of the landmarks' variances with the squared steps of the field as weights, one by one."""
    rng = np.random.default_rng(4)
    shape = SyntheticFaces(1, seed=3, size=200).record(0).points.astype(np.float64)
    filtered = FaceFrame(FaceFrameSettings(), WFLW98)
    filtered._first(shape, np.full(98, 0.01))
    variance = rng.uniform(0.1, 3.0, 98)
    found = filtered._mode_variance(variance)
    fields = filtered._modes.fields.reshape(98, 2, -1)
    for mode in range(fields.shape[-1]):
        steps = [float((fields[k, :, mode] ** 2).sum()) for k in range(98)]
        expected = sum(steps) / sum(s / v for s, v in zip(steps, variance.tolist(), strict=True))
        assert found.reshape(-1)[mode] == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("y", [0.0, 100.0, -100.0])
@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("count", [8, 6])
def test_upper_and_lower_lid_are_told_apart_wherever_the_eye_lies(y: float, turned: bool, count: int) -> None:
    angle = np.linspace(0, 2 * math.pi, count, endpoint=False)
    ring = np.stack([-np.cos(angle), -0.3 * np.sin(angle) + y], -1)  # from the left corner over the upper lid
    line = list(range(count))
    if turned:
        line = [line[0], *line[:0:-1]]
    upper, lower = _lids(ring, line)
    above = ring[:, 1] < y - 0.01
    below = ring[:, 1] > y + 0.01
    assert (upper[above] > 0.1).all() and (lower[above] == 0).all()
    assert (lower[below] > 0.1).all() and (upper[below] == 0).all()


def test_the_modes_of_a_face_are_pose_lids_lips_width_and_jaw() -> None:
    shape = SyntheticFaces(1, seed=3, size=200).record(0).points.astype(np.float64)
    shape = (shape - shape.mean(0)) / 60
    modes = face_modes(WFLW98, shape)
    assert (len(modes.bend), len(modes.opening)) == (8, 9)  # four lids, two lips, the mouth as a whole, the jaw
    np.testing.assert_allclose(np.linalg.norm(modes.fields, axis=1).max(0), 1)
    lips = [i for name in ("outer_lip", "inner_lip") for i in WFLW98.parts[name].indices]
    moved = [set(np.flatnonzero(np.abs(modes.fields[..., k]).sum(1) > 1e-9).tolist()) for k in modes.opening]
    for side, k in (("left_eye", 0), ("left_eye", 1), ("right_eye", 2), ("right_eye", 3)):
        assert moved[k] and moved[k] <= set(WFLW98.parts[side].indices)
    upper, lower, width, whole = moved[4:8]
    assert upper and lower and not upper & lower and (upper | lower | width | whole) == set(lips) == whole
    rows = {k: modes.fields[..., modes.opening[k]] for k in range(9)}
    assert all(np.abs(rows[k][:, 0]).max() == 0 for k in (0, 1, 2, 3, 4, 5, 7, 8)) and np.abs(rows[6][:, 1]).max() == 0
    np.testing.assert_allclose(rows[7][lips, 1], 1)
    assert shape[list(upper), 1].mean() < shape[list(lower), 1].mean()


def test_the_contour_about_the_chin_is_not_rigid_and_its_ends_are() -> None:
    rigid = rigid_landmarks(WFLW98)
    assert np.flatnonzero(rigid[:33]).tolist() == [*range(8), *range(25, 33)]
    assert rigid[33:60].all() and np.flatnonzero(rigid[60:]).tolist() == [0, 12]
