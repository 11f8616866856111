"""The losses on heatmaps and the Wing loss, against their formulas written out number by number."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from ldeq.engine import SettingsError, Trainer, TrainSettings
from ldeq.engine.console import Console
from ldeq.engine.losses import heatmap_loss, landmark_loss
from ldeq.engine.optimization import budget_of
from ldeq.ops import heatmap_normalise

Make = Callable[..., TrainSettings]


def maps_of(batch: int = 2, landmarks: int = 3, height: int = 6, width: int = 7) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = 6 * torch.randn(batch, landmarks, height, width, generator=generator, dtype=torch.float64)
    target = 0.1 + 0.7 * torch.rand(batch, landmarks, 2, generator=generator, dtype=torch.float64)
    return torch.exp(0.4 * (logits - logits.amax((-2, -1), keepdim=True))), target


def mean_of_landmarks(z: Tensor, target: Tensor, value: Callable[[list[list[float]], float, float], float]) -> float:
    """The mean of what `value` gives for each map and its label in pixels of the map."""
    height, width = z.shape[-2:]
    found = [
        value(z[b, k].tolist(), float(target[b, k, 0]) * width, float(target[b, k, 1]) * height)
        for b in range(z.shape[0])
        for k in range(z.shape[1])
    ]
    return sum(found) / len(found)


def gaussian(x: float, y: float, row: int, column: int, sigma: float) -> float:
    return math.exp(-((column - x) ** 2 + (row - y) ** 2) / (2 * sigma**2))


def adaptive_wing_of(sigma: float) -> Callable[[list[list[float]], float, float], float]:
    def of_map(rows: list[list[float]], x: float, y: float) -> float:
        height, width = len(rows), len(rows[0])
        total = 0.0
        for i in range(height):
            for j in range(width):
                target, error = gaussian(x, y, i, j, sigma), abs(gaussian(x, y, i, j, sigma) - rows[i][j])
                around = [
                    gaussian(x, y, a, b, sigma)
                    for a in range(max(0, i - 1), min(height, i + 2))
                    for b in range(max(0, j - 1), min(width, j + 2))
                ]
                slope = 14 / (1 + 0.5 ** (2.1 - target)) * (2.1 - target) * 0.5 ** (1.1 - target)
                offset = 0.5 * slope - 14 * math.log(1 + 0.5 ** (2.1 - target))
                loss = 14 * math.log(1 + error ** (2.1 - target)) if error < 0.5 else slope * error - offset
                total += loss * (11 if max(around) >= 0.2 else 1)
        return total / (height * width)

    return of_map


def structured_of(sigma: float, margin: float) -> Callable[[list[list[float]], float, float], float]:
    def of_map(rows: list[list[float]], x: float, y: float) -> float:
        places = [(i, j) for i in range(len(rows)) for j in range(len(rows[0]))]
        side, mass = max(len(rows), len(rows[0])), sum(map(sum, rows))
        q = [gaussian(x, y, i, j, sigma) for i, j in places]
        log_p = [math.log(rows[i][j] / mass) for i, j in places]
        raised = [value + margin * math.hypot(j - x, i - y) / side for value, (i, j) in zip(log_p, places, strict=True)]
        return math.log(sum(map(math.exp, raised))) - sum(a * value for a, value in zip(q, log_p, strict=True)) / sum(q)

    return of_map


@pytest.mark.parametrize("sigma", [0.7, 1.0, 2.5])
def test_the_adaptive_wing_loss_is_that_of_the_paper(sigma: float) -> None:
    z, target = maps_of()
    expected = mean_of_landmarks(z, target, adaptive_wing_of(sigma))
    assert float(heatmap_loss(z, target, "adaptive_wing", sigma)) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(("sigma", "margin"), [(1.0, 0.0), (0.6, 1.0), (2.0, 7.5)])
def test_the_structured_loss_is_the_smooth_hinge(sigma: float, margin: float) -> None:
    z, target = maps_of()
    expected = mean_of_landmarks(z, target, structured_of(sigma, margin))
    assert float(heatmap_loss(z, target, "structured", sigma, margin)) == pytest.approx(expected, rel=1e-9)


def test_without_a_margin_the_structured_loss_is_the_cross_entropy() -> None:
    z, target = maps_of()
    dx = torch.arange(7) - target[..., 0, None, None] * 7
    dy = torch.arange(6)[:, None] - target[..., 1, None, None] * 6
    q = torch.exp(-(dx**2 + dy**2) / 2).flatten(2)
    log_p = (z / z.sum((-2, -1), keepdim=True)).log().flatten(2)
    expected = torch.nn.functional.cross_entropy(log_p.flatten(0, 1), (q / q.sum(-1, keepdim=True)).flatten(0, 1))
    assert float(heatmap_loss(z, target, "structured", margin=0)) == pytest.approx(float(expected), rel=1e-9)


@pytest.mark.parametrize("pixels", [0.01, 1.0, 9.9, 10.1, 60.0])
def test_the_wing_loss_is_a_logarithm_near_zero_and_a_line_far_away(pixels: float) -> None:
    expected = 10 * math.log(1 + pixels / 2) if pixels < 10 else pixels - (10 - 10 * math.log(6))
    predicted = torch.tensor([[[0.5 + pixels / 256, 0.5]]], dtype=torch.float64)
    found = 256 * float(landmark_loss(predicted, torch.full_like(predicted, 0.5), "wing"))
    assert found == pytest.approx(expected / 2, rel=1e-9)  # nothing in y


@pytest.mark.parametrize("kind", ["adaptive_wing", "structured"])
def test_gradients_of_losses_on_heatmaps_are_right(kind: str) -> None:
    z, target = maps_of(1, 2, 5, 5)
    z = (0.02 + 0.9 * z).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: heatmap_loss(x, target, kind), z)


@pytest.mark.parametrize("kind", ["adaptive_wing", "structured"])
@pytest.mark.parametrize("label", [(math.nan, 0.5), (-0.01, 0.5), (0.5, 0.99), (3.0, 0.5)])
def test_a_label_outside_of_the_map_is_in_no_mean(kind: str, label: tuple[float, float]) -> None:
    z, target = maps_of()
    z.requires_grad_()
    missing = target.clone()
    missing[:, 1] = torch.tensor(label)
    loss = heatmap_loss(z, missing, kind)
    rest = [0, 2]
    assert float(loss.detach()) == pytest.approx(float(heatmap_loss(z.detach()[:, rest], target[:, rest], kind)), rel=1e-9)
    loss.backward()
    assert z.grad is not None and z.grad.isfinite().all() and not z.grad[:, 1].any()


@pytest.mark.parametrize("kind", ["adaptive_wing", "structured"])
def test_heatmaps_that_are_zero_almost_everywhere_give_finite_gradients(kind: str) -> None:
    z = torch.zeros(1, 1, 8, 8)
    z[..., 1, 1] = 1
    z.requires_grad_()
    heatmap_loss(z, torch.tensor([[[0.5, 0.5]]]), kind).backward()
    assert z.grad is not None and z.grad.isfinite().all()


@pytest.mark.parametrize("kind", ["adaptive_wing", "structured"])
def test_a_descent_on_the_heatmap_finds_the_label(kind: str) -> None:
    """The peak comes to the label's pixel though no loss is on what is read from the map."""
    logits = torch.zeros(1, 1, 16, 16, requires_grad=True)
    target = torch.tensor([[[0.3, 0.6]]])
    optimizer = torch.optim.Adam([logits], lr=0.3)
    for _ in range(200):
        optimizer.zero_grad()
        heatmap_loss(heatmap_normalise(logits, 1.0), target, kind).backward()
        optimizer.step()
    row, column = divmod(int(logits.argmax()), 16)
    assert (column, row) == (round(0.3 * 16), round(0.6 * 16))


