"""Training can be stopped anywhere, hindered in many ways, and loses nothing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
import yaml
from torch import Tensor

from ldeq.data import open_faces, write_image
from ldeq.data.clips import usable
from ldeq.engine import (
    CheckpointError,
    SettingsError,
    Trainer,
    TrainingError,
    TrainSettings,
    checkpoint,
    load_pretrained,
    losses,
)
from ldeq.engine.console import Console
from ldeq.engine.losses import flicker_loss, landmark_loss
from ldeq.engine.optimization import learning_rate, moving_average
from ldeq.engine.settings import to_mapping

Make = Callable[..., TrainSettings]


def final_tensors(folder: Path) -> dict[str, Tensor]:
    groups, _ = checkpoint.load(checkpoint.checkpoints(folder)[-1])
    return {f"{g}/{n}": t for g, ts in groups.items() for n, t in ts.items()}


def log_rows(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


class StopAt:
    """Asks a trainer to stop once it has done some steps, as Ctrl-C would."""

    def __init__(self, trainer: Trainer, step: int) -> None:
        self.trainer, self.at = trainer, step
        self.log = trainer._log
        trainer._log = self  # type: ignore[method-assign, assignment]

    def __call__(self, row: dict[str, Any]) -> None:
        self.log(row)
        if self.trainer.step >= self.at:
            os.kill(os.getpid(), signal.SIGINT)


def test_a_run_stopped_in_the_middle_of_an_epoch_and_resumed_equals_one_that_was_not(
    make_settings: Make, tmp_path: Path
) -> None:
    whole = make_settings(out=str(tmp_path / "whole"), epochs=3)
    Trainer(whole, Console(False)).fit(None)

    parts = make_settings(out=str(tmp_path / "parts"), epochs=3)
    for stop in (2, 7):  # in the middle of the first and of the second epoch of five steps
        trainer = Trainer(parts, Console(False))
        StopAt(trainer, stop)
        with pytest.raises(
            TrainingError, match=f"stopped at step {stop} of 15 and saved; go on with: ldeq train .* --resume auto"
        ):
            trainer.fit("auto")
        torch.randn(17)  # the resumed run must not depend on what the process drew meanwhile
    Trainer(parts, Console(False)).fit("auto")

    a, b = final_tensors(tmp_path / "whole"), final_tensors(tmp_path / "parts")
    assert a.keys() == b.keys()
    assert all(torch.equal(a[k], b[k]) for k in a), [k for k in a if not torch.equal(a[k], b[k])]
    keys = ("step", "loss", "nme", "lr", "grad_norm")
    rows = [[{k: r.get(k) for k in keys} for r in log_rows(tmp_path / f)] for f in ("whole", "parts")]
    assert rows[0] == rows[1]


def test_kill_9_during_training_loses_no_more_than_the_steps_since_the_last_save(make_settings: Make, tmp_path: Path) -> None:
    whole = make_settings(out=str(tmp_path / "whole"), epochs=6)
    Trainer(whole, Console(False)).fit(None)
    killed = make_settings(out=str(tmp_path / "killed"), epochs=6)
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump(to_mapping(killed)))
    process = subprocess.Popen(
        [sys.executable, "-m", "ldeq", "train", str(config)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 120
    while len(checkpoint.checkpoints(tmp_path / "killed")) < 2 and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    Trainer(killed, Console(False)).fit("auto")
    a, b = final_tensors(tmp_path / "whole"), final_tensors(tmp_path / "killed")
    assert all(torch.equal(a[k], b[k]) for k in a)
    steps = [r["step"] for r in log_rows(tmp_path / "killed") if "loss" in r]
    assert steps == list(range(1, 31))  # each step once, although some were done twice


def test_training_lowers_the_error_and_leaves_log_pictures_and_weights(make_settings: Make, tmp_path: Path) -> None:
    settings = make_settings(epochs=12, optim={"lr": 5e-3, "ema": 0.8}, validate_every=6)
    result = Trainer(settings, Console(False)).fit(None)
    folder = tmp_path / "run"
    rows = log_rows(folder)
    steps = [r for r in rows if "loss" in r]
    validations = [r for r in rows if "val" in r]
    assert np.mean([r["nme"] for r in steps[-5:]]) < 0.6 * np.mean([r["nme"] for r in steps[:5]])
    assert [r["step"] for r in validations] == [30, 60]
    assert result is not None
    assert validations[-1]["nme"] == pytest.approx(result.summary["nme"], abs=1e-5)
    assert {
        "lr",
        "grad_norm",
        "residual",
        "evaluations",
        "backward_evaluations",
        "backward_residual",
        "images_per_s",
        "memory_mb",
    } <= steps[0].keys()
    for name in ("batch.png", "worst.png", "config.yaml", "best.safetensors", "last.json"):
        assert (folder / name).stat().st_size > 0
    assert len(checkpoint.checkpoints(folder)) == settings.run.keep


def test_a_full_disk_does_not_end_a_run(make_settings: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    real, calls = checkpoint.save, []

    def save(path: Path, *args: Any) -> None:
        if path.name.startswith("step-"):
            calls.append(path)
            if len(calls) == 2:
                raise CheckpointError("the disk is full")
        real(path, *args)

    monkeypatch.setattr(checkpoint, "save", save)
    Trainer(make_settings(epochs=3), Console(False)).fit(None)
    assert len(calls) == 3
    assert [p.name for p in checkpoint.checkpoints(tmp_path / "run")] == [
        "step-00000005.safetensors",
        "step-00000015.safetensors",
    ]


def test_a_last_save_that_fails_is_an_error_and_earlier_ones_load(
    make_settings: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    real = checkpoint.save

    def save(path: Path, *args: Any) -> None:
        if path.name == "step-00000010.safetensors":
            raise CheckpointError("cannot write: the disk is full")
        real(path, *args)

    monkeypatch.setattr(checkpoint, "save", save)
    with pytest.raises(CheckpointError, match="disk is full"):
        Trainer(make_settings(), Console(False)).fit(None)
    found = checkpoint.newest(tmp_path / "run")
    assert found is not None
    assert found[2]["position"]["epoch"] == 1


def test_one_non_finite_step_is_skipped_and_leaves_the_weights_finite(
    make_settings: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    calls = []

    def poisoned(predicted: Tensor, target: Tensor, kind: str) -> Tensor:
        calls.append(1)
        return landmark_loss(predicted, target, kind) * (float("nan") if len(calls) == 3 else 1.0)

    monkeypatch.setattr(losses, "landmark_loss", poisoned)
    Trainer(make_settings(), Console(False)).fit(None)
    assert all(torch.isfinite(t).all() for t in final_tensors(tmp_path / "run").values() if t.is_floating_point())
    assert [r["skipped_steps"] for r in log_rows(tmp_path / "run") if "loss" in r][:4] == [0.0, 0.0, 1.0, 0.0]


def test_a_loss_that_stays_non_finite_ends_with_advice(make_settings: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(losses, "landmark_loss", lambda p, t, k: p.sum() * float("nan"))
    with pytest.raises(TrainingError, match=r"not finite for 20 steps in a row; lower optim\.lr"):
        Trainer(make_settings(epochs=10), Console(False)).fit(None)


def test_unreadable_pictures_are_skipped_counted_and_listed(
    make_settings: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "300w" / "afw"
    folder.mkdir(parents=True)
    faces = open_faces("synthetic:14#size=64")
    for i in range(len(faces)):
        write_image(folder / f"face{i:02d}.jpg", faces.read(i))
        points = "\n".join(f"{x + 1:.3f} {y + 1:.3f}" for x, y in faces.record(i).points[:68])
        (folder / f"face{i:02d}.pts").write_text(f"version: 1\nn_points: 68\n{{\n{points}\n}}\n")
    broken = folder / "face03.jpg"
    broken.write_bytes(broken.read_bytes()[:500])
    (folder / "face04.jpg").unlink()
    settings = make_settings(data={"train": [f"300w:{tmp_path / '300w'}#afw"], "val": []}, batch=3)
    settings = replace(settings, model=replace(settings.model, landmarks=68))
    Trainer(settings).fit(None)
    told = capsys.readouterr().out
    assert "2 faces could not be used" in told
    assert "face03.jpg" in told
    assert "face04" in told


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"data": {"train": []}}, "data.train is empty"),
        ({"batch": 64}, "exceeds the 20 training faces"),
        ({"device": "cuda:7"}, "run: ldeq doctor"),
        ({"device": "abacus"}, "unknown device"),
    ],
)
def test_settings_that_cannot_work_are_refused_before_training(
    make_settings: Make, change: dict[str, Any], sentence: str
) -> None:
    if "cuda" in str(change) and torch.cuda.is_available():
        pytest.skip("a GPU is present")
    with pytest.raises(SettingsError, match=sentence):
        Trainer(make_settings(**change), Console(False))


def test_data_of_another_layout_is_refused(make_settings: Make) -> None:
    settings = make_settings()
    settings = replace(settings, model=replace(settings.model, landmarks=68))
    with pytest.raises(SettingsError, match="model.landmarks is 68 and the data has 98; set model.landmarks: 98"):
        Trainer(settings, Console(False))


def test_a_folder_with_checkpoints_is_never_overwritten_by_accident(make_settings: Make) -> None:
    Trainer(make_settings(epochs=1), Console(False)).fit(None)
    with pytest.raises(TrainingError, match="already holds checkpoints; go on with --resume auto"):
        Trainer(make_settings(epochs=1), Console(False)).fit(None)


@pytest.mark.parametrize(
    ("change", "named"), [({"seed": 5}, "run.seed"), ({"batch": 5}, "run.batch"), ({"optim": {"name": "adam"}}, "optim.name")]
)
def test_a_resume_under_other_settings_is_refused(make_settings: Make, change: dict[str, Any], named: str) -> None:
    Trainer(make_settings(epochs=1), Console(False)).fit(None)
    with pytest.raises(CheckpointError, match=f"made with another {named}"):
        Trainer(make_settings(epochs=2, **change), Console(False)).fit("auto")


def test_a_finished_run_goes_on_when_more_epochs_are_asked_for(make_settings: Make, tmp_path: Path) -> None:
    Trainer(make_settings(epochs=1), Console(False)).fit(None)
    Trainer(make_settings(epochs=2), Console(False)).fit("auto")
    assert checkpoint.checkpoints(tmp_path / "run")[-1].name == "step-00000010.safetensors"


def test_schedules(make_settings: Make) -> None:
    one = make_settings(epochs=10, optim={"lr": 1.0, "warmup": 0.1})
    rates = [learning_rate(one, s, 10) for s in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == pytest.approx(1.0)
    assert rates.index(max(rates)) in (9, 10)
    assert rates[-1] < 1e-3
    step = make_settings(epochs=60, optim={"lr": 1.0, "schedule": "step"})
    assert [learning_rate(step, e * 10, 10) for e in (0, 29, 30, 49, 50)] == pytest.approx([1, 1, 0.1, 0.1, 0.01])
    assert learning_rate(make_settings(optim={"lr": 0.3, "schedule": "constant"}), 12345, 10) == 0.3


def test_losses_match_their_formulas() -> None:
    a, b = torch.rand(2, 3, 2), torch.rand(2, 3, 2)
    assert landmark_loss(a, b, "l1") == pytest.approx(float((a - b).abs().mean()))
    assert landmark_loss(a, b, "l2") == pytest.approx(float((a - b).norm(dim=-1).mean()), rel=1e-5)
    same = a.clone().requires_grad_()
    landmark_loss(same, a, "l2").backward()
    assert same.grad is not None
    assert torch.isfinite(same.grad).all()


def test_the_moving_average_forgets_its_random_start_and_then_follows_its_decay() -> None:
    model = torch.nn.BatchNorm1d(1)
    ema = moving_average(model, 0.9)
    values = []
    for step in range(40):
        with torch.no_grad():
            model.weight.fill_(100.0 if step == 0 else 1.0)
        ema.update_parameters(model)
        values.append(float(ema.module.weight))
    assert values[0] == 100.0
    assert values[10] < 1.05  # with a decay of 0.9 from the start: 1 + 99 * 0.9**10 = 36
    decays = [min(0.9, (1 + n) / (10 + n)) for n in range(1, 40)]
    assert values[-1] == pytest.approx(1 + 99 * np.prod(decays), rel=1e-5)


DDP_SCRIPT = """
import sys, torch
from pathlib import Path
from torch import distributed as dist
from ldeq.engine import Trainer
from ldeq.engine.distributed import process_group
from ldeq.engine.settings import read
with process_group(torch.device("cpu")):
    trainer = Trainer(read(Path(sys.argv[1])))
    trainer.fit("auto")
    mine = torch.cat([p.detach().flatten() for p in trainer.model.parameters()])
    all_ = [torch.empty_like(mine) for _ in range(dist.get_world_size())]
    dist.all_gather(all_, mine)
    assert dist.get_world_size() == 2 and torch.equal(all_[0], all_[1]), "processes disagree"
    if dist.get_rank() == 0:
        print("WEIGHTS AGREE")
