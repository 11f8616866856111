"""``ldeq train``."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Literal

import tyro

from ..engine import Trainer
from ..engine.device import resolve_device
from ..engine.distributed import process_group
from ..engine.settings import read


@dataclass
class Train:
    """Train a model as a YAML file says. Under torchrun every process takes a share of each batch.

    Example: ldeq train config.yaml --set optim.lr=5e-4 --set run.epochs=20 --resume auto
    """

    config: tyro.conf.Positional[Path]
    """Settings; an unknown one is an error that names the nearest."""
    set: Annotated[list[str], tyro.conf.arg(metavar="KEY=VALUE"), tyro.conf.UseAppendAction] = field(default_factory=list)
    """Overrides a setting, as in optim.lr=5e-4; may be repeated."""
    resume: str | None = None
    """``auto`` for the newest checkpoint in run.out, or the path of a checkpoint. Without it a folder that holds checkpoints
    is refused."""
    allow_changes: bool = False
    """With --resume: go on although settings changed that change the run's course, such as the learning rate."""
    amp: Literal["off", "bf16"] | None = None
    """Short for --set run.amp=..."""

    def run(self) -> int:
        settings = read(self.config, self.set)
        if self.amp:
            settings = replace(settings, run=replace(settings.run, amp=self.amp))
        with process_group(resolve_device(settings.run.device)):
            trainer = Trainer(settings)
            trainer.fit(self.resume, self.allow_changes)
            if trainer.main:
                trainer.console.say(f"done: {trainer.folder}")
        return 0
