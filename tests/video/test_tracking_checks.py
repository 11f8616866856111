"""What the tracker's checks and settings do: deviations in pixels, states that move with the crop, suspicion, drift."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from clips import drawn, moving, shifted, tight
from torch import Tensor

from ldeq import Landmarker
from ldeq.cli.following import Pipeline
from ldeq.data import crop_box, crop_matrix, normalise, warp
from ldeq.models.ldeq import LDEQOutput
from ldeq.video.crops import move_heatmaps
from ldeq.video.plausible import impossible
from ldeq.video.tracking import DRIFT, SUSPECT_EVERY, Tracker, TrackingSettings

Change = Callable[[LDEQOutput, Tensor | None], LDEQOutput]


@pytest.fixture
def lm() -> Landmarker:
    return Landmarker.load("small-68", "cpu")


def intercept(monkeypatch: pytest.MonkeyPatch, lm: Landmarker, change: Change | None = None) -> list[Tensor | None]:
    """Where each solve of the model starts, noted; and its answer changed."""
    starts: list[Tensor | None] = []
    forward = lm.model.forward

    def noted(images: Tensor, z0: Tensor | None = None, max_iter: int | None = None) -> LDEQOutput:
        starts.append(None if z0 is None else z0.clone())
        out = forward(images, z0, max_iter)
        return out if change is None else change(out, z0)

    monkeypatch.setattr(lm.model, "forward", noted)
    return starts


def test_deviations_are_the_models_own_in_pixels_of_the_picture(lm: Landmarker) -> None:
    image, points = drawn(3)
    size = lm.model.config.image_size
    for scale in (1, 2):
        picture = np.ascontiguousarray(np.kron(image, np.ones((scale, scale, 1), np.uint8)))
        box = np.array(tight(points)) * scale
        square = crop_box("box", box=box, scale=lm.pretrained.crop_scale)
        crop = warp(picture, crop_matrix(square, size), size)
        with torch.no_grad():
            out = lm.model(normalise(torch.from_numpy(crop)[None].permute(0, 3, 1, 2)))
        # Unit coordinates are shares of the crop: its side in pixels is the factor.
        expected = out.std[0].numpy() * square.side
        (alone,) = lm(picture, [box])
        with lm.stream(boxes=[box]) as stream:
            (first,) = stream(picture)
        for face in (alone, first):
            np.testing.assert_allclose(face.std, expected, rtol=1e-4)
        # A deviation that is told is about what a face has: 2 to 10 % of the eyes' distance, not of the picture's size.
        eyes = float(np.linalg.norm(alone.points[36:42].mean(0) - alone.points[42:48].mean(0)))
        assert 0.02 < float(alone.std.mean()) / eyes < 0.2


@pytest.mark.parametrize("register", [True, False])
def test_a_registered_state_moves_with_the_crop_and_another_does_not(
    monkeypatch: pytest.MonkeyPatch, lm: Landmarker, register: bool
) -> None:
    image, points = drawn(3)
    box = np.array(tight(points))
    starts = intercept(monkeypatch, lm)
    settings = TrackingSettings(check_every=0, register=register)
    tracker = Tracker(lm.model, lm.pretrained.crop_scale, settings)
    state = tracker.start()
    tracker.step([image], [state], [box])
    assert state.z is not None
    before, z = crop_box("box", box=box, scale=lm.pretrained.crop_scale), state.z.clone()
    tracker.step([image], [state], [box + 9.0])
    after = crop_box("box", box=box + 9.0, scale=lm.pretrained.crop_scale)
    moved = move_heatmaps(z, [before], [after])
    assert (moved - z).abs().max() > 0.2
    assert starts[0] is None and starts[1] is not None
    torch.testing.assert_close(starts[1], moved if register else z)


def test_ldeq_video_registers_its_states() -> None:
    assert Pipeline()._tracking(False).register


def test_heatmaps_that_spread_are_reason_to_check_before_the_next_turn(monkeypatch: pytest.MonkeyPatch, lm: Landmarker) -> None:
    frames = list(moving(3, SUSPECT_EVERY + 4))
    spread = 1.0

    def widened(out: LDEQOutput, z0: Tensor | None) -> LDEQOutput:
        return out._replace(std=out.std * spread)

    intercept(monkeypatch, lm, widened)
    box = tight(drawn(3)[1])
    for factor, expected in ((1.0, [1, 1, 1]), (1.4, [1, 1, 1]), (1.8, [1, 5, 1])):
        spread = 1.0
        tracker = Tracker(lm.model, lm.pretrained.crop_scale, TrackingSettings(check_every=1000))
        state = tracker.start(box)
        for frame in frames[: SUSPECT_EVERY + 1]:
            tracker.step([frame], [state])
        evaluations = []
        for number, frame in enumerate(frames[SUSPECT_EVERY + 1 :]):
            spread = factor if number == 0 else 1.0
            (estimate,) = tracker.step([frame], [state])
            assert estimate.lost is None
            evaluations.append(estimate.evaluations)
        assert evaluations == expected, factor


def mirrored(points: Tensor, share: float) -> Tensor:
    """Landmarks moved by a share of the way to their mirror image: the extent's middle stays, so that it is no leap."""
    x = points[..., 0]
    other = x.amin(-1, keepdim=True) + x.amax(-1, keepdim=True) - x
    return torch.stack((x + share * (other - x), points[..., 1]), -1)


