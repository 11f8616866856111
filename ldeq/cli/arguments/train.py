"""Arguments of ``ldeq train``."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro

from ._optional import OptionalText


@dataclass
class TrainArguments:
    """Train a model as a YAML file says. Under torchrun every process takes a share of each batch.

    Example: ldeq train config.yaml --set optim.lr=5e-4 --set run.epochs=20 --resume auto
    """

    config: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="CONFIG")]
    """The YAML file with the settings (docs/training.md); an unknown one is an error that names the nearest."""
    set: Annotated[list[str], tyro.conf.arg(metavar="KEY=VALUE"), tyro.conf.UseAppendAction] = field(default_factory=list)
    """Overrides a setting, as in optim.lr=5e-4; may be repeated."""
    resume: OptionalText = None
    """``auto`` for the newest checkpoint in run.out, or the path of a checkpoint, or the name of one in run.out. Without it
    a folder that holds checkpoints is refused."""
    allow_changes: bool = False
    """With --resume: go on although settings changed that change the run's course, such as the learning rate."""
    amp: Literal["off", "bf16"] | None = None
    """Short for --set run.amp=..."""

    def run(self) -> int:
        from ..train import Train

        return Train(**vars(self)).run()