def log_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("loss", ["wing", "adaptive_wing", "structured"])
def test_every_loss_trains(make_settings: Make, loss: str, tmp_path: Path) -> None:
    settings = make_settings(
        epochs=6,
        optim={"loss": loss, "lr": 3e-3},
        data={"train": ["synthetic:16#size=48"], "val": []},
        out=str(tmp_path / "run"),
    )
    trainer = Trainer(settings, Console(False))
    trainer.fit()
    losses = [row["loss"] for row in log_of(tmp_path / "run") if "loss" in row]
    assert len(losses) == 24
    assert sum(losses[-4:]) < sum(losses[:4])


@pytest.mark.parametrize("group", [{"loss": "structured"}, {"loss": "adaptive_wing"}, {"stochastic_iter": True}])
def test_what_is_for_single_photos_is_refused_with_sequences(make_settings: Make, group: dict[str, Any]) -> None:
    with pytest.raises(SettingsError, match="single photos"):
        make_settings(optim=group, data={"sequence": 3, "cache": False})


def test_budgets_are_drawn_from_all_and_are_the_same_after_a_resume(make_settings: Make) -> None:
    fixed = make_settings(model={"max_iter": 4})
    drawn = make_settings(model={"max_iter": 4}, optim={"stochastic_iter": True})
    assert budget_of(fixed, 5) is None
    budgets = [budget_of(drawn, step) for step in range(200)]
    assert set(budgets) == {1, 2, 3, 4}
    assert budgets == [budget_of(drawn, step) for step in range(200)]


def test_a_drawn_budget_is_spent(make_settings: Make, tmp_path: Path) -> None:
    settings = make_settings(
        model={"max_iter": 4, "tol": 0.0},
        epochs=6,
        optim={"stochastic_iter": True},
        data={"train": ["synthetic:8#size=48"], "val": []},
        out=str(tmp_path / "run"),
    )
    trainer = Trainer(settings, Console(False))
    trainer.fit()
    found = [row["evaluations"] for row in log_of(tmp_path / "run") if "evaluations" in row]
    # One more is the tracked evaluation at the solution.
    assert found == [budget_of(settings, step) + 1 for step in range(12)]  # type: ignore[operator]
