"""Training: one loop for one process or many, with exact resume.

What a step does depends on the settings, the weights and (epoch, step) alone: the order of faces comes from (seed, epoch),
the variation of each from (seed, epoch, face), the learning rate from the step. So a run that was stopped anywhere and
resumed gives the same weights, bit for bit on the same machine, as one that was not.

Each epoch is saved first and validated then: whatever ends a validation, nothing is lost, and a resume makes up for it.
"""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from torch import distributed as dist

from ..data import DataError, LandmarkDataset, contact_sheet, write_image
from ..errors import LdeqError
from ..files import user_path
from ..models import LDEQ
from . import checkpoint
from .checkpoint import CheckpointError
from .console import Console, TrainingDisplay
from .convergence import ConvergenceWatch
from .device import resolve_device
from .distributed import agreed, naming_lost_processes, share_buffers
from .documents import training_document
from .evaluate import Evaluation, evaluate, join
from .interruption import StopRequest
from .loading import LoaderError, dead_loaders_told
from .model_size import check_size
from .optimization import budget_of, learning_rate, optimizer_tensors, restore_optimizer
from .report import worst_faces
from .resume import check_changes
from .run_lock import RunLock
from .runlog import RunLog
from .settings import SettingsError, TrainSettings, dump, to_mapping
from .step import TrainingStep
from .tensorboard import TensorBoard, check_tensorboard
from .training_data import TrainingData
from .transfer import transfer
from .weights import layout_entries, load_pretrained, save_weights

# Steps in a row whose loss or gradient is not finite, after which going on is no use.
MAX_BAD_STEPS = 20


class TrainingError(LdeqError, RuntimeError):
    """Training cannot go on; the message says why and what to do."""


