"""``ldeq export``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..data import crop_box, open_faces, warp
from ..data.crop import crop_matrix
from ..engine.settings import SettingsError
from ..engine.weights import Pretrained, find_weights, load_pretrained
from ..export import TOLERANCE, Agreement, checked_evaluations, export_onnx, export_torch, need, verify_onnx, verify_torch
from .arguments.export import ExportArguments
from .outputs import Outputs

DRAWN = 16
"""Faces that --verify draws."""


class Export(ExportArguments):
    def run(self) -> int:
        targets = {"--onnx": self.onnx, "--torch-export": self.torch_export}
        if not any(targets.values()):
            raise SettingsError("nothing to write: give --onnx FILE or --torch-export FILE")
        outputs = Outputs()
        outputs.protect(find_weights(self.model), "the file of the model")
        places = {option: outputs.file(option, path) for option, path in targets.items() if path}
        if "--onnx" in places:
            need("onnx")
            if self.verify:
                need("onnxruntime")
        pretrained = load_pretrained(self.model)
        evaluations = checked_evaluations(pretrained.model, self.evaluations)
        for option, path in places.items():
            write, check = (export_onnx, verify_onnx) if option == "--onnx" else (export_torch, verify_torch)
            write(pretrained, path, evaluations=evaluations)
            self._tell(pretrained, path, evaluations, check)
        return 0

    def _tell(self, pretrained: Pretrained, path: Path, evaluations: int, check: Callable[..., Agreement]) -> None:
        size = path.stat().st_size / 2**20
        runs = "1 evaluation" if evaluations == 1 else f"{evaluations} evaluations"
        print(f"wrote {path}: {size:.1f} MiB, {pretrained.layout.name}, {runs} in each run")
        if self.verify:
            found = check(path, pretrained.model, drawn_crops(pretrained, DRAWN), evaluations)
            print(
                f"  agrees with PyTorch on {found.images} drawn faces: landmarks to {found.landmarks:.1e} and deviations to "
                f"{found.std:.1e} of the crop's side ({TOLERANCE} is allowed), heatmaps to {found.z:.1e}"
            )


def drawn_crops(pretrained: Pretrained, count: int) -> NDArray[np.uint8]:
    """Crops `(count, S, S, 3)` of drawn faces, as the model takes them."""
    faces, size = open_faces(f"synthetic:{count}#seed=17,size=256", "test"), pretrained.model.config.image_size
    squares = [crop_box("landmarks", points=faces.record(i).points, scale=pretrained.crop_scale) for i in range(count)]
    return np.stack([warp(faces.read(i), crop_matrix(square, size), size) for i, square in enumerate(squares)])
