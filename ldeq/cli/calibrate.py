"""``ldeq calibrate``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from ..calibration import MOST, add_calibration, calibrate
from ..data import open_faces
from ..engine.device import resolve_device
from ..engine.settings import SettingsError
from ..engine.weights import find_weights, load_pretrained, shipped_models
from .outputs import Outputs


@dataclass
class Calibrate:
    """Fit the score of a face and the deviation of each landmark, and write them into the file of the weights.

    Example: ldeq calibrate runs/mine/best.safetensors --data 300w:~/300w
    """

    weights: tyro.conf.Positional[Path]
    """The .safetensors file of a model, as training and ldeq convert write it."""
    data: Annotated[list[str], tyro.conf.arg(metavar="SPEC")]
    """Labelled faces, as ldeq eval --data takes them; those that the model was trained on will do. What is no face is taken
    from beside them."""
    out: Annotated[Path | None, tyro.conf.arg(aliases=["-o"])] = None
    """Where the weights go; into the file itself if absent."""
    faces: int = MOST
    """How many labelled faces are used in all."""
    split: str | None = None
    """Of the data; its training split if absent."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1."""

    def run(self) -> int:
        if self.faces < 1:
            raise SettingsError(f"--faces must be 1 or more, got {self.faces}")
        source = find_weights(self.weights)
        if self.out is None and str(self.weights) in shipped_models():
            raise SettingsError(f"{self.weights} is a shipped model, which stays as it is; add --out FILE.safetensors")
        outputs = Outputs()
        target = source if self.out is None else outputs.file("--out", self.out)
        if target.suffix != ".safetensors":
            raise SettingsError(f"--out {target} must end in .safetensors")
        pretrained = load_pretrained(source, resolve_device(self.device))
        sets = [open_faces(spec, self.split or "train") for spec in self.data]
        found = calibrate(pretrained, sets, self.faces)
        add_calibration(source, target, found)
        print(f"wrote {target}: calibrated on {found.data}")
        print(f"  faces that a detector finds are left out below a score of {found.min_score:g}")
        return 0
