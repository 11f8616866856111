from __future__ import annotations

import math

import numpy as np
import pytest

from ldeq import metrics
from ldeq.data import IBUG68, WFLW98, Layout

RNG = np.random.default_rng


def moving_face(frames: int = 130, count: int = 68, seed: int = 0) -> np.ndarray:
    """A face that wanders, grows and turns slowly while its points move to and fro at 4 Hz: `(T, K, 2)`."""
    rng = RNG(seed)
    shape, time = rng.uniform(-60, 60, (count, 2)), np.arange(frames) / 30
    phase = rng.uniform(0, 6, (count, 2))
    wave = 2.0 * np.sin(2 * np.pi * 4 * time[:, None, None] + phase)
    zoom = 1 + 0.1 * np.sin(time)
    way = np.stack([20 * np.sin(2 * time), 12 * np.cos(1.5 * time)], -1)
    return (shape + wave) * zoom[:, None, None] + way[:, None] + 150


def nmf_by_loops(predicted: np.ndarray, points: np.ndarray) -> float:
    """Section 5 of the paper, one landmark and one frame at a time."""
    over_frames = []
    for t in range(1, len(points)):
        width = max(p[0] for p in points[t]) - min(p[0] for p in points[t])
        height = max(p[1] for p in points[t]) - min(p[1] for p in points[t])
        total = 0.0
        for l in range(points.shape[1]):  # noqa: E741
            now, before = (points[s][l] - predicted[s][l] for s in (t, t - 1))
            total += (100 * math.dist(now, before) / math.sqrt(width * height / 256**2)) ** 2
        over_frames.append(total / points.shape[1])
    return math.sqrt(sum(over_frames) / len(over_frames))


def nad_by_loops(predicted: np.ndarray, points: np.ndarray, k: int) -> float:
    frames, terms = len(points), []
    for j in range(frames - 2 * k + 1):
        size = points[j + k].max(0) - points[j + k].min(0)
        for l in range(points.shape[1]):  # noqa: E741
            first = sum(points[i][l] - predicted[i][l] for i in range(j, j + k)) / k
            second = sum(points[i][l] - predicted[i][l] for i in range(j + k, j + 2 * k)) / k
            terms.append(0.5 * ((second - first) ** 2).sum() * (100 * 256) ** 2 / (size[0] * size[1]))
    return math.sqrt(sum(terms) / len(terms))


def test_nmf_and_nad_equal_their_formulas_written_out() -> None:
    points = moving_face(30, 7)
    predicted = points + RNG(1).normal(0, 2, points.shape)
    assert metrics.normalised_mean_flicker(predicted, points) == pytest.approx(nmf_by_loops(predicted, points), rel=1e-12)
    for k in (1, 3, 8, 15):
        nad = metrics.normalised_allan_deviation(predicted, points, k)
        assert nad == pytest.approx(nad_by_loops(predicted, points, k), rel=1e-10)


def test_nad_of_one_frame_is_nmf_over_the_root_of_two() -> None:
    points = moving_face()
    predicted = points + RNG(2).normal(0, 1, points.shape)
    nmf = metrics.normalised_mean_flicker(predicted, points)
    assert metrics.normalised_allan_deviation(predicted, points) == pytest.approx(nmf / math.sqrt(2), rel=1e-12)


def test_a_constant_offset_does_not_flicker_and_is_an_error() -> None:
    points = moving_face()
    summary = metrics.video_summary(points + [3.0, 4.0], points, IBUG68)
    assert summary["nmf"] < 1e-9
    assert summary["nad8"] < 1e-9
    assert abs(summary["lag"]) < 0.02
    assert summary["mouth"] < 1e-9
    inter_ocular = IBUG68.inter_ocular(points)
    assert summary["nme"] == pytest.approx((500 / inter_ocular).mean(), rel=1e-12)


def test_white_jitter_of_a_known_size() -> None:
    """Two independent coordinates a frame: the difference has 4 sigma^2 of variance."""
    shape = np.concatenate([[[0.0, 0.0], [200.0, 128.0]], RNG(3).uniform(0, [200, 128], (200, 2))])
    points = np.broadcast_to(shape, (4000, 202, 2))
    predicted = points + RNG(4).normal(0, 0.5, points.shape)
    expected = 100 * math.sqrt(4 * 0.25) / math.sqrt(200 * 128 / 256**2)
    assert metrics.normalised_mean_flicker(predicted, points) == pytest.approx(expected, rel=0.01)
    # White noise averages out: NAD(8) is NAD(1) / sqrt(8).
    ratio = metrics.normalised_allan_deviation(predicted, points, 8) / metrics.normalised_allan_deviation(predicted, points, 1)
    assert ratio == pytest.approx(1 / math.sqrt(8), rel=0.02)


