"""Whatever ends a training ends it in a sentence that says how to go on."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from torch.utils.data import Dataset

from ldeq.data import LandmarkDataset
from ldeq.engine import LoaderError, Trainer, TrainingError, TrainSettings, checkpoint
from ldeq.engine.console import Console
from ldeq.engine.loading import load_batches

Make = Callable[..., TrainSettings]


class Deadly(Dataset[dict[str, Any]]):
    """Its loader process is killed at the second item, as the system does if memory is short, or leaves without a word."""

    def __init__(self, how: str) -> None:
        self.how = how

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> dict[str, Any]:
        if index == 2 and self.how == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        if index == 2:
            os._exit(3)
        return {"number": index}


@pytest.mark.parametrize(
    ("how", "sentence"), [("killed", "was killed by signal|ended without a word"), ("left", "ended without")]
)
def test_a_dead_loader_is_told_in_a_sentence(how: str, sentence: str) -> None:
    with pytest.raises(LoaderError, match=f"a loader process ({sentence}).*; .*lower data.workers or leave out data.cache"):
        list(load_batches(Deadly(how), workers=1, batch_size=1, prefetch_factor=1))


def test_a_dead_loader_ends_a_training_which_saves_what_it_has(
    make_settings: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = LandmarkDataset.__getitem__
    parent = os.getpid()

    def deadly(self: LandmarkDataset, index: int) -> dict[str, Any]:
        if os.getpid() != parent and self.epoch == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(self, index)

    monkeypatch.setattr(LandmarkDataset, "__getitem__", deadly)
    data = {"train": ["synthetic:8#size=48"], "val": [], "workers": 1, "cache": False}
    settings = make_settings(epochs=3, save_every=3, data=data)
    with pytest.raises(LoaderError, match=r"a loader process .*; go on with: ldeq train .*config\.yaml --resume auto"):
        Trainer(settings, Console(False)).fit(None)
    assert [p.name for p in checkpoint.checkpoints(tmp_path / "run")] == ["step-00000002.safetensors"]
    monkeypatch.undo()
    Trainer(settings, Console(False)).fit("auto")
    assert checkpoint.checkpoints(tmp_path / "run")[-1].name == "step-00000006.safetensors"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("saved", [False, True])
def test_a_second_ctrl_c_ends_at_once_in_a_sentence(make_settings: Make, number: int, saved: bool) -> None:
    trainer = Trainer(make_settings(epochs=9, data={"train": ["synthetic:4#size=48"], "val": []}), Console(False))
    step = trainer.train_step

    class Interrupted:
        unfinished, bad_steps = False, 0

        def __call__(self, *arguments: Any) -> dict[str, float]:
            row = step(*arguments)
            if trainer.step == (1 if saved else 0):
                os.kill(os.getpid(), number)
                os.kill(os.getpid(), number)
            return row

    trainer.train_step = Interrupted()  # type: ignore[assignment]
    before = signal.getsignal(number)
    advice = "go on with: ldeq train .* --resume auto" if saved else "nothing was saved yet; start again with: ldeq train"
    with pytest.raises(TrainingError, match=f"stopped at once, without a save, at step {int(saved)}; {advice}"):
        trainer.fit(None)
    assert signal.getsignal(number) is before
