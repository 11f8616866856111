"""Where the trainer's judgements turn over, and the words and numbers that it gives there."""

from __future__ import annotations

import math
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ldeq.engine import TrainSettings, distributed
from ldeq.engine.console import Console, LiveDisplay, PlainDisplay, TrainingDisplay, figures
from ldeq.engine.convergence import ConvergenceWatch
from ldeq.engine.device import known_devices, memory_mb, resolve_device
from ldeq.engine.distributed import ProcessLost, naming_lost_processes
from ldeq.engine.interruption import StopRequest
from ldeq.engine.optimization import flicker_loss, landmark_loss, learning_rate, make_optimizer, moving_average
from ldeq.engine.run_lock import FolderInUse, RunLock, _alive, _holder
from ldeq.engine.settings import SettingsError, from_mapping, read
from ldeq.engine.settings_checks import near_setting, shortened
from ldeq.engine.yaml_reader import DEEPEST, LARGEST, LONGEST, YamlError, parse_yaml

Make = Callable[..., TrainSettings]


# --- learning rate, loss, moving average ---


def test_the_cycle_warms_up_in_steps_and_falls_by_half_a_cosine(make_settings: Make) -> None:
    settings = make_settings(epochs=4, optim={"lr": 0.2, "warmup": 0.25})
    found = [learning_rate(settings, step, 10) for step in range(40)]
    expected = [0.2 * (s + 1) / 10 for s in range(10)] + [0.1 * (1 + math.cos(math.pi * (s - 10) / 30)) for s in range(10, 40)]
    assert found == pytest.approx(expected, rel=1e-12)


def test_without_a_warm_up_the_first_step_has_the_full_rate(make_settings: Make) -> None:
    settings = make_settings(epochs=1, optim={"lr": 0.2, "warmup": 0.0})
    assert learning_rate(settings, 0, 5) == 0.2
    assert learning_rate(settings, 1, 5) == pytest.approx(0.2)
    assert learning_rate(settings, 2, 5) == pytest.approx(0.1 * (1 + math.cos(math.pi / 4)))
    # A warm-up as long as the run.
    whole = make_settings(epochs=1, optim={"lr": 0.2, "warmup": 1.0})
    assert [learning_rate(whole, s, 4) for s in range(4)] == pytest.approx([0.05, 0.1, 0.15, 0.2])


def test_milestones_count_from_their_epochs_first_step(make_settings: Make) -> None:
    settings = make_settings(epochs=6, optim={"lr": 1.0, "schedule": "step", "milestones": [2, 4], "gamma": 0.1})
    found = [learning_rate(settings, step, 3) for step in (0, 5, 6, 11, 12, 17)]
    assert found == pytest.approx([1.0, 1.0, 0.1, 0.1, 0.01, 0.01])


def test_losses_are_their_formulas() -> None:
    predicted, target = torch.zeros(2, 3, 2, dtype=torch.float64), torch.zeros(2, 3, 2, dtype=torch.float64)
    predicted[0, 1] = torch.tensor([3.0, -4.0], dtype=torch.float64)
    assert float(landmark_loss(predicted, target, "l1")) == pytest.approx(7 / 12)
    assert float(landmark_loss(predicted, target, "l2")) == pytest.approx(5 / 6, abs=1e-5)
    frames, still = torch.zeros(1, 3, 1, 2, dtype=torch.float64), torch.zeros(1, 3, 1, 2, dtype=torch.float64)
    frames[0, 1, 0] = torch.tensor([3.0, 4.0], dtype=torch.float64)
    frames[0, 2, 0] = torch.tensor([3.0, 4.0], dtype=torch.float64)
    assert float(flicker_loss(frames, still)) == pytest.approx(2.5, abs=1e-5)
    # The change of the error counts, not that of the landmarks.
    assert float(flicker_loss(frames, frames)) == pytest.approx(0.0, abs=1e-5)
    # At zero the slope is finite.
    flat = torch.zeros(1, 2, 2, requires_grad=True)
    landmark_loss(flat, torch.zeros(1, 2, 2), "l2").backward()
    assert flat.grad is not None and bool(torch.isfinite(flat.grad).all())


