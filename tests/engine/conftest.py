"""The smallest run that exercises everything: 32-pixel crops of drawn faces and a model of a few thousand weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from ldeq.engine.settings import TrainSettings, from_mapping

MODEL: dict[str, Any] = {
    "preset": "tiny", "landmarks": 98, "image_size": 32, "width": 16, "width_increment": 8, "depth": 1, "groups": 4,
}  # fmt: skip


@pytest.fixture(autouse=True)
def _one_thread(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    # Models of a few thousand weights: threads cost more than they bring, most of all on a busy machine. Processes that a test
    # starts take as many, since sums depend on it.
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


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
