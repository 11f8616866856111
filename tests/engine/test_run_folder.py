"""A run's folder: the newest work goes on, nobody else's files are touched, one training at a time."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from ldeq.data import DataError
from ldeq.engine import CheckpointError, FolderInUse, Trainer, TrainingError, TrainSettings, checkpoint, evaluate
from ldeq.engine import run_lock as lock_module
from ldeq.engine import train as train_module
from ldeq.engine.console import Console
from ldeq.engine.run_lock import RunLock
from ldeq.engine.runlog import RunLog

Make = Callable[..., TrainSettings]


@pytest.fixture
def make(make_settings: Make) -> Make:
    def small(**run: Any) -> TrainSettings:
        data = {"train": ["synthetic:4#size=48"], "val": ["synthetic:2#size=48"], **run.pop("data", {})}
        return make_settings(data=data, **{"keep": 9, **run})

    return small


def train(settings: TrainSettings, resume: str | Path | None = "auto", **options: Any) -> Trainer:
    trainer = Trainer(settings, Console(False))
    trainer.fit(resume, **options)
    return trainer


def names(folder: Path) -> list[str]:
    return [p.name for p in checkpoint.checkpoints(folder)]


def rows(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def step_name(step: int) -> str:
    return f"step-{step:08d}.safetensors"


def state(path: Path) -> dict[str, torch.Tensor]:
    return {f"{g}/{n}": t for g, ts in checkpoint.load(path)[0].items() for n, t in ts.items()}


# --- which checkpoint goes on ---


def test_a_run_that_went_on_from_an_earlier_checkpoint_is_not_overtaken_by_its_old_branch(make: Make, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    train(make(epochs=4, optim={"schedule": "constant"}), None)
    assert names(folder) == [step_name(s) for s in (1, 2, 3, 4)]
    # The branch: two steps with another learning rate from step 1 on; the old steps 3 and 4 are still there.
    branch = make(epochs=2, optim={"schedule": "constant", "lr": 0.02})
    train(branch, folder / step_name(1), allow_changes=True)
    found = checkpoint.newest(folder)
    assert found is not None and found.path.name == step_name(2)
    assert json.loads((folder / "last.json").read_text())["checkpoint"] == step_name(2)
    longer = make(epochs=3, optim={"schedule": "constant", "lr": 0.02})
    train(longer)
    newest = checkpoint.newest(folder)
    assert newest is not None and newest.path.name == step_name(3)
    assert newest.document["settings"]["optim"]["lr"] == 0.02
    assert [r["lr"] for r in rows(folder) if "loss" in r] == [0.002, 0.02, 0.02]


def test_the_file_that_was_just_saved_is_never_pruned(make: Make, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    train(make(epochs=4, optim={"schedule": "constant"}), None)
    train(make(epochs=2, keep=1, optim={"schedule": "constant"}), folder / step_name(1))
    assert names(folder) == [step_name(2)]
    assert json.loads((folder / "last.json").read_text())["checkpoint"] == step_name(2)


def test_pruning_goes_by_the_time_of_the_save_and_not_by_the_step(tmp_path: Path) -> None:
    for saved, step in enumerate((1, 2, 3, 4, 2, 3), 1):
        checkpoint.save(tmp_path / step_name(step), {"model": {"a": torch.zeros(1)}}, {"saved": saved})
    checkpoint.prune(tmp_path, 2)
    assert names(tmp_path) == [step_name(2), step_name(3)]
    checkpoint.prune(tmp_path, 1, tmp_path / step_name(2))
    assert names(tmp_path) == [step_name(2), step_name(3)]


@pytest.mark.parametrize(
    "name",
    [
        "step-00000001-good-keep-this.safetensors",
        "step-00000001.safetensors.bak",
        "my-step-00000001.safetensors",
        "step-1.safetensors",
        ".notes.safetensors.1.tmp",
        ".step-00000001.safetensors.mine.tmp",
    ],
)
def test_files_of_other_names_are_neither_deleted_nor_taken_for_the_newest(tmp_path: Path, name: str) -> None:
    checkpoint.save(tmp_path / step_name(1), {"model": {"a": torch.zeros(1)}}, {"saved": 1})
    (tmp_path / name).write_bytes((tmp_path / step_name(1)).read_bytes())
    for saved in (2, 3):
        checkpoint.save(tmp_path / step_name(saved), {"model": {"a": torch.zeros(1)}}, {"saved": saved})
    checkpoint.prune(tmp_path, 1)
    assert (tmp_path / name).exists()
    assert names(tmp_path) == [step_name(3)]


def test_a_file_of_a_newer_version_is_not_pruned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "FORMAT", 99)
        checkpoint.save(tmp_path / step_name(1), {"model": {"a": torch.zeros(1)}}, {"saved": 1})
    for saved in (2, 3):
        checkpoint.save(tmp_path / step_name(saved), {"model": {"a": torch.zeros(1)}}, {"saved": saved})
    checkpoint.prune(tmp_path, 1)
    assert names(tmp_path) == [step_name(1), step_name(3)]


# --- pictures, validations, full disks ---


def test_a_picture_that_cannot_be_drawn_or_written_does_not_end_a_run(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(path: Path, image: Any) -> None:
        raise DataError(f"cannot write {path}: the disk is full")

    def broken(*args: Any, **options: Any) -> Any:
        raise ValueError("no picture")

    monkeypatch.setattr(train_module, "write_image", full)
    monkeypatch.setattr(train_module, "worst_faces", broken)
    Trainer(make(epochs=1)).fit(None)
    told = capsys.readouterr().out
    assert "batch.png was not drawn" in told and "the disk is full" in told
    assert "worst.png was not drawn (no picture); training goes on" in told
    assert names(tmp_path / "run") == [step_name(1)]


def test_going_back_to_an_earlier_checkpoint_keeps_the_better_weights_of_the_branch_left(make: Make, tmp_path: Path) -> None:
    best = tmp_path / "run" / "best.safetensors"
    train(make(epochs=2, validate_every=1), None)
    document = checkpoint.read_document(best)
    before = best.read_bytes()
    # A branch that gets worse at once, and whose first score beats that of the checkpoint it began from: there was none.
    worse = make(epochs=2, validate_every=1, optim={"schedule": "constant", "lr": 1.0})
    trainer = train(worse, step_name(1), allow_changes=True)
    kept = [path for path in best.parent.glob("best*.safetensors") if path.read_bytes() == before]
    assert kept, f"NME {document['validation']['nme']} was replaced by {trainer.best}"
    again = train(worse, step_name(1), allow_changes=True)  # a second time, nothing is written over
    assert kept[0].read_bytes() == before and again.best is not None


class Failing:
    """An evaluation that fails at its first call, as one does whose disk or memory is full."""

    def __init__(self, error: BaseException) -> None:
        self.error, self.calls, self.real = error, 0, evaluate

    def __call__(self, *args: Any, **options: Any) -> Any:
        self.calls += 1
        if self.calls == 1:
            raise self.error
        return self.real(*args, **options)


@pytest.mark.parametrize("error", [RuntimeError("out of memory"), KeyboardInterrupt()])
def test_a_validation_that_fails_loses_nothing_and_is_done_again(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    folder = tmp_path / "run"
    whole = train(make(out=str(tmp_path / "whole"), epochs=2, validate_every=1), None)
    monkeypatch.setattr(train_module, "evaluate", Failing(error))
    with pytest.raises(RuntimeError):
        train(make(epochs=2, validate_every=1), None)
    assert names(folder) == [step_name(1)]  # the epoch's work is there
    assert not (folder / "best.safetensors").exists()
    again = train(make(epochs=2, validate_every=1))
    assert [r["step"] for r in rows(folder) if "val" in r] == [1, 2]
    assert again.best == whole.best
    a, b = state(folder / step_name(2)), state(tmp_path / "whole" / step_name(2))
    assert all(torch.equal(a[k], b[k]) for k in b)
    best = [load(path / "best.safetensors") for path in (folder, tmp_path / "whole")]
    assert all(torch.equal(best[0][k], best[1][k]) for k in best[1])


def load(path: Path) -> dict[str, torch.Tensor]:
    return checkpoint.load(path)[0]["model"]


def test_ctrl_c_during_a_validation_stops_it_and_a_resume_does_it_again(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = evaluate

    def interrupted(*args: Any, **options: Any) -> Any:
        os.kill(os.getpid(), signal.SIGINT)
        return real(*args, **{**options, "batch": 1})

    monkeypatch.setattr(train_module, "evaluate", interrupted)
    with pytest.raises(TrainingError, match=r"stopped in the validation at step 1 of 1, which was saved before; go on with"):
        train(make(epochs=1), None)
    monkeypatch.setattr(train_module, "evaluate", real)
    train(make(epochs=1))
    assert [r["step"] for r in rows(tmp_path / "run") if "val" in r] == [1]


def test_a_validation_that_was_done_twice_is_logged_once(tmp_path: Path) -> None:
    log = RunLog(tmp_path / "log.jsonl")
    for row in ({"step": 1, "loss": 2.0}, {"step": 1, "val": "a", "nme": 3.0}, {"step": 2, "loss": 1.0}):
        assert log.append(row) is None
    log.rewind(1, validation_due=False)
    assert [json.loads(line) for line in log.path.read_text().splitlines()] == [
        {"step": 1, "loss": 2.0},
        {"step": 1, "val": "a", "nme": 3.0},
    ]
    log.rewind(1, validation_due=True)
    assert [json.loads(line) for line in log.path.read_text().splitlines()] == [{"step": 1, "loss": 2.0}]


def test_a_log_line_that_a_full_disk_cuts_short_does_not_spoil_the_next_one(tmp_path: Path) -> None:
    program = """