@pytest.mark.parametrize("decay", [0.9, 0.3])
def test_the_moving_average_follows_its_formula(decay: float) -> None:
    model = torch.nn.Linear(1, 1, bias=False)
    average = moving_average(model, decay)
    expected = 0.0
    for n in range(20):
        with torch.no_grad():
            model.weight.fill_(float(n * n))
        average.update_parameters(model)
        # torch copies the first one.
        d = min(decay, (1 + n) / (10 + n)) if n else 0.0
        expected = d * expected + (1 - d) * n * n
        assert float(average.module.weight) == pytest.approx(expected, rel=1e-5)


def test_weights_of_two_dimensions_decay_and_no_others(make_settings: Make) -> None:
    model = torch.nn.Sequential(torch.nn.Conv2d(2, 3, 1), torch.nn.BatchNorm2d(3), torch.nn.Linear(3, 1))
    for name, kind in (("adam", torch.optim.Adam), ("adamw", torch.optim.AdamW)):
        optimizer = make_optimizer(model, make_settings(optim={"name": name, "weight_decay": 0.3, "lr": 0.01}).optim)
        assert type(optimizer) is kind
        decays = {id(p): (g["weight_decay"], g["lr"]) for g in optimizer.param_groups for p in g["params"]}
        assert [decays[id(p)] for p in model.parameters()] == [(0.3 if p.ndim > 1 else 0.0, 0.01) for p in model.parameters()]


# --- what is told ---


def test_a_run_that_never_converges_is_told_after_its_patience() -> None:
    for total, patience in ((10, 50), (100, 50), (102, 51), (300, 150), (400, 200), (4000, 200)):
        watch = ConvergenceWatch(1e-4, True, total)
        said = [watch.update(1.0, 0.5) for _ in range(patience + 5)]
        assert [i for i, word in enumerate(said) if word] == [patience - 1]
        word = said[patience - 1]
        assert word is not None and word.startswith(f"no solve converged in the last {patience} steps (100 % of the samples")
        assert "mean residual 0.5)" in word


def test_one_step_that_is_near_or_converges_in_part_starts_the_count_anew() -> None:
    for near in ((0.99, 0.5), (1.0, 0.1), (0.0, 5.0)):
        watch = ConvergenceWatch(1e-4, True, 10)
        said = [watch.update(*(near if i == 49 else (1.0, 0.2 if i < 49 else 0.4))) for i in range(100)]
        assert [i for i, word in enumerate(said) if word] == [99]
        assert "mean residual 0.4)" in str(said[99])
    for tol, residual, far in ((1e-4, 0.1, False), (1e-4, 0.11, True), (2e-3, 2.0, False), (2e-3, 2.1, True)):
        absolute = ConvergenceWatch(tol, False, 10)
        assert any(absolute.update(1.0, residual) for _ in range(60)) == far
    watch = ConvergenceWatch(1e-4, True, 10)
    assert any(watch.update(1.0, math.nan) for _ in range(50))


ROW = {"loss": 0.5, "nme": 3.0, "images_per_s": 10.0, "residual": 0.1, "evaluations": 4.0, "backward_evaluations": 3.0,
       "memory_mb": 100.0}  # fmt: skip


