"""Arguments of ``ldeq convert``."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro

from ._optional import OptionalPath


@dataclass
class ConvertArguments:
    """Turn a checkpoint of the paper's release into weights that every command takes. Nothing in the file is executed.

    Example: ldeq convert final.pth.tar --out ldeq-wflw.safetensors
    """

    checkpoint: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="CHECKPOINT")]
    """The published file, such as final.pth.tar."""
    out: Annotated[OptionalPath, tyro.conf.arg(aliases=["-o"])] = None
    """Where the weights go; beside the checkpoint, as NAME.safetensors, if absent. A file that exists is never replaced."""
    variant: Literal["stills", "video"] | None = None
    """Which of the two published models it is, if the arguments in the file do not tell."""
    ignore: Annotated[list[str], tyro.conf.arg(metavar="NAME", help_behavior_hint="")] = field(default_factory=list)
    """Tensors of the file that hold no weights and are left out."""

    def run(self) -> int:
        from ..convert import Convert

        return Convert(**vars(self)).run()
