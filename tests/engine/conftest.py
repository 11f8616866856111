"""The smallest run that exercises everything: 32-pixel crops of drawn faces and a model of a few thousand weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ldeq.engine.settings import TrainSettings, from_mapping

MODEL: dict[str, Any] = {
    "preset": "tiny", "landmarks": 98, "image_size": 32, "width": 16, "width_increment": 8, "depth": 1, "groups": 4,
}  # fmt: skip


@pytest.fixture
def make_settings(tmp_path: Path) -> Callable[..., TrainSettings]:
    def make(**run: Any) -> TrainSettings:
        data = {"train": ["synthetic:20#size=48"], "val": ["synthetic:6#size=48"], "workers": 0, "cache": True}
        document = {
            "model": {**MODEL, **run.pop("model", {})},
            "data": {**data, **run.pop("data", {})},
            "optim": {"ema": 0.9, **run.pop("optim", {})},
            "run": {"out": str(tmp_path / "run"), "epochs": 2, "batch": 4, "log_every": 1, "device": "cpu", **run},
        }
        return from_mapping(document)

    return make
