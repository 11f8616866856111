"""Arguments of ``ldeq calibrate``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from ._optional import OptionalPath, OptionalText


@dataclass
class CalibrateArguments:
    """Fit the score of a face and the deviation of each landmark, and write them into the file of the weights.

    Example: ldeq calibrate runs/mine/best.safetensors --data 300w:~/300w
    """

    weights: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="WEIGHTS")]
    """The .safetensors file of a model, as training and ldeq convert write it."""
    data: Annotated[list[str], tyro.conf.arg(metavar="SPEC")]
    """Labelled faces, as ldeq eval --data takes them; those that the model was trained on will do. What is no face is taken
    from beside them."""
    out: Annotated[OptionalPath, tyro.conf.arg(aliases=["-o"])] = None
    """Where the weights go; into the file itself if absent."""
    faces: int = 300
    """How many labelled faces are used in all."""
    split: OptionalText = None
    """Of the data; its training split if absent."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1."""

    def run(self) -> int:
        from ..calibrate import Calibrate

        return Calibrate(**vars(self)).run()
