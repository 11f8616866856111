"""Arguments of ``ldeq export``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import tyro

from ._optional import OptionalCount, OptionalPath


@dataclass
class ExportArguments:
    """Write a model for other runtimes: ONNX, or a program of torch.export.

    Example: ldeq export small-68 --onnx small-68.onnx --verify
    """

    model: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="[MODEL]")] = "small-68"
    """A shipped model or a ``.safetensors`` file."""
    onnx: OptionalPath = None
    """Where the ONNX file (opset 18) goes."""
    torch_export: OptionalPath = None
    """Where the program of torch.export goes, a ``.pt2`` file."""
    evaluations: OptionalCount = None
    """Cell evaluations in each run; by default those of the model's full solve. Use 1 for video."""
    verify: bool = False
    """Run what was written on drawn faces and compare it with PyTorch."""

    def run(self) -> int:
        from ..export import Export

        return Export(**vars(self)).run()
