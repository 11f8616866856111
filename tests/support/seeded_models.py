"""Models as training leaves them, and images for them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ldeq import LDEQ


def images(batch: int, size: int, seed: int = 0) -> Tensor:
    return torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(seed))


def seeded(preset: str = "tiny", **overrides: Any) -> LDEQ:
    """A model as training leaves it: BatchNorm has statistics, and the cell contracts (residuals 1, 0.2, 0.05, 0.01, ...).

    At its initialisation the cell is chaotic: a rounding in a convolution grows to 0.8 in z within six evaluations.
    """
    torch.manual_seed(0)
    model: LDEQ = getattr(LDEQ, preset)(**overrides)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean = 0.1 * torch.randn(module.num_features)
            module.running_var = 0.5 + torch.rand(module.num_features)
    with torch.no_grad():
        model.get_submodule("deq.cell.mix.0").get_parameter("weight")[:, : model.config.landmarks] *= 0.03
    return model.eval()