def test_without_a_terminal_a_line_comes_every_twenty_seconds_and_at_the_end(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = [1000.0]
    monkeypatch.setattr("ldeq.engine.console.time.monotonic", lambda: now[0])
    with Console().training(100, 10) as display:
        assert type(display) is PlainDisplay
        for step in (11, 12, 13, 14, 15, 16, 100):
            display.update(step, ROW)
            now[0] += 10.0
    lines = capsys.readouterr().out.splitlines()
    # 20 seconds after the first step two steps are done, and 87 are left: ten seconds each.
    said = "loss 0.5000  NME 3.00 %  10.0 images/s  residual 1.0e-01 in 4.0 evaluations, 3.0 back  100 MB"
    assert lines == [
        f"step 13/100  14.5 min left  {said}", f"step 15/100  14.2 min left  {said}", f"step 100/100  0.0 min left  {said}",
    ]  # fmt: skip
    with Console(False).training(100, 0) as silent:
        assert type(silent) is TrainingDisplay
        silent.update(1, ROW)
    Console(False).say("not heard")
    assert capsys.readouterr().out == ""


def test_on_a_terminal_figures_are_smoothed_by_a_tenth() -> None:
    shown: list[dict[str, Any]] = []

    class Bar:
        def update(self, task: int, **fields: Any) -> None:
            shown.append(fields)

    live = LiveDisplay(Bar(), 0)  # type: ignore[arg-type]
    live.update(1, ROW)
    live.update(2, {**ROW, "loss": 1.5})
    assert [s["completed"] for s in shown] == [1, 2]
    assert shown[0]["figures"] == figures(ROW)
    assert shown[1]["figures"] == figures({**ROW, "loss": 0.6})


def test_a_terminal_sees_a_bar_that_starts_where_the_run_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rich.console.Console.is_terminal", property(lambda self: True))
    console = Console()
    with console.training(50, 7) as live:
        assert isinstance(live, LiveDisplay)
        (task,) = live.progress.tasks
        assert (task.total, task.completed, task.description) == (50, 7, "training")
        live.update(8, ROW)
        assert task.completed == 8
    with console.counting("faces", 5) as count:
        count(3, 9)
    with Console(False).counting("faces", 5) as count:
        count(1, 5)


def test_the_peak_memory_is_in_mebibytes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Linux tells kibibytes, macOS bytes."""
    resource = pytest.importorskip("resource")

    class Usage:
        ru_maxrss = 3 * 2**20

    monkeypatch.setattr(resource, "getrusage", lambda who: Usage)
    for platform, expected in (("linux", 3 * 2**10), ("darwin", 3.0)):
        monkeypatch.setattr(sys, "platform", platform)
        assert memory_mb(torch.device("cpu")) == expected


def test_devices_of_a_machine_with_two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert known_devices() == ["auto", "cpu", "cuda", "cuda:0", "cuda:1"]
    assert [str(resolve_device(n)) for n in ("auto", "cuda", "cuda:1", "cpu")] == ["cuda:0", "cuda:0", "cuda:1", "cpu"]
    with pytest.raises(SettingsError, match="there is no device 'cuda:2' here; use one of auto, cpu, cuda, cuda:0, cuda:1"):
        resolve_device("cuda:2")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert str(resolve_device("cuda")) == "cuda:1"
    with pytest.raises(SettingsError, match="2 processes cannot share cuda:0; use run.device: cuda"):
        resolve_device("cuda:0")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "3")
    with pytest.raises(SettingsError, match="3 processes were started on a machine with 2 GPUs; start at most 2,"):
        resolve_device("auto")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(SettingsError, match="with 1 GPU; start at most 1,"):
        resolve_device("auto")


# --- stopping ---


def test_the_first_signal_is_noted_and_told_and_the_second_ends_at_once() -> None:
    told: list[int] = []
    before = signal.getsignal(signal.SIGTERM)
    with StopRequest(lambda: told.append(1)) as stop:
        assert not stop.asked(torch.device("cpu"))
        signal.raise_signal(signal.SIGTERM)
        assert stop.asked(torch.device("cpu")) and told == [1]
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        assert told == [1]
    assert signal.getsignal(signal.SIGTERM) is before


# --- processes ---


class Store:
    """The store of a group in which some ranks answer, after so many questions."""

    def __init__(self, answers: dict[int, int]) -> None:
        self.answers, self.asked = answers, dict.fromkeys(answers, 0)
        self.said: list[str] = []

    def set(self, key: str, value: str) -> None:
        self.said.append(key)

    def check(self, keys: list[str]) -> bool:
        rank = int(keys[0].rsplit("-", 1)[1])
        if rank not in self.answers:
            return False
        self.asked[rank] += 1
        return self.asked[rank] >= self.answers[rank]


@pytest.fixture
def group(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, int, Any], None]:
    def make(world: int, mine: int, store: Any) -> None:
        def found() -> Any:
            if isinstance(store, Exception):
                raise store
            return store

        monkeypatch.setattr(distributed, "ROLL_CALL_SECONDS", 0.5)
        monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
        monkeypatch.setattr(torch.distributed, "get_world_size", lambda: world)
        monkeypatch.setattr(torch.distributed, "get_rank", lambda: mine)
        monkeypatch.setattr(torch.distributed.distributed_c10d, "_get_default_store", found)

    return make


def lost(error: Exception) -> str:
    with pytest.raises(ProcessLost) as caught, naming_lost_processes(lambda: "go on so"):
        raise error
    return str(caught.value)


def test_ranks_that_do_not_answer_are_named(group: Callable[[int, int, Any], None]) -> None:
    store = Store({0: 1, 3: 2})
    group(4, 1, store)
    assert lost(RuntimeError("Connection closed by peer")) == "process 2 of 4 (rank) ended or does not answer; go on so"
    assert store.said == ["ldeq-survivor-1"]
    group(4, 0, Store({2: 1}))
    assert lost(RuntimeError("gloo: timed out")) == "processes 1, 3 of 4 (rank) ended or does not answer; go on so"
    group(3, 0, Store({1: 1, 2: 2}))
    assert lost(RuntimeError("broken pipe\nand more")) == "the processes lost each other (broken pipe); go on so"


def test_a_store_that_went_with_its_process_names_the_first_of_two(group: Callable[[int, int, Any], None]) -> None:
    gone = RuntimeError("the store is gone")
    group(2, 1, gone)
    assert lost(RuntimeError("NCCL error")).startswith("process 0 of 2 (rank) ended")
    for world, mine in ((2, 0), (3, 1)):
        group(world, mine, gone)
        assert lost(RuntimeError("NCCL error")) == "the processes lost each other (NCCL error); go on so"


def test_other_errors_and_single_processes_pass(group: Callable[[int, int, Any], None]) -> None:
    group(2, 1, Store({}))
    with pytest.raises(RuntimeError, match="^size mismatch$"), naming_lost_processes(lambda: ""):
        raise RuntimeError("size mismatch")
    group(1, 0, Store({}))
    with pytest.raises(RuntimeError, match="^connection reset$") as caught, naming_lost_processes(lambda: ""):
        raise RuntimeError("connection reset")
    assert not isinstance(caught.value, ProcessLost)


# --- one training in a folder ---


def test_two_locks_of_a_folder_exclude_each_other(tmp_path: Path) -> None:
    """Locks belong to open files, so that a second one of this process is refused as another process's is."""
    pytest.importorskip("fcntl")
    refused = pytest.raises(FolderInUse, match=r"^process \d+ on .* trains in .*; wait for it or stop it, or choose another")
    with RunLock(tmp_path), refused:
        RunLock(tmp_path).__enter__()
    (tmp_path / ".lock").write_text("x" * 500)  # of a longer name before
    with RunLock(tmp_path) as lock:
        assert lock.warning is None
        assert len((tmp_path / ".lock").read_text().split()) == 2
        assert (tmp_path / ".lock").read_text().count("x" * 100) == 0
    assert (tmp_path / ".lock").read_text() == ""
    with pytest.raises(FolderInUse, match="cannot write .*; choose another run.out"):
        RunLock(tmp_path / "absent").__enter__()


def test_a_lock_names_its_holder(tmp_path: Path) -> None:
    for text, expected in (("12 host\n", (12, "host")), ("", (0, "")), ("12", (0, "")), ("a b", (0, "")), ("1 2 3", (0, ""))):
        (tmp_path / "lock").write_text(text)
        with open(tmp_path / "lock", "r+b") as file:
            file.read()
            assert _holder(file) == expected
    assert not _alive(0)
    assert _alive(1)  # another user's, or one's own


# --- settings ---


def settings_file(folder: Path, text: str) -> Path:
    path = folder / "c.yaml"
    path.write_text(text)
    return path


def test_an_override_reaches_into_groups_and_presets(tmp_path: Path) -> None:
    path = settings_file(tmp_path, "data: {train: ['synthetic:4'], augmentation: strong}\nrun: {batch: 2}\n")
    settings = read(path, ["data.augmentation.flip_p=0.25", "optim.lr = 1e-3", "run.epochs=3", "model.preset=tiny"])
    assert settings.data.augmentation.flip_p == 0.25 and settings.data.augmentation.noise_p == 0.25
    assert (settings.optim.lr, settings.run.epochs, settings.run.batch) == (1e-3, 3, 2)
    assert settings.model.width == from_mapping({"model": "tiny"}).model.width
    for override, said in (
        ("run.out.x=1", "--set run.out.x: 'runs' is a value, not a group of settings"),
        ("data.train.x=1", "--set data.train.x: 'train' is a value, not a group of settings"),
        ("run.epochs", "--set takes key=value, for example --set optim.lr=5e-4; got 'run.epochs'"),
        ("run.=1", "--set takes key=value"),
        (".epochs=1", "--set takes key=value"),
        ("run.epochs=[", "--set run.epochs: the value '[' is not valid YAML"),
    ):
        (tmp_path / "d.yaml").write_text("run: {out: runs}\ndata: {train: ['synthetic:4']}\n")
        with pytest.raises(SettingsError) as caught:
            read(tmp_path / "d.yaml", [override])
        assert said.replace("'runs' is", "'out' is") in str(caught.value)


def test_a_document_of_the_largest_length_is_read_and_a_longer_one_is_not(tmp_path: Path) -> None:
    body = "run: {epochs: 7}\n"
    assert read(settings_file(tmp_path, body + "#" * (LONGEST - len(body)))).run.epochs == 7
    with pytest.raises(SettingsError, match=f"more than {LONGEST} characters"):
        read(settings_file(tmp_path, body + "#" * (LONGEST - len(body) + 1)))


def test_yaml_as_deep_and_as_large_as_allowed_is_read() -> None:
    assert parse_yaml("[" * (DEEPEST - 1) + "1" + "]" * (DEEPEST - 1)) is not None
    with pytest.raises(YamlError, match=f"more than {DEEPEST} groups inside each other"):
        parse_yaml("[" * DEEPEST + "1" + "]" * DEEPEST)
    # Groups beside each other are not inside each other.
    assert len(parse_yaml("[" + ",".join(["[1]"] * (3 * DEEPEST)) + "]")) == 3 * DEEPEST
    many = "[" + ",".join(["1"] * (LARGEST - 1)) + "]"
    assert len(parse_yaml(many)) == LARGEST - 1
    with pytest.raises(YamlError, match=f"more than {LARGEST} values, aliases written out"):
        parse_yaml(many.replace("]", ",1]"))
    half = (LARGEST - 3) // 2
    shared = f"a: &x [{','.join(['1'] * (half - 2))}]\nb: *x\n"
    assert len(parse_yaml(shared)["b"]) == half - 2
    with pytest.raises(YamlError, match="aliases written out"):
        parse_yaml(f"a: &x [{','.join(['1'] * (half + 2))}]\nb: *x\n")
    with pytest.raises(YamlError, match="an alias inside of what it stands for"):
        parse_yaml("a: &x [*x]\n")


def test_yaml_numbers_and_words_are_what_they_look_like() -> None:
    document = parse_yaml(
        "{a: 1_000, b: 0x1f, c: 0o17, d: 1e-3, e: .5, f: -.inf, g: true, h: 'no', i: ~, j: 010, k: +3, l: 1.}"
    )
    assert document == {
        "a": 1000, "b": 31, "c": 15, "d": 0.001, "e": 0.5, "f": -math.inf, "g": True, "h": "no", "i": None, "j": 10, "k": 3,
        "l": 1.0,
    }  # fmt: skip
    assert parse_yaml("") is None
    for text, said in (
        ("a: 1\nb: 2\na: 3\n", "the key 'a' a second time in line 3"),
        (
            "a: !!python/name:os.system x",
            "a tag ('tag:yaml.org,2002:python/name:os.system'), which no setting needs; remove it in line 1",
        ),
        ("? [1]\n: 2", "a key that is a list or a group; write a name in line 1"),
        ("a: \0", "it holds a NUL character"),
        (f"a: {'9' * 5000}", "a number that is too long in line 1"),
        (f"{'k' * 41}: 1\n{'k' * 41}: 1", f"the key {'k' * 37 + '...'!r} a second time in line 2"),
        (f"{'k' * 40}: 1\n{'k' * 40}: 1", f"the key {'k' * 40!r} a second time in line 2"),
    ):
        with pytest.raises(YamlError) as caught:
            parse_yaml(text)
        assert said in str(caught.value)


def test_long_values_are_shortened_in_sentences() -> None:
    assert shortened("x" * 78) == repr("x" * 78)
    assert shortened("x" * 79) == "'" + "x" * 76 + "..."
    assert shortened(10**300) == "a number of 301 digits"
    assert shortened(2**200 - 1) == str(2**200 - 1)
    assert shortened(-(2**250)).startswith("a number of 76 digits")
    assert shortened(True) == "True"


def test_a_near_setting_is_spelled_alike_or_has_the_initials() -> None:
    names = ["lr", "weight_decay", "warmup", "milestones", "epochs"]
    for key, meant in (
        ("learning_rate", "lr"), ("wd", "weight_decay"), ("Warmups", "warmup"), ("epoch", "epochs"), ("zzz", None), ("l", "lr"),
        ("", None), ("w", None),
    ):  # fmt: skip
        assert near_setting(key, names) == meant, key


def test_figures_of_a_share_join_in_the_order_of_the_data() -> None:
    from ldeq.engine.evaluate import Evaluation, join

    def part(indices: list[int], residual: float) -> Evaluation:
        n = len(indices)
        values = np.array(indices, np.float32)
        return Evaluation(
            f"a set of 2 images, {n} images, wflw", np.tile(values[:, None, None], (1, 2, 2)), np.zeros((n, 2, 2), np.float32),
            np.ones((n, 2), np.float32), values.astype(np.float64) + 1, values / 100, np.array(indices),
            [{"pose": i % 2 == 0} for i in indices], np.array(indices) + 3, residual, [("gone", "why"), (f"{indices[0]}", "x")],
        )  # fmt: skip

    whole = join([part([0, 2, 4], 0.1), part([1, 3], 0.6)])
    assert whole.indices.tolist() == [0, 1, 2, 3, 4]
    assert whole.predicted[:, 0, 0].tolist() == [0, 1, 2, 3, 4]
    assert whole.evaluations.tolist() == [3, 4, 5, 6, 7] and whole.normaliser.tolist() == [1, 2, 3, 4, 5]
    assert whole.residual == pytest.approx((3 * 0.1 + 2 * 0.6) / 5)
    assert whole.skipped == [("gone", "why"), ("0", "x"), ("1", "x")]
    assert [a["pose"] for a in whole.attributes] == [True, False, True, False, True]
    assert whole.protocol == "a set of 2 images, 5 images, wflw"
