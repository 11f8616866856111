"""The learning rate, the losses, the moving average and the weight decay, by their formulas."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch

from ldeq.data import IBUG68, WFLW98, Layout
from ldeq.engine import TrainSettings
from ldeq.engine.losses import flicker_loss, landmark_loss, opening_loss
from ldeq.engine.optimization import learning_rate, make_optimizer, moving_average
from ldeq.engine.step import TrainingStep
from ldeq.models import LDEQ

Make = Callable[..., TrainSettings]


def test_the_cycle_warms_up_in_steps_and_falls_by_half_a_cosine(make_settings: Make) -> None:
    settings = make_settings(epochs=4, optim={"lr": 0.2, "warmup": 0.25})
    found = [learning_rate(settings, step, 10) for step in range(40)]
    expected = [0.2 * (s + 1) / 10 for s in range(10)] + [0.1 * (1 + math.cos(math.pi * (s - 10) / 30)) for s in range(10, 40)]
    assert found == pytest.approx(expected, rel=1e-12)


def test_without_a_warm_up_the_first_step_has_the_full_rate(make_settings: Make) -> None:
    settings = make_settings(epochs=1, optim={"lr": 0.2, "warmup": 0.0})
    assert learning_rate(settings, 0, 5) == 0.2
    assert learning_rate(settings, 1, 5) == pytest.approx(0.2)
    assert learning_rate(settings, 2, 5) == pytest.approx(0.1 * (1 + math.cos(math.pi / 4)))
    # A warm-up as long as the run.
    whole = make_settings(epochs=1, optim={"lr": 0.2, "warmup": 1.0})
    assert [learning_rate(whole, s, 4) for s in range(4)] == pytest.approx([0.05, 0.1, 0.15, 0.2])


def test_milestones_count_from_their_epochs_first_step(make_settings: Make) -> None:
    settings = make_settings(epochs=6, optim={"lr": 1.0, "schedule": "step", "milestones": [2, 4], "gamma": 0.1})
    found = [learning_rate(settings, step, 3) for step in (0, 5, 6, 11, 12, 17)]
    assert found == pytest.approx([1.0, 1.0, 0.1, 0.1, 0.01, 0.01])


def test_losses_are_their_formulas() -> None:
    predicted, target = torch.zeros(2, 3, 2, dtype=torch.float64), torch.zeros(2, 3, 2, dtype=torch.float64)
    predicted[0, 1] = torch.tensor([3.0, -4.0], dtype=torch.float64)
    assert float(landmark_loss(predicted, target, "l1")) == pytest.approx(7 / 12)
    assert float(landmark_loss(predicted, target, "l2")) == pytest.approx(5 / 6, abs=1e-5)
    frames, still = torch.zeros(1, 3, 1, 2, dtype=torch.float64), torch.zeros(1, 3, 1, 2, dtype=torch.float64)
    frames[0, 1, 0] = torch.tensor([3.0, 4.0], dtype=torch.float64)
    frames[0, 2, 0] = torch.tensor([3.0, 4.0], dtype=torch.float64)
    assert float(flicker_loss(frames, still)) == pytest.approx(2.5, abs=1e-5)
    # The change of the error counts, not that of the landmarks.
    assert float(flicker_loss(frames, frames)) == pytest.approx(0.0, abs=1e-5)
    # At zero the slope is finite.
    flat = torch.zeros(1, 2, 2, requires_grad=True)
    landmark_loss(flat, torch.zeros(1, 2, 2), "l2").backward()
    assert flat.grad is not None and bool(torch.isfinite(flat.grad).all())


@pytest.mark.parametrize("decay", [0.9, 0.3])
def test_the_moving_average_follows_its_formula(decay: float) -> None:
    model = torch.nn.Linear(1, 1, bias=False)
    average = moving_average(model, decay)
    expected = 0.0
    for n in range(20):
        with torch.no_grad():
            model.weight.fill_(float(n * n))
        average.update_parameters(model)
        # torch copies the first one.
        d = min(decay, (1 + n) / (10 + n)) if n else 0.0
        expected = d * expected + (1 - d) * n * n
        assert float(average.module.weight) == pytest.approx(expected, rel=1e-5)


def test_weights_of_two_dimensions_decay_and_no_others(make_settings: Make) -> None:
    model = torch.nn.Sequential(torch.nn.Conv2d(2, 3, 1), torch.nn.BatchNorm2d(3), torch.nn.Linear(3, 1))
    for name, kind in (("adam", torch.optim.Adam), ("adamw", torch.optim.AdamW)):
        optimizer = make_optimizer(model, make_settings(optim={"name": name, "weight_decay": 0.3, "lr": 0.01}).optim)
        assert type(optimizer) is kind
        decays = {id(p): (g["weight_decay"], g["lr"]) for g in optimizer.param_groups for p in g["params"]}
        assert [decays[id(p)] for p in model.parameters()] == [(0.3 if p.ndim > 1 else 0.0, 0.01) for p in model.parameters()]


def test_the_opening_loss_is_the_error_of_the_ways_between_lids_and_lips() -> None:
    points = torch.rand(3, 68, 2, generator=torch.Generator().manual_seed(0))
    # Landmarks that are all off by the same leave every opening as it is.
    assert float(opening_loss(points + 0.2, points, IBUG68)) < 2e-6
    moved = points.clone()
    moved[:, 37] += torch.tensor([0.03, 0.04])  # the upper lid of one of 4 pairs of the eyes and 3 of the lips
    assert float(opening_loss(moved, points, IBUG68)) == pytest.approx(0.05 / 7, abs=1e-5)
    # What has no openings has none that are wrong.
    bare = Layout("two", 2, (1, 0), (0, 1), {})
    assert float(opening_loss(points[:, :2] + 1, points[:, :2], bare)) == 0


def test_the_weight_of_openings_is_in_the_loss(make_settings: Make) -> None:
    losses = []
    for weight in (0.0, 2.0):
        torch.manual_seed(0)
        settings = make_settings(optim={"openings": weight, "ema": 0.0})
        step = TrainingStep(settings, LDEQ(settings.model), WFLW98)
        side = settings.model.image_size
        target = torch.rand(2, 98, 2, generator=torch.Generator().manual_seed(1))
        item = {"image": torch.full((2, 3, side, side), 100, dtype=torch.uint8), "landmarks": target}
        losses.append(step(item, 0.0)["loss"])
    assert losses[1] > losses[0] + 0.1
