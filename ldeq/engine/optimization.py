"""Loss, learning rate, optimizer and moving average of a training run, and the optimizer's state as named tensors."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from ..data import Layout
from .settings import OptimSettings, TrainSettings


def landmark_loss(predicted: Tensor, target: Tensor, kind: str) -> Tensor:
    """Mean over everything but x and y of `(..., K, 2)`: ``"l1"`` of |dx| and |dy|, ``"l2"`` of the Euclidean distance.

    Here and in the other losses, landmarks whose label is NaN are in no mean.
    """
    error, known = _error(predicted, target)
    return _mean(error.abs().mean(-1) if kind == "l1" else _length(error), known)


def flicker_loss(predicted: Tensor, target: Tensor) -> Tensor:
    """Mean Euclidean change of the error between consecutive frames, of sequences `(B, T, K, 2)`.

    What NMF measures (Micaelli et al., CVPR 2023, section 5), without its squares: an outlier does not rule a batch.
    """
    error, known = _error(predicted, target)
    return _mean(_length(error[:, 1:] - error[:, :-1]), known[:, 1:] & known[:, :-1])


def opening_loss(predicted: Tensor, target: Tensor, layout: Layout) -> Tensor:
    """Mean Euclidean error of the ways from upper to lower lids and lips, of landmarks `(..., K, 2)`.

    An eye that is drawn open over closed lids errs by little in each landmark and by much in this.
    """
    pairs = [pair for o in layout.openings.values() for pair in zip(o.upper[1:-1], o.lower[1:-1], strict=True)]
    if not pairs:
        return predicted.new_zeros(())
    upper, lower = (list(side) for side in zip(*pairs, strict=True))
    error, known = _error(predicted, target)
    return _mean(_length(error[..., upper, :] - error[..., lower, :]), known[..., upper] & known[..., lower])


def _error(predicted: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """The error `(..., K, 2)`, 0 where there is no label, and where there is one, `(..., K)`."""
    known = target.isfinite().all(-1)
    return torch.where(known[..., None], predicted - target, 0.0), known


def _mean(values: Tensor, known: Tensor) -> Tensor:
    return (values * known).sum() / known.sum().clamp(min=1)


def _length(vectors: Tensor) -> Tensor:
    # sqrt has no finite slope at 0; 1e-12 is the square of a millionth of a unit crop.
    return (vectors.square().sum(-1) + 1e-12).sqrt()


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
