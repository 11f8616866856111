"""``ldeq calibrate``."""

from __future__ import annotations

from ..calibration import add_calibration, calibrate
from ..data import open_faces
from ..engine.device import resolve_device
from ..engine.settings import SettingsError
from ..engine.weights import find_weights, load_pretrained, shipped_models
from .arguments.calibrate import CalibrateArguments
from .outputs import Outputs


class Calibrate(CalibrateArguments):
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