"""


def torchrun(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=240, env=environment)


def test_two_processes_train_one_model_and_resume(make_settings: Make, tmp_path: Path) -> None:
    settings = make_settings(batch=2, epochs=2)
    config, script = tmp_path / "config.yaml", tmp_path / "run.py"
    config.write_text(yaml.safe_dump(to_mapping(settings)))
    script.write_text(DDP_SCRIPT)
    done = torchrun(str(script), str(config))
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count("WEIGHTS AGREE") == 1
    rows = log_rows(tmp_path / "run")
    assert [r["step"] for r in rows if "loss" in r] == list(range(1, 11))  # 20 faces, 2 processes x 2 a step
    assert [r["images"] for r in rows if "val" in r] == [6.0]  # every face scored once between them

    more = replace(settings, run=replace(settings.run, epochs=3))
    config.write_text(yaml.safe_dump(to_mapping(more)))
    done = torchrun("-m", "ldeq", "train", str(config), "--resume", "auto")
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count("resumed from") == 1
    assert checkpoint.checkpoints(tmp_path / "run")[-1].name == "step-00000015.safetensors"


def test_bf16_autocast_trains_and_keeps_state_and_weights_in_float32(make_settings: Make, tmp_path: Path) -> None:
    trainer = Trainer(make_settings(epochs=1, amp="bf16"), Console(False))
    trainer.fit(None)
    assert all(p.dtype == torch.float32 for p in trainer.model.parameters())
    assert all(np.isfinite(r["loss"]) for r in log_rows(tmp_path / "run") if "loss" in r)


def test_a_signal_to_the_whole_group_saves_before_its_loaders_end(make_settings: Make, tmp_path: Path) -> None:
    """As batch systems send it: a loader that dies first would take the step with it."""
    settings = make_settings(epochs=400, validate_every=400, save_every=400, data={"workers": 1})
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump(to_mapping(settings)))
    command = [sys.executable, "-m", "ldeq", "train", str(config)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True)
    deadline = time.monotonic() + 120
    while not (tmp_path / "run" / "log.jsonl").exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGTERM)
    said, _ = process.communicate(timeout=120)
    assert "and saved; go on with: ldeq train" in said, said[-2000:]
    assert len(checkpoint.checkpoints(tmp_path / "run")) == 1


@pytest.fixture
def sequences(make_settings: Make, monkeypatch: pytest.MonkeyPatch) -> Make:
    # Drawn faces fill their pictures.
    monkeypatch.setattr("ldeq.data.clips.clip.usable", lambda *given, **named: usable(*given, margin=0.0, **named))

    def make(**run: Any) -> TrainSettings:
        data = {"train": ["synthetic:10#size=96"], "sequence": 3, "cache": False}
        return make_settings(data=data, optim={"flicker": 0.5}, **run)

    return make


def test_a_run_on_sequences_that_was_stopped_and_resumed_equals_one_that_was_not(sequences: Make, tmp_path: Path) -> None:
    Trainer(sequences(out=str(tmp_path / "whole")), Console(False)).fit(None)
    trainer = Trainer(sequences(out=str(tmp_path / "parts")), Console(False))
    StopAt(trainer, trainer.steps_per_epoch + 1)
    with pytest.raises(TrainingError, match="stopped at step"):
        trainer.fit(None)
    Trainer(sequences(out=str(tmp_path / "parts")), Console(False)).fit("auto")
    a, b = final_tensors(tmp_path / "whole"), final_tensors(tmp_path / "parts")
    assert all(torch.equal(a[k], b[k]) for k in a), [k for k in a if not torch.equal(a[k], b[k])]
    sheet = cv2.imread(str(tmp_path / "whole" / "batch.png"))
    assert sheet is not None and sheet.std() > 10
    other = sequences(out=str(tmp_path / "parts"), epochs=3)
    other = replace(other, data=replace(other.data, sequence=4))
    with pytest.raises(CheckpointError, match=r"another data.sequence \(3, now 4\)"):
        Trainer(other, Console(False)).fit("auto")


def test_the_flicker_loss_is_zero_for_an_error_that_stays_and_else_its_mean_step() -> None:
    target = torch.rand(2, 4, 5, 2, generator=torch.Generator().manual_seed(0))
    assert float(flicker_loss(target + torch.tensor([0.3, -0.1]), target)) < 2e-6
    moved = target.clone()
    moved[:, 2:] += torch.tensor([0.03, 0.04])  # one step of 0.05 among three
    assert float(flicker_loss(moved, target)) == pytest.approx(0.05 / 3, rel=1e-4)


def test_a_run_starts_from_given_weights(make_settings: Make, tmp_path: Path) -> None:
    first = Trainer(make_settings(out=str(tmp_path / "first"), epochs=1), Console(False))
    first.fit(None)
    weights = tmp_path / "first" / "best.safetensors"
    begin = {k: v for k, v in load_pretrained(weights).model.state_dict().items() if not k.endswith("num_batches_tracked")}
    second = Trainer(make_settings(out=str(tmp_path / "second"), epochs=1, start=str(weights)), Console(False))
    now = second.model.state_dict()
    assert all(torch.equal(now[k], v) for k, v in begin.items())
    assert all(p.requires_grad for p in second.model.parameters())
    second.fit(None)
    assert any(not torch.equal(second.model.state_dict()[k], v) for k, v in begin.items() if v.ndim > 1)
    weights.rename(tmp_path / "moved.safetensors")  # a run that goes on does not need it any more
    Trainer(make_settings(out=str(tmp_path / "second"), epochs=2, start=str(weights)), Console(False)).fit("auto")
    settings = make_settings(start=str(tmp_path / "moved.safetensors"))
    with pytest.raises(SettingsError, match=r"run\.start .* has other layers than model"):
        Trainer(replace(settings, model=replace(settings.model, width=24)), Console(False))
    with pytest.raises(SettingsError, match=r"run\.start small-68 has other layers than model"):
        Trainer(make_settings(start="small-68"), Console(False))


def test_opencv_reads_the_picture_of_the_first_batch(make_settings: Make, tmp_path: Path) -> None:
    Trainer(make_settings(epochs=1), Console(False)).fit(None)
    sheet = cv2.imread(str(tmp_path / "run" / "batch.png"))
    assert sheet is not None
    assert sheet.shape[1] > 4 * 150
    assert sheet.std() > 10