import resource, signal, sys
from pathlib import Path
from ldeq.engine.runlog import RunLog
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
log = RunLog(Path(sys.argv[1]))
log.append({"step": 1})
resource.setrlimit(resource.RLIMIT_FSIZE, (25, 100))
print(log.append({"step": 2, "words": "x" * 40}))
resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
log.append({"step": 3})
"""
    path = tmp_path / "log.jsonl"
    told = subprocess.run([sys.executable, "-c", program, str(path)], capture_output=True, text=True, check=True)
    assert "cannot write" in told.stdout
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [1, 3]


# --- two trainings ---


HOLDER = """
import os, sys
from pathlib import Path
from ldeq.engine.run_lock import RunLock
with RunLock(Path(sys.argv[1])):
    print(os.getpid(), flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def other_process(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that holds the lock of `tmp_path` / run until its input ends."""
    folder = tmp_path / "run"
    folder.mkdir()
    command = [sys.executable, "-c", HOLDER, str(folder)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and int(process.stdout.readline()) == process.pid
    yield process
    process.kill()
    process.communicate()


def test_a_second_training_in_a_folder_is_refused_and_changes_nothing(
    make: Make, tmp_path: Path, other_process: subprocess.Popen[str]
) -> None:
    process = other_process
    before = sorted(p.name for p in (tmp_path / "run").iterdir())
    with pytest.raises(FolderInUse, match=rf"process {process.pid} on .* trains in .*run; wait for it or stop it, or choose"):
        train(make(epochs=1), None)
    assert sorted(p.name for p in (tmp_path / "run").iterdir()) == before
    process.communicate()
    train(make(epochs=1), None)


def test_the_lock_of_a_killed_training_blocks_nobody(tmp_path: Path, other_process: subprocess.Popen[str]) -> None:
    other_process.kill()
    other_process.wait()
    assert (tmp_path / "run" / lock_module.LOCK_NAME).exists()
    with RunLock(tmp_path / "run") as lock:
        assert lock.warning is None


def test_a_training_lets_its_folder_go_however_it_ends(make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train_module, "evaluate", Failing(RuntimeError("out of memory")))
    with pytest.raises(RuntimeError):
        train(make(epochs=1), None)
    with RunLock(tmp_path / "run"):
        pass


def test_a_loader_that_outlives_a_killed_training_does_not_hold_its_lock(tmp_path: Path) -> None:
    """A forked process shares the open file, and with it the lock."""
    program = """
import os, sys, time
from pathlib import Path
from ldeq.engine.run_lock import RunLock
with RunLock(Path(sys.argv[1])):
    if os.fork() == 0:
        time.sleep(60)
        os._exit(0)
    print(os.getpid(), flush=True)
    time.sleep(60)
"""
    parent = subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE, start_new_session=True)
    assert parent.stdout is not None
    parent.stdout.readline()
    try:
        with pytest.raises(FolderInUse):
            RunLock(tmp_path).__enter__()
        parent.kill()
        parent.wait()
        with RunLock(tmp_path):
            pass
    finally:
        os.killpg(parent.pid, signal.SIGKILL)


def test_a_disk_without_locks_gets_a_word_and_still_refuses_a_living_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unsupported(file: Any) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(lock_module, "lock_file", unsupported)
    with RunLock(tmp_path) as lock:
        assert lock.warning is not None and "knows no locks" in lock.warning
        host = lock.path.read_text().split()[1]
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    lock.path.write_text(f"{dead.pid} {host}\n")
    with RunLock(tmp_path):
        pass
    lock.path.write_text(f"{os.getppid()} {host}\n")
    with pytest.raises(FolderInUse, match=f"process {os.getppid()} on {host}"):
        RunLock(tmp_path).__enter__()


def test_a_folder_that_cannot_be_made_is_named(make: Make, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(ValueError, match=r"run\.out .*file/run is no folder that can be made"):
        train(make(epochs=1, out=str(tmp_path / "file" / "run")), None)


# --- settings that change under a resume ---


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"optim": {"lr": 0.01}}, "optim.lr was 0.002 and is 0.01"),
        ({"optim": {"schedule": "constant"}}, "optim.schedule was onecycle and is constant"),
        ({"optim": {"loss": "l2"}}, "optim.loss was l1 and is l2"),
        ({"optim": {"ema": 0.5}}, "optim.ema was 0.9 and is 0.5"),
        ({"optim": {"clip": 2.0}}, "optim.clip was 1.0 and is 2.0"),
        ({"optim": {"weight_decay": 0.1}}, "optim.weight_decay was 0.0 and is 0.1"),
        ({"amp": "bf16"}, "run.amp was off and is bf16"),
        ({"data": {"crop_scale": 1.3}}, "data.crop_scale was 1.2 and is 1.3"),
        ({"data": {"crop": "rect"}}, "data.crop was landmarks and is rect"),
        ({"data": {"augmentation": "none"}}, "data.augmentation.shift was 0.06 and is 0.0"),
        ({"data": {"train": ["synthetic:4#size=64"]}}, "data.train was ['synthetic:4#size=48'] and is ['synthetic:4#size=64']"),
    ],
)
def test_a_resume_says_what_changed_and_asks(make: Make, change: dict[str, Any], told: str) -> None:
    from ldeq.engine.resume import changes, describe

    before, now = make(optim={"ema": 0.9}), make(**{**change, "optim": {"ema": 0.9, **change.get("optim", {})}})
    assert told in describe(changes(before, now))


def test_a_changed_resume_is_refused_unless_it_is_allowed(make: Make, tmp_path: Path) -> None:
    train(make(epochs=1), None)
    changed = make(epochs=2, optim={"lr": 0.01, "clip": 3.0})
    sentence = r"optim\.lr was 0\.002 and is 0\.01, optim\.clip was 1\.0 and is 3\.0; put them back, .* with --allow-changes"
    with pytest.raises(CheckpointError, match=sentence):
        train(changed)
    assert "lr: 0.002" in (tmp_path / "run" / "config.yaml").read_text()
    train(changed, allow_changes=True)
    assert names(tmp_path / "run")[-1] == step_name(2)
    with pytest.raises(CheckpointError, match=r"another run\.seed \(0, now 3\)"):
        train(make(epochs=3, seed=3), allow_changes=True)


def test_what_changes_no_step_may_change_freely(make: Make, tmp_path: Path) -> None:
    train(make(epochs=1), None)
    free = make(epochs=2, keep=1, log_every=3, save_every=2, validate_every=1, data={"workers": 1, "cache": False})
    train(free)


def test_the_moving_average_may_begin_and_end_with_a_resume(make: Make, tmp_path: Path) -> None:
    train(make(epochs=1, optim={"ema": 0.0}), None)
    trainer = train(make(epochs=2, optim={"ema": 0.5}), allow_changes=True)
    assert trainer.ema is not None and int(trainer.ema.n_averaged) == 1
    train(make(epochs=3, optim={"ema": 0.0}), allow_changes=True)
