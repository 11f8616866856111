"""What a run tells: on a terminal and without one, of convergence, memory, devices and signals."""

from __future__ import annotations

import math
import signal
import sys
from typing import Any

import pytest
import torch

from ldeq.engine.console import Console, LiveDisplay, PlainDisplay, TrainingDisplay, figures
from ldeq.engine.convergence import ConvergenceWatch
from ldeq.engine.device import known_devices, memory_mb, resolve_device
from ldeq.engine.interruption import StopRequest
from ldeq.engine.settings import SettingsError


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
