"""One training step: forward, loss, backward, update, and the figures that it leaves."""

from __future__ import annotations

import math
import time
from typing import Any

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel

from ..data import Layout, normalise
from ..models import LDEQ
from ..models.sequence import WarmStarts
from ..solvers import Status
from .device import autocast, memory_mb
from .distributed import mean_over_processes
from .losses import training_loss
from .optimization import make_optimizer, moving_average
from .settings import TrainSettings


class TrainingStep:
    """What a step needs and changes: model, optimizer, moving average.

    Args:
        settings: of the run.
        model: on its device.
        layout: of the labels.

    Attributes:
        bad_steps: steps in a row whose loss or gradient was not finite.
        unfinished: whether a step is under way, so that weights and optimizer may not fit each other.
    """

    def __init__(self, settings: TrainSettings, model: LDEQ, layout: Layout) -> None:
        self.settings, self.model, self.layout = settings, model, layout
        self.device = next(model.parameters()).device
        self.world = dist.get_world_size() if dist.is_initialized() else 1
        decay = settings.optim.ema
        self.ema: AveragedModel | None = moving_average(model, decay) if decay else None
        self.optimizer = make_optimizer(model, settings.optim)
        self.parallel: nn.Module = WarmStarts(model) if settings.data.sequence else model
        if self.world > 1:
            self.parallel = DistributedDataParallel(
                self.parallel, device_ids=[self.device.index] if self.device.type == "cuda" else None
            )
        self.bad_steps = 0
        self.unfinished = False
        self._buffers = list(model.buffers())
        self._buffers_before = [buffer.clone() for buffer in self._buffers]

    def __call__(self, item: dict[str, Any], lr: float, budget: int | None = None) -> dict[str, float]:
        """Takes a step on a batch.

        A step whose loss or gradient is not finite leaves everything as it was: weights, optimizer, moving average, and the
        statistics that BatchNorm gathered on the way.

        Args:
            item: a batch of `TrainingData`.
            lr: its learning rate.
            budget: evaluations of its forward solve; the model's own if None.

        Returns:
            the figures of the step, means over this process's samples.
        """
        begin = time.perf_counter()
        self.unfinished = True
        optim = self.settings.optim
        self.model.train()
        images = normalise(item["image"].to(self.device, non_blocking=True))
        target = item["landmarks"].to(self.device, non_blocking=True)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        if self._buffers:
            torch._foreach_copy_(self._buffers_before, self._buffers)
        with autocast(self.device, self.settings.run.amp):
            out = self.parallel(images) if budget is None else self.parallel(images, max_iter=budget)
        loss = training_loss(out, target, self.layout, optim)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), optim.clip if optim.clip else math.inf)
        # One decision in all processes: else their weights would part.
        loss_value, norm_value = torch.stack((mean_over_processes(loss.detach()), norm)).tolist()
        self._update(math.isfinite(norm_value) and math.isfinite(loss_value))
        self.unfinished = False
        return {
            "lr": lr,
            "loss": loss_value,
            "grad_norm": norm_value,
            **self._figures(out, target),
            "images_per_s": images.shape[:-3].numel() * self.world / (time.perf_counter() - begin),
            "memory_mb": memory_mb(self.device),
            "skipped_steps": float(self.bad_steps),
        }

    def _update(self, finite: bool) -> None:
        if finite:
            self.optimizer.step()
            if self.ema:
                self.ema.update_parameters(self.model)
            self.bad_steps = 0
            return
        self.bad_steps += 1
        with torch.no_grad():
            if self._buffers:
                torch._foreach_copy_(self._buffers, self._buffers_before)

    @torch.no_grad()
    def _figures(self, out: Any, target: Tensor) -> dict[str, float]:
        # Of landmarks that have a label.
        error = (out.landmarks - target).norm(dim=-1).nanmean(-1)
        left, right = self.layout.outer_eyes
        error = error / (target[..., left, :] - target[..., right, :]).norm(dim=-1)
        # Of a sequence, the mean over its frames.
        error = error.flatten(1).mean(1) if error.ndim > 1 else error
        solution, adjoint = out.solution, out.solution.adjoint
        evaluations, backward_evaluations = self.model.evaluations(solution, recording=True)
        per_sample = {
            "nme": 100 * error,
            "residual": solution.residual,
            "converged": solution.status == Status.CONVERGED,
            "evaluations": evaluations,
            "backward_evaluations": backward_evaluations,
            "backward_residual": adjoint.residual if adjoint else torch.full_like(error, math.nan),
        }
        # One transfer: each would wait for the device.
        means = torch.stack([v.detach().double() for v in per_sample.values()]).mean(1).tolist()
        return dict(zip(per_sample, means, strict=True))
