"""The tracker: RwR against full solves, crops, states that move with the crop, losses, batches."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from clips import drawn, moving, shifted, tight
from numpy.typing import NDArray

from ldeq import Landmarker
from ldeq.data import SquareBox, crop_box, crop_matrix, invert, normalise, transform_points, warp
from ldeq.ops import heatmap_readout
from ldeq.video.crops import follow_crop, move_heatmaps
from ldeq.video.tracking import FaceState, Tracker, TrackingSettings


@pytest.fixture(scope="module")
def lm() -> Landmarker:
    return Landmarker.load("small-68", "cpu")


def track(lm: Landmarker, frames: list[NDArray[np.uint8]], box: object, settings: TrackingSettings) -> NDArray[np.float32]:
    tracker = Tracker(lm.model, lm.pretrained.crop_scale, settings)
    state = tracker.start(box)  # type: ignore[arg-type]
    estimates = [tracker.step([f], [state])[0] for f in frames]
    assert not any(e.lost for e in estimates)
    return np.stack([e.points for e in estimates])


def test_the_first_frame_is_what_the_landmarker_gives(lm: Landmarker) -> None:
    image, points = drawn(3)
    (face,) = lm(image, [tight(points)])
    tracker = Tracker(lm.model, lm.pretrained.crop_scale)
    (estimate,) = tracker.step([image], [tracker.start(tight(points))])
    np.testing.assert_allclose(estimate.points, face.points, atol=1e-4)
    np.testing.assert_allclose(estimate.std, face.std, atol=1e-4)
    assert (estimate.reset, estimate.lost, estimate.evaluations) == ("start", None, 4)


def test_rwr_is_the_cell_at_the_last_frames_state(lm: Landmarker) -> None:
    frames = list(moving(3, 3))
    box = tight(drawn(3)[1])
    tracker = Tracker(lm.model, lm.pretrained.crop_scale, TrackingSettings(iters=2, check_every=0))
    state = tracker.start()
    square = crop_box("box", box=np.array(box), scale=lm.pretrained.crop_scale)
    matrix = crop_matrix(square, lm.model.config.image_size)
    z = None
    with torch.no_grad():
        for frame in frames:
            crop = warp(frame, matrix, lm.model.config.image_size)
            x = lm.model.stem(normalise(torch.from_numpy(crop)[None].permute(0, 3, 1, 2)))
            cell = lm.model.deq.cell
            z = torch.zeros(1, 68, 32, 32) if z is None else z
            for _ in range(4 if not z.any() else 2):
                z = cell(z, x)
            xy = heatmap_readout(z, eps=1e-4)[0][0].numpy() * lm.model.config.image_size
            (estimate,) = tracker.step([frame], [state], [box])
            np.testing.assert_allclose(estimate.points, transform_points(invert(matrix), xy), atol=2e-3)
    assert estimate.evaluations == 2


@pytest.mark.parametrize("rwr", [True, False])
def test_a_face_that_leaps_is_looked_at_again_where_it_is(lm: Landmarker, rwr: bool) -> None:
    image, points = drawn(3)
    frames = [shifted(image, dx, dy) for dx, dy in ((0, 0), (0, 0), (-22, 14), (-22, 14))]
    tracker = Tracker(lm.model, lm.pretrained.crop_scale, TrackingSettings(rwr=rwr, check_every=0))
    state = tracker.start(tight(points))
    estimates = [tracker.step([frame], [state])[0] for frame in frames]
    there, leapt = estimates[1], estimates[2]
    # The crop is made from the first look's landmarks, here from the final ones.
    (alone,) = lm(frames[2], [tight(leapt.points)])
    assert np.abs(leapt.points - alone.points).mean() < 0.5
    assert np.abs(leapt.points - there.points - (-22, 14)).mean() < 1.5
    # The look that showed the leap, and the full solve after it.
    assert leapt.evaluations == (1 if rwr else 4) + 4
    assert (leapt.reset, leapt.lost) == (None, None)
    assert estimates[3].evaluations == (1 if rwr else 4)


def test_many_evaluations_a_frame_forget_the_last_one(lm: Landmarker) -> None:
    box, size = np.array(tight(drawn(3)[1])), lm.model.config.image_size
    matrix = crop_matrix(crop_box("box", box=box, scale=lm.pretrained.crop_scale), size)
    far = {1: 0.0, 3: 0.0, 12: 0.0}
    trackers = {n: Tracker(lm.model, lm.pretrained.crop_scale, TrackingSettings(iters=n, check_every=0)) for n in far}
    states = {n: tracker.start() for n, tracker in trackers.items()}
    for frame in moving(3, 5):
        images = normalise(torch.from_numpy(warp(frame, matrix, size))[None].permute(0, 3, 1, 2))
        with torch.no_grad():
            solved = transform_points(invert(matrix), lm.model(images, None, 15).landmarks[0].numpy() * size)
        for n, tracker in trackers.items():
            (estimate,) = tracker.step([frame], [states[n]], [box])
            if estimate.reset is None:
                far[n] = max(far[n], float(np.abs(estimate.points - solved).max()))
    assert far[1] > far[3] > far[12]
    assert far[12] < 0.01  # pixels


def test_one_evaluation_flickers_less_than_each_frame_alone_on_a_still_face(lm: Landmarker) -> None:
    image, points = drawn(3)
    frames = [shifted(image, 0, 0, 12, t) for t in range(24)]
    tremor = []
    for settings in (TrackingSettings(rwr=False), TrackingSettings(iters=1, check_every=0)):
        p = track(lm, frames, tight(points), settings)[5:]
        tremor.append(np.sqrt(((p[1:] - p[:-1]) ** 2).sum(-1).mean()))
    assert tremor[1] < 0.9 * tremor[0]


def test_faces_in_a_batch_are_faces_alone(lm: Landmarker) -> None:
    settings = TrackingSettings(check_every=3)
    tracker = Tracker(lm.model, lm.pretrained.crop_scale, settings)
    clips = [list(moving(seed, 5)) for seed in (3, 5)]
    boxes = [tight(drawn(seed)[1]) for seed in (3, 5)]
    states = [tracker.start(b) for b in boxes]
    # The second video starts two frames late, so that one call of step holds a carried face and a fresh one.
    together: list[list[NDArray[np.float32]]] = [[], []]
    for t in range(7):
        active = [i for i in (0, 1) if 0 <= t - 2 * i < 5]
        answers = tracker.step([clips[i][t - 2 * i] for i in active], [states[i] for i in active])
        for i, answer in zip(active, answers, strict=True):
            together[i].append(answer.points)
    for i in (0, 1):
        np.testing.assert_allclose(np.stack(together[i]), track(lm, clips[i], boxes[i], settings), atol=5e-3)


def test_given_boxes_are_the_crop(lm: Landmarker) -> None:
    frames, box = list(moving(3, 3)), np.array(tight(drawn(3)[1]))
    tracker = Tracker(lm.model, lm.pretrained.crop_scale)
    state = tracker.start()
    for t, frame in enumerate(frames):
        (estimate,) = tracker.step([frame], [state], [box + t])
        assert estimate.square == crop_box("box", box=box + t, scale=lm.pretrained.crop_scale)
    with pytest.raises(ValueError, match="a face without a crop"):
        tracker.step([frame], [tracker.start()])
    with pytest.raises(ValueError, match=r"boxes must have shape \(1, 4\)"):
        tracker.step([frame], [state], [1, 2, 3, 4])
    with pytest.raises(ValueError, match="1 states need as many frames, got 2"):
        tracker.step([frame, frame], [state])
    assert tracker.step([], []) == []


def test_tracked_boxes_find_the_points_of_given_ones(lm: Landmarker) -> None:
    frames = list(moving(3, 12))
    box = np.array(tight(drawn(3)[1]))
    tracker = Tracker(lm.model, lm.pretrained.crop_scale)
    state, given = tracker.start(box), tracker.start()
    for t, frame in enumerate(frames):
        shift = np.array([8 * np.cos(t / 9) - 8, 8 * np.sin(t / 9)] * 2)
        (a,), (b,) = tracker.step([frame], [state]), tracker.step([frame], [given], [box + shift])
        assert np.linalg.norm(a.points - b.points, axis=1).mean() < 0.04 * (box[2] - box[0])


def test_a_crop_that_trembles_within_its_slack_stands_still() -> None:
    square, rng = SquareBox.about(100, 80, 60), np.random.default_rng(0)
    for _ in range(50):
        dx, dy, ds = rng.uniform(-0.7, 0.7, 3)
        assert follow_crop(square, SquareBox.about(100 + dx, 80 + dy, 60 + ds), 0.02, 0.04) == square


def test_a_crop_follows_a_steady_motion_at_its_own_speed() -> None:
    square, path = SquareBox.about(0, 0, 100), []
    for t in range(40):
        square = follow_crop(square, SquareBox.about(3 * t, 4 * t, 100 * 1.02**t), 0.02, 0.04)
        path.append(square)
    for t in range(20, 39):
        assert np.hypot(3 * t - path[t].cx, 4 * t - path[t].cy) == pytest.approx(0.02 * path[t - 1].side, rel=0.3)
        assert path[t + 1].side / path[t].side == pytest.approx(1.02)


@pytest.mark.parametrize("side", [100.0, 77.0, 131.0])
def test_moved_heatmaps_stay_over_their_place_in_the_picture(side: float) -> None:
    h, before, after = 32, SquareBox.about(50, 60, 100), SquareBox.about(57.3, 55.1, side)
    rows, columns = torch.meshgrid(torch.arange(h).double(), torch.arange(h).double(), indexing="ij")
    centres = torch.tensor([[14.0, 15.0], [18.5, 12.25], [12.0, 19.7]], dtype=torch.float64)
    z = torch.stack([torch.exp(-((columns - x) ** 2 + (rows - y) ** 2) / 8) for x, y in centres])[None]
    z = z / z.amax((-2, -1), keepdim=True)
    moved = move_heatmaps(z, [before], [after])
    assert moved.shape == z.shape
    torch.testing.assert_close(moved.amax((-2, -1)), torch.ones(1, 3, dtype=torch.float64))
    image = []
    for maps, square in ((z, before), (moved, after)):
        crop = heatmap_readout(maps, coords="unit")[0][0].numpy() * 4 * h
        image.append(transform_points(invert(crop_matrix(square, 4 * h)), crop))
    # An eighth of a heatmap's column, which is 3 pixels of the picture here: the tails that leave the crop are cut.
    np.testing.assert_allclose(image[1], image[0], atol=0.4)
    torch.testing.assert_close(move_heatmaps(z, [before], [before]), z, rtol=0, atol=1e-9)
    assert not move_heatmaps(z, [before], [SquareBox.about(900, 900, 100)]).any()


def test_a_face_that_is_covered_is_lost_with_the_reason(lm: Landmarker) -> None:
    frames, box = list(moving(3, 4)), tight(drawn(3)[1])
    tracker = Tracker(lm.model, lm.pretrained.crop_scale, TrackingSettings(check_every=2, patience=2))
    state = tracker.start(box)
    for frame in frames:
        assert tracker.step([frame], [state])[0].lost is None
    reasons = []
    for t in range(8):
        noise = np.random.default_rng(t).integers(0, 255, frames[0].shape).astype(np.uint8)
        reasons.append(tracker.step([noise], [state])[0].lost)
        if reasons[-1]:
            break
    assert reasons[-1] is not None
    assert "does not settle" in reasons[-1] or "size changed" in reasons[-1]


def test_a_face_that_leaves_the_picture_is_lost(lm: Landmarker) -> None:
    image, points = drawn(3)
    wide = np.zeros((256, 500, 3), np.uint8)
    tracker = Tracker(lm.model, lm.pretrained.crop_scale)
    state = tracker.start(np.array(tight(points)))
    lost = None
    for t in range(60):
        frame = wide.copy()
        x = 8 * t
        width = min(256, 500 - x)
        if width > 0:
            frame[:, x : x + width] = image[:, :width]
        lost = tracker.step([frame], [state])[0].lost
        if lost:
            break
    assert lost is not None
    assert 30 < t < 60


def test_a_state_that_drifted_is_solved_anew(lm: Landmarker) -> None:
    image, points = drawn(3)
    tracker = Tracker(lm.model, lm.pretrained.crop_scale, TrackingSettings(check_every=1))
    state: FaceState = tracker.start(tight(points))
    (first,) = tracker.step([image], [state])
    assert state.z is not None
    # A state of another place: a cell that forgets within an evaluation would give the same points all the same.
    state.z = torch.roll(state.z, (14, -14), (-2, -1))
    (second,) = tracker.step([image], [state])
    assert np.abs(second.points - first.points).mean() < 0.15 * (points.max() - points.min())


@pytest.mark.parametrize(
    "name, value", [("iters", 0), ("slack", -0.1), ("side_slack", -1), ("patience", 0), ("check_every", -1)]
)
def test_settings_out_of_range_are_named(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"{name} must be >= "):
        TrackingSettings(**{name: value})  # type: ignore[arg-type]


@pytest.mark.parametrize("returns", ["f", "x"])
def test_the_released_settings_spend_two_evaluations_on_every_frame_the_first_included(lm: Landmarker, returns: str) -> None:
    frames = list(moving(3, 3))
    box = tight(drawn(3)[1])
    model = lm.model.with_solver(returns=returns)
    tracker = Tracker(model, lm.pretrained.crop_scale, TrackingSettings.released())
    state = tracker.start()
    matrix = crop_matrix(crop_box("box", box=np.array(box), scale=lm.pretrained.crop_scale), model.config.image_size)
    z = torch.zeros(1, 68, 32, 32)
    for frame in frames:
        crop = warp(frame, matrix, model.config.image_size)
        with torch.no_grad():
            x = model.stem(normalise(torch.from_numpy(crop)[None].permute(0, 3, 1, 2)))
            z = model.cell(model.cell(z, x), x)
        xy = heatmap_readout(z, eps=1e-4)[0][0].numpy() * model.config.image_size
        (estimate,) = tracker.step([frame], [state], [box])
        np.testing.assert_allclose(estimate.points, transform_points(invert(matrix), xy), atol=2e-3)
        assert (estimate.evaluations, estimate.lost) == (2, None)


def test_the_released_settings_judge_nothing_where_boxes_are_given(lm: Landmarker) -> None:
    """A face that another judge would call lost keeps its state, as the published figures want it."""
    image, points = drawn(3)
    blank = np.zeros_like(image)
    states = {}
    for name, settings in {
        "released": TrackingSettings.released(),
        "ours": TrackingSettings(check_every=1, patience=1),
    }.items():
        tracker = Tracker(lm.model, lm.pretrained.crop_scale, settings)
        state = tracker.start()
        tracker.step([image], [state], [tight(points)])
        states[name] = [tracker.step([blank], [state], [tight(points)])[0].lost for _ in range(4)]
    assert states["released"] == [None] * 4
    assert any(states["ours"])


def test_a_loop_that_returns_x_spends_no_evaluation_for_nothing(lm: Landmarker) -> None:
    """Two evaluations of such a model were f(z) twice, since x was the state that it started from."""
    frames = list(moving(3, 3))
    box = tight(drawn(3)[1])
    found: list[Any] = []
    for returns in ("f", "x"):
        tracker = Tracker(
            lm.model.with_solver(returns=returns), lm.pretrained.crop_scale, TrackingSettings(iters=2, check_every=0)
        )
        state = tracker.start()
        tracker.step(frames[:1], [state], [box])
        start = found[0][0] if found else state.z
        state.z = start
        found.append((start, tracker.step(frames[1:2], [state], [box])[0].points))
    np.testing.assert_allclose(found[0][1], found[1][1], atol=1e-3)
