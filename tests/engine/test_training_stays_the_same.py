"""A run of given settings and seed gives the figures that it gave: loss, learning rate, order of faces, average, score.

golden/training.json holds the figures of this writing. A change that means to train in another way writes them anew with
``LDEQ_RECORD=1``, and says so in the changelog.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ldeq.data import Augmentation
from ldeq.engine import Trainer, TrainSettings
from ldeq.engine.console import Console
from ldeq.engine.settings import DataSettings, OptimSettings, RunSettings

GOLDEN = Path(__file__).parent / "golden" / "training.json"
RUNS: dict[str, dict[str, Any]] = {
    "warm-up and cosine, l1, moving average": {
        "epochs": 3, "data": {"augmentation": {"preset": "strong"}}, "optim": {"ema": 0.9, "warmup": 0.3, "weight_decay": 0.05},
    },
    "steps, l2, adam, no average": {
        "epochs": 2, "validate_every": 1, "seed": 3, "data": {"crop_scale": 1.4},
        "optim": {
            "name": "adam", "ema": 0.0, "schedule": "step", "milestones": [1], "gamma": 0.3, "loss": "l2", "clip": 0.2,
            "lr": 5e-3,
        },
    },
    "sequences with flicker": {
        "epochs": 1, "batch": 2, "data": {"train": ["synthetic:6#size=48"], "sequence": 3, "cache": False},
        "optim": {"flicker": 2.0, "schedule": "constant"},
    },
}  # fmt: skip


@pytest.mark.parametrize("name", list(RUNS))
def test_a_training_is_what_it_was(make_settings: Callable[..., TrainSettings], tmp_path: Path, name: str) -> None:
    options = RUNS[name]
    data = {"train": ["synthetic:12#size=48"], "val": ["synthetic:4#size=48,seed=5"], **options.get("data", {})}
    trainer = Trainer(make_settings(**{**options, "data": data}), Console(False))
    trainer.fit()
    rows = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    left_out = {"images_per_s", "memory_mb", "time", "at"}
    found = [{k: v for k, v in row.items() if k not in left_out} for row in rows]
    if os.environ.get("LDEQ_RECORD"):
        GOLDEN.parent.mkdir(exist_ok=True)
        record = json.loads(GOLDEN.read_text()) if GOLDEN.exists() else {}
        GOLDEN.write_text(json.dumps({**record, name: found}, indent=1) + "\n")
    before = json.loads(GOLDEN.read_text())[name]
    assert len(found) == len(before)
    for number, (now, was) in enumerate(zip(found, before, strict=True)):
        first = number == 0
        assert now.keys() == was.keys()
        for key, value in was.items():
            if not isinstance(value, float):
                assert now[key] == value, key
            elif key == "lr":
                assert now[key] == pytest.approx(value, rel=1e-9)
            elif first:
                np.testing.assert_allclose(now[key], value, rtol=1e-3, atol=1e-6, err_msg=key)
            elif key in ("loss", "nme"):
                # Processors sum in their own order, which steps of Adam carry along: 2 % of the loss on the oldest ones.
                np.testing.assert_allclose(now[key], value, rtol=0.06, err_msg=key)


def test_what_a_run_does_without_being_told_is_what_the_documents_say() -> None:
    assert vars(DataSettings()) == {
        "train": [], "val": [], "crop": "landmarks", "crop_scale": 1.2, "augmentation": Augmentation.light(), "cache": False,
        "workers": 1, "sequence": 0,
    }  # fmt: skip
    assert vars(OptimSettings()) == {
        "name": "adamw", "lr": 2e-3, "weight_decay": 0.0, "schedule": "onecycle", "warmup": 0.1, "milestones": [30, 50],
        "gamma": 0.1, "clip": 1.0, "ema": 0.998, "loss": "l1", "openings": 0.0, "flicker": 0.0,
        "sigma": 1.0, "margin": 5.0, "stochastic_iter": False,
    }  # fmt: skip
    assert vars(RunSettings()) == {
        "out": "runs/ldeq", "start": None, "epochs": 60, "batch": 16, "seed": 0, "amp": "off", "device": "auto",
        "validate_every": 5, "save_every": 1, "keep": 2, "log_every": 10, "tensorboard": False,
    }  # fmt: skip
