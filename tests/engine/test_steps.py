"""A step that is skipped changes nothing, and a solve that gets nowhere is told once."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ldeq.engine import Trainer, TrainSettings, losses
from ldeq.engine.console import Console
from ldeq.engine.convergence import ConvergenceWatch
from ldeq.engine.losses import landmark_loss
from ldeq.engine.optimization import optimizer_tensors

Make = Callable[..., TrainSettings]


def everything(trainer: Trainer) -> dict[str, Tensor]:
    assert trainer.ema is not None
    parts = {
        "model": trainer.model.state_dict(),
        "ema": trainer.ema.state_dict(),
        "optimizer": optimizer_tensors(trainer.optimizer),
    }
    return {f"{part}/{name}": t.clone() for part, tensors in parts.items() for name, t in tensors.items()}


@pytest.mark.parametrize("poison", ["loss", "gradient"])
def test_a_skipped_step_leaves_weights_statistics_optimizer_and_average_as_they_were(
    make_settings: Make, monkeypatch: pytest.MonkeyPatch, poison: str
) -> None:
    trainer = Trainer(make_settings(data={"train": ["synthetic:4#size=48"], "val": []}), Console(False))
    item = next(iter(trainer.data.batches(0, 0)))
    trainer.train_step(item, 1e-3)
    before = everything(trainer)
    assert any("running_mean" in name for name in before)

    def poisoned(predicted: Tensor, target: Tensor, kind: str) -> Tensor:
        loss = landmark_loss(predicted, target, kind)
        return loss * float("nan") if poison == "loss" else BadSlope.apply(loss)

    monkeypatch.setattr(losses, "landmark_loss", poisoned)
    row = trainer.train_step(item, 1e-3)
    assert row["skipped_steps"] == 1
    after = everything(trainer)
    assert before.keys() == after.keys()
    assert [name for name in before if not torch.equal(before[name], after[name])] == []
    monkeypatch.undo()
    trainer.train_step(item, 1e-3)
    assert trainer.train_step.bad_steps == 0


class BadSlope(torch.autograd.Function):
    """A finite loss whose gradient is not."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:  # type: ignore[override]
        return x.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:  # type: ignore[override]
        return grad * float("inf")


def test_a_taken_step_changes_weights_statistics_optimizer_and_average(make_settings: Make) -> None:
    trainer = Trainer(make_settings(data={"train": ["synthetic:4#size=48"], "val": []}), Console(False))
    item = next(iter(trainer.data.batches(0, 0)))
    trainer.train_step(item, 1e-3)
    before = everything(trainer)
    trainer.train_step(item, 1e-3)
    same = [name for name, t in everything(trainer).items() if torch.equal(t, before[name])]
    assert [name for name in same if not name.endswith("num_batches_tracked")] == []


@pytest.mark.parametrize("fault", ["dropout", "expanding"])
def test_a_cell_that_cannot_converge_is_told_once_with_what_to_try(
    make_settings: Make, capsys: pytest.CaptureFixture[str], fault: str
) -> None:
    data = {"train": ["synthetic:4#size=48"], "val": [], "augmentation": "none"}
    trainer = Trainer(make_settings(epochs=110, optim={"lr": 1e-5, "ema": 0.0}, log_every=1000, save_every=1000, data=data))
    step = trainer.train_step

    def spoiled(item: dict[str, Any], lr: float, budget: int | None) -> dict[str, float]:
        # What the figures of such a cell are; a run with one takes minutes.
        return {**figures, "converged": 0.0, "residual": {"dropout": 0.4, "expanding": 30.0}[fault]}

    figures = step(next(iter(trainer.data.batches(0, 0))), 1e-5)
    spoiled.unfinished, spoiled.bad_steps = False, 0  # type: ignore[attr-defined]
    trainer.train_step = spoiled  # type: ignore[assignment]
    trainer.fit(None)
    told = capsys.readouterr().out
    assert told.count("no solve converged in the last 55 steps") == 1
    assert "dropout" in told and "expands" in told and "model.max_iter" in told
    assert f"mean residual {'0.4' if fault == 'dropout' else '30'}" in told


def test_a_real_dropout_in_the_cell_leaves_residuals_that_are_told(make_settings: Make) -> None:
    trainer = Trainer(make_settings(data={"train": ["synthetic:4#size=48"], "val": []}), Console(False))
    trainer.model.cell.head.register_forward_hook(lambda m, i, out: nn.functional.dropout(out, 0.5))
    row = trainer.train_step(next(iter(trainer.data.batches(0, 0))), 1e-4)
    assert row["converged"] == 0
    assert row["residual"] > trainer.watch.far


def test_a_spent_budget_near_the_fixed_point_is_no_fault() -> None:
    watch = ConvergenceWatch(tol=1e-4, relative=True, total_steps=1000)
    assert all(watch.update(1.0, 0.04) is None for _ in range(500))
    assert all(watch.update(1.0, 0.5) is None for _ in range(199))
    assert watch.update(0.9, 0.5) is None  # one sample that converges breaks the row
    assert all(watch.update(1.0, 0.5) is None for _ in range(199))
    assert "last 200 steps" in str(watch.update(1.0, 0.5))
    assert all(watch.update(1.0, 0.5) is None for _ in range(500))


def test_a_residual_with_a_scale_is_measured_by_the_tolerance() -> None:
    watch = ConvergenceWatch(tol=0.01, relative=False, total_steps=1)
    assert all(watch.update(1.0, 9.9) is None for _ in range(100))
    assert any(watch.update(1.0, 10.1) for _ in range(50))


def test_the_speed_counts_every_picture_of_a_step(make_settings: Make) -> None:
    trainer = Trainer(make_settings(data={"train": ["synthetic:4#size=48"], "val": []}), Console(False))
    item = next(iter(trainer.data.batches(0, 0)))
    trainer.train_step(item, 1e-3)
    begin = time.perf_counter()
    row = trainer.train_step(item, 1e-3)
    seconds = time.perf_counter() - begin
    # The step's own clock stops a little earlier.
    assert len(item["image"]) <= row["images_per_s"] * seconds < 2 * len(item["image"])
