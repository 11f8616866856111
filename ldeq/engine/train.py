"""Training: one loop for one process or many, with exact resume.

What a step does depends on the settings, the weights and (epoch, step) alone: the order of faces comes from (seed, epoch),
the variation of each from (seed, epoch, face), the learning rate from the step. So a run that was stopped anywhere and
resumed gives the same weights, bit for bit on the same machine, as one that was not.
"""

from __future__ import annotations

import json
import math
import time
from pathlib import Path
from typing import Any, cast

import torch
import yaml
from torch import Tensor, nn
from torch import distributed as dist
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel

from ..data import contact_sheet, normalise, write_image
from ..errors import LdeqError
from ..files import user_path
from ..models import LDEQ
from ..models.sequence import WarmStarts
from . import checkpoint
from .checkpoint import CheckpointError
from .console import Console
from .device import autocast, memory_mb, resolve_device
from .evaluate import Evaluation, evaluate, join
from .interruption import StopRequest
from .optimization import (
    flicker_loss,
    landmark_loss,
    learning_rate,
    make_optimizer,
    moving_average,
    optimizer_tensors,
    restore_optimizer,
)
from .report import worst_faces
from .runlog import RunLog
from .settings import TrainSettings, from_mapping, to_mapping
from .training_data import TrainingData
from .transfer import transfer
from .weights import layout_entries, load_pretrained, save_weights

# Steps in a row whose loss or gradient is not finite, after which going on is no use.
MAX_BAD_STEPS = 20


class TrainingError(LdeqError, RuntimeError):
    """Training cannot go on; the message says why and what to do."""


