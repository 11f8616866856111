"""Learning rate, optimizer and moving average of a training run, and the optimizer's state as named tensors."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from .settings import OptimSettings, TrainSettings


def learning_rate(settings: TrainSettings, step: int, steps_per_epoch: int) -> float:
    """The learning rate of a step: a function of the step alone, so that a resume needs no state."""
    optim = settings.optim
    if optim.schedule == "constant":
        return optim.lr
    if optim.schedule == "step":
        return optim.lr * optim.gamma ** sum(step >= m * steps_per_epoch for m in optim.milestones)
    total = steps_per_epoch * settings.run.epochs
    warm = max(1, round(optim.warmup * total))
    if step < warm:
        return optim.lr * (step + 1) / warm
    return optim.lr * 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, total - warm)))


def budget_of(settings: TrainSettings, step: int) -> int | None:
    """Evaluations of a step's forward solve, None for the model's own; of the step alone, so that a resume needs no state."""
    if not settings.optim.stochastic_iter:
        return None
    generator = torch.Generator().manual_seed(settings.run.seed * 1_000_000 + step)
    return int(torch.randint(1, settings.model.max_iter + 1, (), generator=generator))


def make_optimizer(model: nn.Module, optim: OptimSettings) -> torch.optim.Optimizer:
    """Adam or AdamW; weight decay on weights of two dimensions and more alone."""
    groups = [
        {"params": [p for p in model.parameters() if p.ndim > 1], "weight_decay": optim.weight_decay},
        {"params": [p for p in model.parameters() if p.ndim <= 1], "weight_decay": 0.0},
    ]
    kind = torch.optim.AdamW if optim.name == "adamw" else torch.optim.Adam
    return kind(groups, lr=optim.lr)


def moving_average(model: nn.Module, decay: float) -> AveragedModel:
    """Exponential moving average of weights and buffers.

    The decay of update n is min(decay, (1 + n) / (10 + n)): with the full decay from the start, the random weights of the
    first step would weigh on the average for 1 / (1 - decay) steps and early validations would score them.
    """

    def average(averaged: Sequence[Tensor], current: Sequence[Tensor], count: Tensor | int) -> None:
        n = int(count)
        get_ema_multi_avg_fn(min(decay, (1 + n) / (10 + n)))(averaged, current, count)

    return AveragedModel(model, multi_avg_fn=average, use_buffers=True)


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The state as ``parameter number/name`` -> tensor."""
    state = optimizer.state_dict()["state"]
    return {f"{index}/{key}": value for index, entry in state.items() for key, value in entry.items()}


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """Puts back what `optimizer_tensors` gave; torch moves it to the parameters' device."""
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        index, key = name.split("/")
        state.setdefault(int(index), {})[key] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