def test_a_slow_drift_hides_from_nmf_and_not_from_nad8() -> None:
    points = moving_face()
    drift = 6 * np.sin(np.arange(len(points)) / 20)[:, None, None] * np.ones(2)
    jitter = RNG(5).normal(0, 1, points.shape)
    jitter *= metrics.normalised_mean_flicker(points + drift, points) / metrics.normalised_mean_flicker(points + jitter, points)
    slow, fast = (metrics.normalised_allan_deviation(points + e, points, 8) for e in (drift, jitter))
    assert slow > 10 * fast


@pytest.mark.parametrize("delay", [0, 1, 3, 7, -2])
def test_a_delay_of_whole_frames_is_found_exactly_enough(delay: int) -> None:
    long = moving_face(160)
    points, predicted = long[10:150], long[10 - delay : 150 - delay]
    assert metrics.lag(predicted, points) == pytest.approx(delay, abs=0.02)


def test_a_delay_between_frames_under_jitter_and_offset() -> None:
    time = np.arange(150.0)

    def track(t: np.ndarray) -> np.ndarray:
        phase = RNG(6).uniform(0, 6, (68, 2))
        return 100 + 15 * np.sin(2 * np.pi * 0.7 * t[:, None, None] / 30 + phase)

    for delay in (0.4, 2.5):
        predicted = track(time - delay) + RNG(7).normal(0, 0.5, (150, 68, 2)) + 4.0
        assert metrics.lag(predicted, track(time)) == pytest.approx(delay, abs=0.02)


def test_the_lag_of_a_causal_mean_is_half_its_window() -> None:
    points = moving_face(200)
    window = 5
    predicted = np.stack([points[t - window + 1 : t + 1].mean(0) for t in range(20, 200)])
    assert metrics.lag(predicted, points[20:]) == pytest.approx((window - 1) / 2, abs=0.1)


def test_what_does_not_move_has_no_lag() -> None:
    still = np.ones((40, 68, 2))
    assert math.isnan(metrics.lag(still + RNG(8).normal(0, 1, still.shape), still))


@pytest.mark.parametrize("layout", [IBUG68, WFLW98])
def test_openings_move_with_their_landmarks_only(layout: Layout) -> None:
    points = moving_face(20, layout.count)
    for name, opening in layout.openings.items():
        assert opening.upper[0] == opening.lower[0], name
        assert opening.upper[-1] == opening.lower[-1], name
        # A mouth drawn 6 px wide open everywhere, then predicted at 8.
        true, predicted = points.copy(), points.copy()
        for upper, lower in zip(opening.upper[1:-1], opening.lower[1:-1], strict=True):
            true[:, lower] = true[:, upper] + [0.0, 6.0]
            predicted[:, lower] = predicted[:, upper] + [0.0, 8.0]
        np.testing.assert_allclose(opening.width(true), 6.0, rtol=1e-12)
        expected = 2.0 / metrics.face_size(true)
        np.testing.assert_allclose(metrics.opening_errors(predicted, true, opening), expected, rtol=1e-9)


@pytest.mark.parametrize("layout", [IBUG68, WFLW98])
def test_openings_are_mirrored_onto_each_other(layout: Layout) -> None:
    names = {"mouth": "mouth", "left_eye": "right_eye", "right_eye": "left_eye"}
    for name, other in names.items():
        opening, mirrored = layout.openings[name], layout.openings[other]
        assert tuple(layout.mirror[i] for i in opening.upper[::-1]) == mirrored.upper
        assert tuple(layout.mirror[i] for i in opening.lower[::-1]) == mirrored.lower


def test_size_does_not_matter() -> None:
    points = moving_face()
    predicted = points + RNG(9).normal(0, 1, points.shape)
    small = metrics.video_summary(predicted / 3, points / 3, IBUG68)
    assert small == pytest.approx(metrics.video_summary(predicted, points, IBUG68), rel=1e-9)


def test_bad_tracks_are_refused() -> None:
    points = moving_face(20)
    with pytest.raises(ValueError, match=r"shape \(T, K, 2\)"):
        metrics.normalised_mean_flicker(points[:, :5], points)
    with pytest.raises(ValueError, match="at least 2 frames"):
        metrics.normalised_mean_flicker(points[:1], points[:1])
    with pytest.raises(ValueError, match="at least 16 frames"):
        metrics.normalised_allan_deviation(points[:15], points[:15], 8)
    with pytest.raises(ValueError, match="k must be at least 1"):
        metrics.normalised_allan_deviation(points, points, 0)
    with pytest.raises(ValueError, match="span an area"):
        metrics.face_size(np.ones((3, 5, 2)))
    with pytest.raises(ValueError, match="must be finite"):
        metrics.normalised_mean_flicker(np.where(points > 160, np.nan, points), points)
    with pytest.raises(ValueError, match="at least 8 frames"):
        metrics.lag(points[:7], points[:7])