@pytest.mark.parametrize(("share", "drifts"), [(0.0, False), (0.1, False), (1.0, True)])
def test_a_carried_state_that_has_drifted_off_the_face_is_replaced(
    monkeypatch: pytest.MonkeyPatch, lm: Landmarker, share: float, drifts: bool
) -> None:
    image, points = drawn(3)
    box = tight(points)
    (alone,) = lm(image, [box])

    def drifted(out: LDEQOutput, z0: Tensor | None) -> LDEQOutput:
        return out if z0 is None else out._replace(landmarks=mirrored(out.landmarks, share))

    intercept(monkeypatch, lm, drifted)
    tracker = Tracker(lm.model, lm.pretrained.crop_scale, TrackingSettings(check_every=1))
    state = tracker.start()
    tracker.step([image], [state], [box])
    (second,) = tracker.step([image], [state], [box])
    off = float(np.linalg.norm(second.points - alone.points, axis=1).mean()) / (box[2] - box[0])
    if drifts:
        assert second.reset is not None and "the carried state was" in second.reset
        np.testing.assert_allclose(second.points, alone.points, atol=1e-3)
    else:
        assert second.reset is None
        assert off < DRIFT


def test_no_check_no_drift(monkeypatch: pytest.MonkeyPatch, lm: Landmarker) -> None:
    image, points = drawn(3)

    def drifted(out: LDEQOutput, z0: Tensor | None) -> Any:
        return out if z0 is None else out._replace(landmarks=mirrored(out.landmarks, 1.0))

    intercept(monkeypatch, lm, drifted)
    tracker = Tracker(lm.model, lm.pretrained.crop_scale, TrackingSettings(check_every=0))
    state = tracker.start()
    for _ in range(3):
        (estimate,) = tracker.step([shifted(image, 0, 0)], [state], [tight(points)])
    assert estimate.reset is None


def test_what_cannot_be_the_face_of_a_crop_is_told_with_its_reason() -> None:
    def answer(x: float, y: float, side: float, std: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
        points = np.array([[x, y], [x + side, y], [x, y + side / 2]], np.float32)
        return points, np.full(3, std, np.float32)

    shape = (100, 200)
    assert impossible(*answer(50, 20, 40), 40.0, shape) is None
    assert impossible(*answer(50, 20, 12), 12.0, shape) is None
    assert impossible(*answer(50, 20, 11.9), 12.0, shape) == "the face is 12 pixels small"
    assert impossible(*answer(50, 20, 21), 40.0, shape) is None
    assert impossible(*answer(50, 20, 18), 40.0, shape) == "the face's size changed by a factor of 0.45"
    assert impossible(*answer(50, 20, 56), 40.0, shape) == "the face's size changed by a factor of 1.40"
    assert impossible(*answer(185, 20, 40), 40.0, shape) is None
    assert impossible(*answer(189.5, 20, 40), 40.0, shape) == "75 % of the face left the picture"
    assert impossible(*answer(50, -15, 40), 40.0, shape) == "72 % of the face left the picture"
    assert impossible(*answer(50, 20, 40, math.nan), 40.0, shape) == "the model answered with NaN"
    assert impossible(*answer(math.inf, 20, 40), 40.0, shape) == "the model answered with NaN"
