"""``ldeq train``."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from ..engine import Trainer
from ..engine.checkpoint import checkpoints
from ..engine.device import resolve_device
from ..engine.distributed import process_group
from ..engine.settings import SettingsError, is_dump, read
from ..files import user_path
from ..threads import limit_to_quota
from .arguments.train import TrainArguments


class Train(TrainArguments):
    def run(self) -> int:
        settings = read(self.config, self.set)
        if self.amp:
            settings = replace(settings, run=replace(settings.run, amp=self.amp))
        check_run_folder(user_path(settings.run.out))
        limit_to_quota()
        with process_group(resolve_device(settings.run.device)):
            trainer = Trainer(settings)
            trainer.fit(self.resume, self.allow_changes)
            if trainer.main:
                trainer.console.say(f"done: {trainer.folder}")
        return 0


# What a run writes besides its checkpoints, and would replace.
_RUN_FILES = ("config.yaml", "log.jsonl", "last.json", "batch.png", "worst.png")


def check_run_folder(folder: Path) -> None:
    """Refuses a folder in which a new run would replace what no run, or another one, left.

    Raises:
        SettingsError: for files that are not of a run, and for the model of an earlier run whose checkpoints are gone.
    """
    if folder.exists() and not folder.is_dir():
        raise SettingsError(f"run.out {folder} is a file; name a folder")
    if checkpoints(folder):  # it is a run's, which --resume goes on from
        return
    if (folder / "best.safetensors").exists():
        raise SettingsError(
            f"{folder} holds best.safetensors of an earlier run, which a new one would replace; choose another run.out"
        )
    found = next((folder / name for name in _RUN_FILES if (folder / name).exists()), None)
    if found and not is_dump(folder / "config.yaml"):
        raise SettingsError(f"{found} is not from a run of ldeq, which would replace it; choose another run.out")