class _Stopped(LdeqError):
    """A validation was given up because the user asked to stop."""


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
        self.board: TensorBoard | None = None
        if run.tensorboard:
            check_tensorboard()

        check_size(settings.model, self.device)
        self.data = TrainingData(settings, self.rank, self.world)
        self.layout, self.steps_per_epoch = self.data.layout, self.data.steps_per_epoch
        self.total_steps = self.steps_per_epoch * run.epochs

        torch.manual_seed(run.seed)
        self.model = LDEQ(settings.model).to(self.device)
        # A run that goes on has weights of its own.
        if run.start is not None and not checkpoint.checkpoints(self.folder):
            self._start_from(run.start)
        self.train_step = TrainingStep(settings, self.model, self.layout)
        self.ema, self.optimizer = self.train_step.ema, self.train_step.optimizer
        self.watch = ConvergenceWatch(settings.model.tol, settings.model.stop != "absolute", self.total_steps)
        self.epoch = 0
        self.step_in_epoch = 0
        self.best: float | None = None
        self.saved = 0
        self.validation_due = False
        self.skipped: dict[str, str] = {}

    # --- the run ---

    def fit(self, resume: str | Path | None = "auto", allow_changes: bool = False) -> Evaluation | None:
        """Trains to the end, or until it is interrupted.

        Ctrl-C and SIGTERM finish the step, save, and say how to go on.

        Args:
            resume: ``"auto"`` goes on from the checkpoint in the run's folder that was saved last, if there is one; a path
                goes on from that file, which a name alone finds in the run's folder, too; None starts anew and refuses a
                folder that holds checkpoints.
            allow_changes: whether a run may go on under settings that change its course, such as another learning rate or
                augmentation.

        Returns:
            The last validation of the first validation source, None if there was none.

        Raises:
            TrainingError: if the loss stays non-finite, or the run was interrupted.
            CheckpointError: if a checkpoint cannot be read, its settings differ, or the last one cannot be written.
            FolderInUse: if another process trains in the run's folder.
            LoaderError: if a loader process dies.
            ProcessLost: if another process of the run ends or hangs.
        """
        stop = StopRequest(lambda: self.console.say("stopping after this step; once more to stop at once, unsaved"))
        with self._endings(), self._folder_held():
            self._resume(resume, allow_changes)
            if self.main:
                self._write_settings()
            with stop, self.console.training(self.total_steps, self.step) as live:
                result = self._train(stop, live)
        self._report_skipped()
        return result

    def _train(self, stop: StopRequest, live: TrainingDisplay) -> Evaluation | None:
        run = self.settings.run
        result = self._validate(stop) if self.validation_due else None
        self.data.preload()
        failed_save: CheckpointError | None = None
        while self.epoch < run.epochs:
            self._train_epoch(stop, live)
            last = self.epoch == run.epochs
            if self.validation_due or last or self.epoch % run.save_every == 0:
                failed_save = self._try_to_save()
            if self.validation_due:
                result = self._validate(stop)
        if failed_save:
            raise failed_save
        return result

    def _train_epoch(self, stop: StopRequest, live: TrainingDisplay) -> None:
        run = self.settings.run
        try:
            for item in self.data.batches(self.epoch, self.step_in_epoch, pin=self.device.type == "cuda"):
                if self.step == 0 and self.main:
                    self._draw("batch.png", partial(self._first_batch, item))
                lr = learning_rate(self.settings, self.step, self.steps_per_epoch)
                row = self.train_step(item, lr, budget_of(self.settings, self.step))
                self._after_step(item, row)
                if self.main:
                    live.update(self.step, row)
                    if self.step % run.log_every == 0 or self.step_in_epoch == 0:
                        self._log(row)
                if stop.asked(self.device):
                    self._save()
                    raise TrainingError(f"stopped at step {self.step} of {self.total_steps} and saved; {self._how_to_go_on()}")
        except LoaderError:
            if not self.train_step.unfinished:
                self._try_to_save()
            raise
        if self.step_in_epoch:  # the steps of this epoch had all been done before
            self._count_epoch()

    def _after_step(self, item: dict[str, Any], row: dict[str, float]) -> None:
        """Counts a step, and says what there is to say about it."""
        if self.train_step.bad_steps >= MAX_BAD_STEPS:
            raise TrainingError(
                f"loss or gradient was not finite for {MAX_BAD_STEPS} steps in a row; lower optim.lr (now "
                f"{self.settings.optim.lr:g}), or go on from an earlier checkpoint in {self.folder} with --resume FILE"
            )
        self.step_in_epoch += 1
        if self.step_in_epoch == self.steps_per_epoch:
            self._count_epoch()
        for index, skipped in zip(item["index"].tolist(), item["skipped"].tolist(), strict=True):
            if skipped:
                name = self.data.describe(index)
                if name not in self.skipped:
                    self.skipped[name] = self.data.fault(index)
        word = self.watch.update(1 - row["converged"], row["residual"])
        if word:
            self.console.warn(f"{word} (step {self.step})")

    def _count_epoch(self) -> None:
        run = self.settings.run
        self.epoch, self.step_in_epoch = self.epoch + 1, 0
        self.validation_due = bool(self.data.val_sets) and (self.epoch == run.epochs or self.epoch % run.validate_every == 0)

    @property
    def step(self) -> int:
        """Steps done since the start of the run."""
        return self.epoch * self.steps_per_epoch + self.step_in_epoch

    # --- parts ---

    def _start_from(self, name: str) -> None:
        taken, left = transfer(load_pretrained(name), self.model, self.layout)
        if self.main:
            self.console.say(f"start: {taken} weights of {name}" + (f"; drawn at random: {', '.join(left)}" if left else ""))

    @property
    def evaluated(self) -> LDEQ:
        """The model that is scored and shipped: the moving average once there is one."""
        if self.ema and int(self.ema.n_averaged) > 0:
            return cast(LDEQ, self.ema.module)
        return self.model

    @contextmanager
    def _folder_held(self) -> Iterator[None]:
        """Keeps other trainings out of the run's folder."""
        lock = RunLock(self.folder)
        with contextlib.ExitStack() as held:

            def take() -> None:
                try:
                    self.folder.mkdir(parents=True, exist_ok=True)
                except OSError as error:
                    raise SettingsError(f"run.out {self.folder} is no folder that can be made: {error.strerror}") from error
                held.enter_context(lock)

            agreed(take, self.main)
            if lock.warning:
                self.console.warn(lock.warning)
            yield

    @contextmanager
    def _endings(self) -> Iterator[None]:
        """Ends what no step can mend in a sentence that says how to go on."""
        try:
            with naming_lost_processes(self._how_to_go_on), dead_loaders_told():
                yield
        except LoaderError as error:
            raise LoaderError(f"{error}; {self._how_to_go_on()}") from error
        except KeyboardInterrupt:
            raise TrainingError(f"stopped at once, without a save, at step {self.step}; {self._how_to_go_on()}") from None

    def _how_to_go_on(self) -> str:
        config = self.folder / "config.yaml"
        if checkpoint.checkpoints(self.folder):
            return f"go on with: ldeq train {config} --resume auto"
        return f"nothing was saved yet; start again with: ldeq train {config}"

    # --- validation ---

    def _validate(self, stop: StopRequest) -> Evaluation:
        # The score is to be that of the file: the first process's buffers, in every process.
        share_buffers(self.evaluated)
        try:
            results = [self._evaluate(dataset, stop) for dataset in self.data.val_sets]
        except _Stopped:
            raise TrainingError(
                f"stopped in the validation at step {self.step} of {self.total_steps}, which was saved before; "
                f"{self._how_to_go_on()}"
            ) from None
        if self.main:
            self._draw("worst.png", lambda: worst_faces(results[0], self.data.val_sets[0], count=12))
        score = results[0].summary["nme"]
        if math.isfinite(score) and (self.best is None or score < self.best):
            self.best = score
            if self.main:
                self._write_weights(self.folder / "best.safetensors", {"validation": results[0].summary})
        self.validation_due = False
        return results[0]

    def _evaluate(self, dataset: LandmarkDataset, stop: StopRequest) -> Evaluation:
        """Scores a data set, each process its share; all of them hold the whole result.

        Raises:
            _Stopped: if any process was asked to stop.
        """
        part = self._evaluate_share(dataset, stop)
        parts: list[Evaluation | str | None] = [part]
        if self.world > 1:
            parts = [None] * self.world
            dist.all_gather_object(parts, part)
        if None in parts:
            raise _Stopped
        found = [p for p in parts if isinstance(p, Evaluation)]
        if not found:
            raise DataError(str(parts[0]))
        whole = join(found) if self.world > 1 else found[0]
        if self.main:
            evaluations = float(whole.evaluations.mean())
            self._log({"val": dataset.faces.name, "protocol": whole.protocol, **whole.summary, "evaluations": evaluations})
            s = whole.summary
            self.console.say(
                f"epoch {self.epoch}: NME {s['nme']:.2f} %, FR10 {s['fr10']:.2f} %, AUC10 {s['auc10']:.3f} ({whole.protocol})"
            )
        return whole

    def _evaluate_share(self, dataset: LandmarkDataset, stop: StopRequest) -> Evaluation | str | None:
        """This process's share, None if it was asked to stop, a complaint if none of its faces could be read."""

        def check(done: int, total: int) -> None:
            if stop.noted and done < total:
                raise _Stopped

        try:
            return evaluate(
                self.evaluated,
                dataset,
                batch=self.settings.run.batch,
                workers=self.settings.data.workers,
                amp=self.settings.run.amp,
                weights="moving average of the weights" if self.ema else "weights as trained",
                share=(self.rank, self.world),
                progress=check,
            )
        except _Stopped:
            return None
        except DataError as error:
            return str(error)

    def _write_weights(self, path: Path, extra: dict[str, Any]) -> None:
        try:
            save_weights(path, self.evaluated, self.layout, self.settings, extra)
        except CheckpointError as error:
            self.console.warn(f"{error}; training goes on, free some space")

    # --- saving and resuming ---

    def _try_to_save(self) -> CheckpointError | None:
        """Saves. A full disk must not end a run: space may be made before the next save."""
        try:
            self._save()
        except CheckpointError as error:
            self.console.warn(f"{error}; training goes on, free some space")
            return error
        return None

    def _save(self) -> None:
        self.saved += 1
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
            "bad_steps": self.train_step.bad_steps,
            "skipped": self.skipped,
            "saved": self.saved,
            "validation_due": self.validation_due,
        }
        path = self.folder / f"step-{self.step:08d}.safetensors"
        checkpoint.save(path, groups, document)
        checkpoint.write_atomically(self.folder / "last.json", json.dumps({"checkpoint": path.name, **document}).encode())
        checkpoint.prune(self.folder, self.settings.run.keep, path)

    def _resume(self, resume: str | Path | None, allow_changes: bool) -> None:
        path = agreed(lambda: self._find(resume), self.main)
        if path is None:
            self._rewind_log(0)
            return
        groups, raw = checkpoint.load(path)
        document, settings = training_document(path, raw)
        check_changes(document, settings, self.settings, self.world, self.steps_per_epoch, allow_changes, self.console)
        self._restore(path, groups)
        position = document.position
        self.epoch, self.step_in_epoch = position.epoch, position.step_in_epoch
        self.best, self.skipped = document.best, dict(document.skipped)
        if settings.data.val != self.settings.data.val:
            self.best = None  # the score of other faces
        self.train_step.bad_steps, self.validation_due = document.bad_steps, document.validation_due
        # Whatever is saved from here on is newer than all that is there, also if an earlier checkpoint was chosen.
        last = agreed(lambda: checkpoint.last_saved(self.folder), self.main)
        if document.saved < last and self.main:
            self._keep_best_of_old_branch()
        self.saved = max(document.saved, last)
        self._rewind_log(self.step)
        self.console.say(f"resumed from {path} at step {self.step} of {self.total_steps}")

    def _keep_best_of_old_branch(self) -> None:
        """Copies best.safetensors if it is newer than the checkpoint gone back to: what this branch scores may be worse."""
        best = self.folder / "best.safetensors"
        if not best.exists():
            return
        validation = checkpoint.read_document(best).get("validation")
        if isinstance(validation, dict) and validation.get("nme") == self.best:
            return
        number = 1
        while (kept := self.folder / f"best-of-branch-{number}.safetensors").exists():
            number += 1
        checkpoint.write_atomically(kept, best.read_bytes())
        self.console.say(f"the best weights of the steps that are left behind are kept as {kept}")

    def _find(self, resume: str | Path | None) -> Path | None:
        """The checkpoint to go on from, None for a new run."""
        if resume is None:
            if checkpoint.checkpoints(self.folder):
                raise TrainingError(
                    f"{self.folder} already holds checkpoints; go on with --resume auto, or choose another run.out"
                )
            return None
        if str(resume) != "auto":
            path = user_path(resume)
            # The name alone means the file of this run, wherever the command is called.
            own = self.folder / path.name
            return own if own.exists() and path.name == str(path) and not path.exists() else path
        found = checkpoint.newest(self.folder, training_document)
        if found is None:
            return None
        for complaint in found.complaints:
            self.console.warn(f"{complaint}; going on from the one before it")
        return found.path

    def _restore(self, path: Path, groups: dict[str, dict[str, Tensor]]) -> None:
        """Puts back weights, optimizer, moving average and random state."""
        try:
            self.model.load_state_dict(groups["model"])
            restore_optimizer(self.optimizer, groups["optimizer"])
            if self.ema and "ema" in groups:
                self.ema.module.load_state_dict(groups["ema"])
                self.ema.n_averaged.copy_(groups["ema_count"]["n_averaged"])
            elif self.ema:  # it begins here
                self.ema.module.load_state_dict(groups["model"])
            torch.set_rng_state(groups["rng"]["torch"])
            if self.device.type == "cuda" and "cuda" in groups["rng"]:
                torch.cuda.set_rng_state(groups["rng"]["cuda"], self.device)
        except (KeyError, ValueError, RuntimeError) as error:
            raise CheckpointError(f"{path} does not hold what this run needs ({error}); use an earlier file") from error

    def _rewind_log(self, step: int) -> None:
        if self.main:
            self.log.rewind(step, self.validation_due)
            if self.settings.run.tensorboard:
                self.board = TensorBoard(self.folder, step, self.log.at(step))

    def _write_settings(self) -> None:
        checkpoint.write_atomically(self.folder / "config.yaml", dump(self.settings).encode())

    # --- telling ---

    def _log(self, row: dict[str, Any]) -> None:
        line = {"step": self.step, "epoch": self.step / self.steps_per_epoch, **row}
        for complaint in (self.log.append(line), self.board.add(line) if self.board else None):
            if complaint:
                self.console.warn(f"{complaint}; training goes on")

    def _draw(self, name: str, picture: Callable[[], np.ndarray]) -> None:
        """Writes a picture of the run. It is there to be looked at: nothing that goes wrong with it ends a run."""
        try:
            write_image(self.folder / name, picture())
        except Exception as error:
            self.console.warn(f"{self.folder / name} was not drawn ({error}); training goes on")

    def _first_batch(self, item: dict[str, Any]) -> np.ndarray:
        size = self.settings.model.image_size
        images = [image.permute(1, 2, 0).numpy() for image in item["image"].reshape(-1, 3, size, size)]
        points = [p.numpy() * size for p in item["landmarks"].reshape(-1, self.layout.count, 2)]
        # A sequence a row.
        return contact_sheet(images, points, self.layout, columns=self.settings.data.sequence or 4)

    def _report_skipped(self) -> None:
        listed = [s for d in self.data.train_sets for s in getattr(d.faces, "skipped", ())] + list(self.skipped.items())
        if listed and self.main:
            self.console.warn(f"{len(listed)} {'face' if len(listed) == 1 else 'faces'} could not be used:")
            for path, reason in listed:
                self.console.say(f"  {path}: {reason}")
