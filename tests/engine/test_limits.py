"""The limits and defaults that the documentation states are those that hold."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from ldeq.engine.convergence import ConvergenceWatch
from ldeq.engine.device import memory_mb
from ldeq.engine.model_size import check_size
from ldeq.engine.settings import DataSettings, OptimSettings, RunSettings, TrainSettings
from ldeq.engine.settings_checks import RANGES, SettingsError, check_ranges
from ldeq.engine.train import Trainer
from ldeq.models import LDEQ

# Smallest and largest value that is taken, and the next ones that are not.
EDGES: list[tuple[str, float, float, float | None, float]] = [
    ("model.landmarks", 1, 10_000, 0, 10_001), ("model.image_size", 4, 8_192, 3, 8_193), ("model.width", 4, 16_384, 3, 16_385),
    ("model.width_increment", 0, 16_384, -1, 16_385), ("model.depth", 0, 10, -1, 11), ("model.groups", 1, 16_384, 0, 16_385),
    ("model.max_iter", 1, 10**6, 0, 10**6 + 1), ("model.backward_max_iter", 1, 10**6, 0, 10**6 + 1),
    ("model.phantom_steps", 1, 10_000, 0, 10_001), ("model.m", 1, 10_000, 0, 10_001),
    ("model.check_every", 0, 10**6, -1, 10**6 + 1), ("data.crop_scale", 0.1, 100, 0.09, 100.1),
    ("data.workers", 0, 1_024, -1, 1_025), ("data.sequence", 0, 10_000, -1, 10_001), ("optim.lr", 1e-300, 1e6, 0, 1.1e6),
    ("optim.weight_decay", 0, 1e6, -1e-9, 1.1e6), ("optim.warmup", 0, 1, -0.1, 1.01), ("optim.gamma", 1e-300, 1e6, 0, 1.1e6),
    ("optim.clip", 0, 1e12, -1.0, 1.1e12), ("optim.ema", 0, 0.9999, -0.1, 1), ("optim.flicker", 0, 1e12, -1.0, 1.1e12),
    ("optim.openings", 0, 1e12, -1.0, 1.1e12), ("optim.sigma", 1e-300, 1e6, 0, 1.1e6), ("optim.margin", 0, 1e6, -1e-9, 1.1e6),
    ("run.epochs", 1, 10**7, 0, 10**7 + 1), ("run.batch", 1, 10**6, 0, 10**6 + 1), ("run.seed", 0, 2**40, -1, 2**40 + 1),
    ("run.validate_every", 1, 10**7, 0, 10**7 + 1), ("run.save_every", 1, 10**7, 0, 10**7 + 1),
    ("run.keep", 1, 10**7, 0, 10**7 + 1), ("run.log_every", 1, 10**9, 0, 10**9 + 1),
]  # fmt: skip


def nested(name: str, value: float) -> dict[str, dict[str, float]]:
    group, key = name.split(".")
    return {group: {key: value}}


@pytest.mark.parametrize(("name", "low", "high", "below", "above"), EDGES, ids=[e[0] for e in EDGES])
def test_a_number_is_taken_up_to_its_bounds_and_not_beyond(
    name: str, low: float, high: float, below: float, above: float
) -> None:
    for value in (low, high):
        check_ranges(nested(name, value))
    for value in (below, above):
        with pytest.raises(SettingsError, match=name):
            check_ranges(nested(name, value))
        with pytest.raises(SettingsError, match=name):
            check_ranges({name.split(".")[0]: {name.split(".")[1]: str(value)}})


def test_every_range_is_tested() -> None:
    assert {e[0] for e in EDGES} == set(RANGES)


def test_text_that_is_a_name_is_no_number_and_infinity_is_none() -> None:
    check_ranges({"run": {"out": "nan", "device": "inf"}})
    with pytest.raises(SettingsError, match=r"optim\.milestones must be a finite number"):
        check_ranges({"optim": {"milestones": [10, float("inf")]}})


def test_settings_have_the_documented_defaults() -> None:
    optim, run, data = vars(OptimSettings()), vars(RunSettings()), vars(DataSettings())
    expected: dict[str, Any] = {
        "name": "adamw", "lr": 2e-3, "weight_decay": 0.0, "schedule": "onecycle", "warmup": 0.1, "milestones": [30, 50],
        "gamma": 0.1, "clip": 1.0, "ema": 0.998, "loss": "l1", "openings": 0.0, "flicker": 0.0,
        "sigma": 1.0, "margin": 5.0, "stochastic_iter": False,
    }  # fmt: skip
    assert optim == expected
    assert run == {
        "out": "runs/ldeq", "start": None, "epochs": 60, "batch": 16, "seed": 0, "amp": "off", "device": "auto",
        "validate_every": 5, "save_every": 1, "keep": 2, "log_every": 10, "tensorboard": False,
    }  # fmt: skip
    assert (data["crop_scale"], data["sequence"]) == (1.2, 0)


@pytest.mark.parametrize(("total", "patience"), [(1, 50), (100, 50), (102, 51), (399, 199), (400, 200), (10**6, 200)])
def test_a_run_is_warned_after_half_of_it_and_within_50_to_200_steps(total: int, patience: int) -> None:
    watch = ConvergenceWatch(tol=1e-4, relative=True, total_steps=total)
    assert all(watch.update(1.0, 0.3) is None for _ in range(patience - 1))
    said = watch.update(1.0, 0.3)
    assert said is not None and f"last {patience} steps" in said and "mean residual 0.3)" in said
    assert watch.update(1.0, 0.3) is None


@pytest.mark.parametrize(
    ("relative", "unconverged", "residual", "far"),
    [(True, 1.0, 0.11, True), (True, 1.0, 0.1, False), (True, 0.99, 0.5, False), (False, 1.0, 1.01, True),
     (False, 1.0, 1.0, False), (True, 1.0, float("nan"), True)],
)  # fmt: skip
def test_one_step_that_gets_near_begins_the_count_anew(relative: bool, unconverged: float, residual: float, far: bool) -> None:
    watch = ConvergenceWatch(tol=1e-3, relative=relative, total_steps=10)
    for _ in range(49):
        assert watch.update(1.0, 5.0) is None
    assert (watch.update(unconverged, residual) is not None) == far
    if not far:
        assert all(watch.update(1.0, 5.0) is None for _ in range(49))
        said = watch.update(1.0, 5.0)
        assert said is not None and "last 50 steps" in said and "mean residual 5)" in said


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")
def test_peak_memory_counts_in_megabytes() -> None:
    shown = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    assert memory_mb(torch.device("cpu")) == pytest.approx(int(shown.split()[1]) / 1024, rel=0.05)


def test_peak_memory_of_a_gpu_counts_in_megabytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 3 << 20)
    assert memory_mb(torch.device("cuda", 0)) == 3.0


def test_a_model_that_no_memory_holds_is_refused_before_it_is_built(make_settings: Callable[..., TrainSettings]) -> None:
    """One of width 4096 filled the memory for a minute, and then the system killed the process."""
    settings = make_settings(model={"width": 16_384, "depth": 3})
    begin = time.monotonic()
    with pytest.raises(SettingsError, match=r"model.width=16384 .* million parameters, whose training needs [\d,]+ GiB"):
        Trainer(settings)
    assert time.monotonic() - begin < 10


def test_a_model_that_the_memory_just_holds_is_not_refused(
    make_settings: Callable[..., TrainSettings], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_settings().model
    needed = 20 * sum(p.numel() for p in LDEQ(config).parameters())
    monkeypatch.setattr("ldeq.engine.model_size.total_memory", lambda device: needed)
    check_size(config, torch.device("cpu"))
    monkeypatch.setattr("ldeq.engine.model_size.total_memory", lambda device: needed - 1)
    with pytest.raises(SettingsError, match="make the model smaller"):
        check_size(config, torch.device("cpu"))
    monkeypatch.setattr("ldeq.engine.model_size.total_memory", lambda device: None)
    check_size(config, torch.device("cpu"))