class Trainer:
    """Trains an LDEQ as `TrainSettings` say.

    ```python
    Trainer(settings).fit()
    ```

    Under torchrun every process builds one; they share gradients (DDP: NCCL on GPUs, gloo on CPUs).
    """

    def __init__(self, settings: TrainSettings, console: Console | None = None) -> None:
        """
        Args:
            settings: the run.
            console: where progress goes; a terminal's live display, or plain lines where there is none.

        Raises:
            SettingsError: if data or model settings do not fit together.
        """
        self.settings = settings
        run = settings.run
        self.rank = dist.get_rank() if dist.is_initialized() else 0
        self.world = dist.get_world_size() if dist.is_initialized() else 1
        self.main = self.rank == 0
        self.device = resolve_device(run.device)
        self.console = console or Console(enabled=self.main)
        self.folder = user_path(run.out)
        self.log = RunLog(self.folder / "log.jsonl")

        self.data = TrainingData(settings, self.rank, self.world)
        self.layout, self.steps_per_epoch = self.data.layout, self.data.steps_per_epoch
        self.total_steps = self.steps_per_epoch * run.epochs

        torch.manual_seed(run.seed)
        self.model = LDEQ(settings.model).to(self.device)
        # A run that goes on has weights of its own.
        if run.start is not None and not checkpoint.checkpoints(self.folder):
            self._start_from(run.start)
        self.ema = self._moving_average()
        self.optimizer = make_optimizer(self.model, settings.optim)
        self.parallel: nn.Module = WarmStarts(self.model) if settings.data.sequence else self.model
        if self.world > 1:
            self.parallel = DistributedDataParallel(
                self.parallel, device_ids=[self.device.index] if self.device.type == "cuda" else None
            )
        self.epoch = 0
        self.step_in_epoch = 0
        self.best: float | None = None
        self.bad_steps = 0
        self.skipped: dict[str, str] = {}

    # --- the run ---

    def fit(self, resume: str | Path | None = "auto") -> Evaluation | None:
        """Trains to the end, or until it is interrupted.

        Ctrl-C and SIGTERM finish the step, save, and say how to go on.

        Args:
            resume: ``"auto"`` goes on from the newest checkpoint in the run's folder if there is one; a path from that file;
                None starts anew and refuses a folder that holds checkpoints.

        Returns:
            The last validation of the first validation source, None if there was none.

        Raises:
            TrainingError: if the loss stays non-finite, or the run was interrupted.
            CheckpointError: if a checkpoint cannot be read, or the last one cannot be written.
        """
        self._resume(resume)
        if self.main:
            self.folder.mkdir(parents=True, exist_ok=True)
            checkpoint.write_atomically(
                self.folder / "config.yaml", yaml.safe_dump(to_mapping(self.settings), sort_keys=False).encode()
            )
        run = self.settings.run
        result: Evaluation | None = None
        failed_save: CheckpointError | None = None
        stop = StopRequest(lambda: self.console.say("stopping after this step; once more to stop at once, unsaved"))
        with stop, self.console.training(self.total_steps, self.step) as live:
            self.data.preload()
            while self.epoch < run.epochs:
                for item in self.data.batches(self.epoch, self.step_in_epoch, pin=self.device.type == "cuda"):
                    if self.step == 0 and self.main:
                        self._draw_first_batch(item)
                    row = self._train_step(item)
                    self.step_in_epoch += 1
                    if self.main:
                        live.update(self.step, row)
                        if self.step % run.log_every == 0 or self.step_in_epoch == self.steps_per_epoch:
                            self._log(row)
                    if stop.asked(self.device):
                        self._save()
                        raise TrainingError(
                            f"stopped at step {self.step} of {self.total_steps} and saved; go on with: "
                            f"ldeq train {self.folder / 'config.yaml'} --resume auto"
                        )
                self.epoch += 1
                self.step_in_epoch = 0
                last = self.epoch == run.epochs
                if self.data.val_sets and (last or self.epoch % run.validate_every == 0):
                    result = self._validate()
                if last or self.epoch % run.save_every == 0:
                    try:
                        self._save()
                        failed_save = None
                    except CheckpointError as error:
                        # A full disk must not end a run: space may be made before the next save.
                        failed_save = error
                        self.console.warn(f"{error}; training goes on, free some space")
        if failed_save:
            raise failed_save
        self._report_skipped()
        return result

    @property
    def step(self) -> int:
        """Steps done since the start of the run."""
        return self.epoch * self.steps_per_epoch + self.step_in_epoch

    # --- one step ---

    def _train_step(self, item: dict[str, Any]) -> dict[str, float]:
        begin = time.perf_counter()
        optim = self.settings.optim
        self.model.train()
        images = normalise(item["image"].to(self.device, non_blocking=True))
        target = item["landmarks"].to(self.device, non_blocking=True)
        lr = learning_rate(self.settings, self.step, self.steps_per_epoch)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        with autocast(self.device, self.settings.run.amp):
            out = self.parallel(images)
        loss = landmark_loss(out.landmarks, target, optim.loss)
        if optim.flicker:
            loss = loss + optim.flicker * flicker_loss(out.landmarks, target)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), optim.clip if optim.clip else math.inf)
        loss_value, norm_value = torch.stack((loss.detach(), norm)).tolist()
        finite = math.isfinite(norm_value) and math.isfinite(loss_value)
        if finite:
            self.optimizer.step()
            if self.ema:
                self.ema.update_parameters(self.model)
            self.bad_steps = 0
        else:
            self.bad_steps += 1
            if self.bad_steps >= MAX_BAD_STEPS:
                raise TrainingError(
                    f"loss or gradient was not finite for {MAX_BAD_STEPS} steps in a row; lower optim.lr (now {optim.lr:g}), "
                    f"or go on from an earlier checkpoint in {self.folder} with --resume FILE"
                )
        for index, skipped in zip(item["index"].tolist(), item["skipped"].tolist(), strict=True):
            if skipped:
                name = self.data.describe(index)
                if name not in self.skipped:
                    self.skipped[name] = self.data.fault(index)
        with torch.no_grad():
            error = (out.landmarks - target).norm(dim=-1).mean(-1)
            left, right = self.layout.outer_eyes
            error = error / (target[..., left, :] - target[..., right, :]).norm(dim=-1)
            # Of a sequence, the mean over its frames.
            error = error.flatten(1).mean(1) if error.ndim > 1 else error
        adjoint = out.solution.adjoint
        evaluations, backward_evaluations = self.model.evaluations(out.solution, recording=True)
        # One transfer: each would wait for the device.
        per_sample = {
            "nme": 100 * error,
            "residual": out.solution.residual,
            "evaluations": evaluations,
            "backward_evaluations": backward_evaluations,
            "backward_residual": adjoint.residual if adjoint else torch.full_like(error, math.nan),
        }
        means = torch.stack([v.detach().double() for v in per_sample.values()]).mean(1).tolist()
        return {
            "lr": lr,
            "loss": loss_value,
            "grad_norm": norm_value,
            **dict(zip(per_sample, means, strict=True)),
            "images_per_s": images.shape[:-3].numel() * self.world / (time.perf_counter() - begin),
            "memory_mb": memory_mb(self.device),
            "skipped_steps": float(self.bad_steps),
        }

    # --- parts ---

    def _start_from(self, name: str) -> None:
        taken, left = transfer(load_pretrained(name), self.model, self.layout)
        if self.main:
            self.console.say(f"start: {taken} weights of {name}" + (f"; drawn at random: {', '.join(left)}" if left else ""))

    def _moving_average(self) -> AveragedModel | None:
        decay = self.settings.optim.ema
        return moving_average(self.model, decay) if decay else None

    @property
    def evaluated(self) -> LDEQ:
        """The model that is scored and shipped: the moving average once there is one."""
        if self.ema and int(self.ema.n_averaged) > 0:
            return cast(LDEQ, self.ema.module)
        return self.model

    # --- validation ---

    def _validate(self) -> Evaluation:
        results = []
        for dataset in self.data.val_sets:
            part = evaluate(
                self.evaluated,
                dataset,
                batch=self.settings.run.batch,
                workers=self.settings.data.workers,
                amp=self.settings.run.amp,
                weights="moving average of the weights" if self.ema else "weights as trained",
                share=(self.rank, self.world),
            )
            if self.world > 1:
                parts: list[Any] = [None] * self.world
                dist.all_gather_object(parts, part)
                part = join(parts)
            results.append(part)
            if self.main:
                row = {
                    "val": dataset.faces.name,
                    "protocol": part.protocol,
                    **part.summary,
                    "evaluations": float(part.evaluations.mean()),
                }
                self._log(row)
                self.console.say(
                    f"epoch {self.epoch}: NME {part.summary['nme']:.2f} %, FR10 {part.summary['fr10']:.2f} %, AUC10 "
                    f"{part.summary['auc10']:.3f} ({part.protocol})"
                )
        score = results[0].summary["nme"]
        if self.main:
            write_image(self.folder / "worst.png", worst_faces(results[0], self.data.val_sets[0], count=12))
        if self.best is None or score < self.best:
            self.best = score
            if self.main:
                self._write_weights(self.folder / "best.safetensors", {"validation": results[0].summary})
        return results[0]

    def _write_weights(self, path: Path, extra: dict[str, Any]) -> None:
        try:
            save_weights(path, self.evaluated, self.layout, self.settings, extra)
        except CheckpointError as error:
            self.console.warn(f"{error}; training goes on, free some space")

    # --- saving and resuming ---

    def _save(self) -> None:
        if not self.main:
            return
        groups: dict[str, dict[str, Tensor]] = {
            "model": self.model.state_dict(),
            "optimizer": optimizer_tensors(self.optimizer),
            "rng": {"torch": torch.get_rng_state()},
        }
        if self.device.type == "cuda":
            groups["rng"]["cuda"] = torch.cuda.get_rng_state(self.device)
        if self.ema:
            groups["ema"] = self.ema.module.state_dict()
            groups["ema_count"] = {"n_averaged": self.ema.n_averaged}
        document = {
            "kind": "training",
            "settings": to_mapping(self.settings),
            **layout_entries(self.layout),
            "position": {"epoch": self.epoch, "step_in_epoch": self.step_in_epoch, "steps_per_epoch": self.steps_per_epoch},
            "world": self.world,
            "best": self.best,
            "bad_steps": self.bad_steps,
            "skipped": self.skipped,
        }
        path = self.folder / f"step-{self.step:08d}.safetensors"
        checkpoint.save(path, groups, document)
        checkpoint.write_atomically(self.folder / "last.json", json.dumps({"checkpoint": path.name, **document}).encode())
        checkpoint.prune(self.folder, self.settings.run.keep)

    def _resume(self, resume: str | Path | None) -> None:
        if resume is None:
            if checkpoint.checkpoints(self.folder):
                raise TrainingError(
                    f"{self.folder} already holds checkpoints; go on with --resume auto, or choose another run.out"
                )
            self._rewind_log(0)
            return
        if str(resume) == "auto":
            found = checkpoint.newest(self.folder)
            if found is None:
                self._rewind_log(0)
                return
            path, groups, document, complaints = found
            for complaint in complaints:
                self.console.warn(f"{complaint}; going on from the one before it")
        else:
            path = Path(resume)
            groups, document = checkpoint.load(path)
        if document["kind"] != "training":
            raise CheckpointError(f"{path} holds weights only, and a run cannot go on from it; use a step-*.safetensors file")
        self._check_same_run(from_mapping(document["settings"]), document)
        self.model.load_state_dict(groups["model"])
        restore_optimizer(self.optimizer, groups["optimizer"])
        if self.ema:
            if "ema" not in groups:
                raise CheckpointError(f"{path} has no moving average; set optim.ema: 0, or start anew")
            self.ema.module.load_state_dict(groups["ema"])
            self.ema.n_averaged.copy_(groups["ema_count"]["n_averaged"])
        torch.set_rng_state(groups["rng"]["torch"])
        if self.device.type == "cuda" and "cuda" in groups["rng"]:
            torch.cuda.set_rng_state(groups["rng"]["cuda"], self.device)
        self.epoch, self.step_in_epoch = document["position"]["epoch"], document["position"]["step_in_epoch"]
        self.best, self.bad_steps, self.skipped = document["best"], document["bad_steps"], dict(document["skipped"])
        self._rewind_log(self.step)
        self.console.say(f"resumed from {path} at step {self.step} of {self.total_steps}")

    def _check_same_run(self, saved: TrainSettings, document: dict[str, Any]) -> None:
        """What must not change under a resume: it would load, and mean something else."""
        position = document["position"]
        for name, before, now in (
            ("model", saved.model, self.settings.model),
            ("run.seed", saved.run.seed, self.settings.run.seed),
            ("run.batch x processes", saved.run.batch * document["world"], self.settings.run.batch * self.world),
            ("steps per epoch", position["steps_per_epoch"], self.steps_per_epoch),
            ("optim.name", saved.optim.name, self.settings.optim.name),
            ("data.sequence", saved.data.sequence, self.settings.data.sequence),
        ):
            if before != now:
                raise CheckpointError(
                    f"the checkpoint was made with another {name} ({before}, now {now}); put it back, or start anew in "
                    "another run.out"
                )

    def _rewind_log(self, step: int) -> None:
        if self.main:
            self.log.rewind(step)

    # --- telling ---

    def _log(self, row: dict[str, Any]) -> None:
        complaint = self.log.append({"step": self.step, "epoch": self.step / self.steps_per_epoch, **row})
        if complaint:
            self.console.warn(f"{complaint}; training goes on")

    def _draw_first_batch(self, item: dict[str, Any]) -> None:
        size = self.settings.model.image_size
        images = [image.permute(1, 2, 0).numpy() for image in item["image"].reshape(-1, 3, size, size)]
        points = [p.numpy() * size for p in item["landmarks"].reshape(-1, self.layout.count, 2)]
        # A sequence a row.
        columns = self.settings.data.sequence or 4
        write_image(self.folder / "batch.png", contact_sheet(images, points, self.layout, columns=columns))

    def _report_skipped(self) -> None:
        listed = [s for d in self.data.train_sets for s in getattr(d.faces, "skipped", ())] + list(self.skipped.items())
        if listed and self.main:
            self.console.warn(f"{len(listed)} {'face' if len(listed) == 1 else 'faces'} could not be used:")
            for path, reason in listed:
                self.console.say(f"  {path}: {reason}")
