"""Faults chosen by hand. Each was once unnoticed, or is of the kind; every one of them must turn a test red."""

from __future__ import annotations

from typing import NamedTuple


class Sabotage(NamedTuple):
    """A fault: in `file`, the one place that reads `old` reads `new`."""

    name: str
    file: str
    old: str
    new: str


_STEP, _TRAIN, _OPTIM = "ldeq/engine/step.py", "ldeq/engine/train.py", "ldeq/engine/optimization.py"
_DATA, _EVALUATE, _AUGMENT = "ldeq/engine/training_data.py", "ldeq/engine/evaluate.py", "ldeq/data/augment.py"
_TRACKING, _LOSSES = "ldeq/video/tracking.py", "ldeq/engine/losses.py"

SABOTAGES = (
    Sabotage("gradients are not clipped", _STEP, "optim.clip if optim.clip else math.inf", "math.inf"),
    Sabotage(
        "run.amp is ignored by a step", _STEP,
        "autocast(self.device, self.settings.run.amp)", 'autocast(self.device, "off")',
    ),
    Sabotage("run.amp is ignored by the validation", _TRAIN, "amp=self.settings.run.amp", 'amp="off"'),
    Sabotage(
        "optim.loss is ignored", _LOSSES,
        "landmark_loss(out.landmarks, target, optim.loss)", 'landmark_loss(out.landmarks, target, "l1")',
    ),
    Sabotage("l2 is l1", _LOSSES, 'if kind == "l2":', 'if kind == "l3":'),
    Sabotage(
        "the moving average is neither scored nor shipped", _TRAIN,
        "if self.ema and int(self.ema.n_averaged) > 0:", "if False:",
    ),
    Sabotage("the moving average is never updated", _STEP, "self.ema.update_parameters(self.model)", "pass"),
    Sabotage(
        "the moving average is not kept in checkpoints", _TRAIN,
        'groups["ema"] = self.ema.module.state_dict()', 'groups["ema"] = self.model.state_dict()',
    ),
    Sabotage("the same order every epoch", _DATA, "run.seed * 1_000_003 + epoch", "run.seed * 1_000_003"),
    Sabotage("the same augmentation every epoch", _DATA, "dataset.set_epoch(epoch)", "dataset.set_epoch(0)"),
    Sabotage(
        "the same augmentation of every face", "ldeq/data/dataset.py",
        "(self.seed, self.epoch, index)", "(self.seed, self.epoch)",
    ),
    Sabotage("data.crop is ignored", _DATA, "LandmarkDataset(faces, size, rule,", 'LandmarkDataset(faces, size, "landmarks",'),
    Sabotage("data.crop_scale is ignored", _DATA, "rule, data.crop_scale, data.augmentation", "rule, 1.2, data.augmentation"),
    Sabotage("data.crop_scale is ignored in validation", _DATA, "rule, data.crop_scale, seed=seed", "rule, 1.2, seed=seed"),
    Sabotage("data.augmentation is ignored", _DATA, "rule, data.crop_scale, data.augmentation", "rule, data.crop_scale, None"),
    Sabotage("weight decay is ignored", _OPTIM, '"weight_decay": optim.weight_decay', '"weight_decay": 0.0'),
    Sabotage("weight decay on biases, too", _OPTIM, '"weight_decay": 0.0', '"weight_decay": optim.weight_decay'),
    Sabotage("the learning rate of the schedule is not used", _STEP, 'group["lr"] = lr', "pass"),
    Sabotage("gamma is never applied", _AUGMENT, "** np.float32(exponent)", "** np.float32(1.0)"),
    Sabotage("brightness is never applied", _AUGMENT, "np.float32(0.5 + brightness)", "np.float32(0.5)"),
    Sabotage("contrast is never applied", _AUGMENT, "* np.float32(contrast)", "* np.float32(1.0)"),
    Sabotage("colour is never applied", _AUGMENT, "np.asarray(gains, dtype=np.float32)", "np.ones(3, dtype=np.float32)"),
    Sabotage("saturation is never applied", _AUGMENT, "result = cv2.transform(result, mix)", "pass"),
    Sabotage("blur is never applied", _AUGMENT, "if self.blur > 0.3:", "if False:"),
    Sabotage("occlusion is never applied", _AUGMENT, "if self.occluder is not None:", "if False:"),
    Sabotage("evaluate(amp=) is ignored", _EVALUATE, "autocast(device, amp)", 'autocast(device, "off")'),
    Sabotage("an evaluation in training mode", _EVALUATE, "model.eval()", "model.train()"),
    Sabotage("std times 7", _TRACKING, "np.float32(squares[i].side))[order]", "np.float32(7 * squares[i].side))[order]"),
    Sabotage("TrackingSettings.register has no effect", _TRACKING, "if not self.settings.register:", "if True:"),
    Sabotage("no suspicion by spread", _TRACKING, "> SPREAD * state.spread", "> 1e9 * state.spread"),
    Sabotage("drift is never detected", _TRACKING, "if drift > DRIFT:", "if False:"),
    Sabotage(
        "a skipped step moves BatchNorm's statistics", _STEP,
        "torch._foreach_copy_(self._buffers, self._buffers_before)", "pass",
    ),
    Sabotage("a step that is not finite is taken", _STEP, "math.isfinite(norm_value) and math.isfinite(loss_value)", "True"),
    Sabotage("validated before saved", _TRAIN, "if self.validation_due or last or", "if False or"),
    Sabotage(
        "a resume does not make up for a validation", _TRAIN,
        "self._validate(stop) if self.validation_due else None", "None",
    ),
    Sabotage("a resume under changed settings says nothing", "ldeq/engine/resume.py", "if found and not allowed:", "if False:"),
    Sabotage(
        "the newest step goes on, not the newest save", "ldeq/engine/checkpoint.py",
        'counter = document.get("saved", 0)', "counter = 0",
    ),
    Sabotage(
        "the checksum is not compared", "ldeq/engine/checkpoint.py",
        "if verify and checksum is not None and", "if False and",
    ),
    Sabotage(
        "two trainings in a folder", "ldeq/engine/run_lock.py",
        "fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)", "pass",
    ),
    Sabotage("a picture ends a run", _TRAIN, "except Exception as error:", "except ZeroDivisionError as error:"),
    Sabotage("no process owns its device", "ldeq/engine/distributed.py", "torch.cuda.set_device(device)", "pass"),
    Sabotage("a solve that never converges is not told", _TRAIN, "if word:", "if False:"),
)  # fmt: skip
