r"""An LDEQ over the frames of short sequences, as recurrence without recurrence (RwR) runs it on a video.

The first frame is solved from zeros, with the model's own budget and gradient; every later one is a single evaluation of the
cell at the state of the frame before, $z_t = f(z_{t-1}, x_t)$, differentiated through the whole sequence. Trained so, the
cell learns how far to trust its state.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..brief import brief_repr
from ..ops import heatmap_readout
from ..solvers import Solution
from .cell import of_samples
from .ldeq import LDEQ


class SequenceOutput(NamedTuple):
    """What `WarmStarts` returns.

    - `landmarks`: `(B, T, K, 2)` in unit crop coordinates.
    - `solution`: of the solve of the first frames.
    """

    landmarks: Tensor
    solution: Solution

    def __repr__(self) -> str:
        return brief_repr(self)


class WarmStarts(nn.Module):
    """Wraps a model, so that training in several processes shares the gradients of one call."""

    def __init__(self, model: LDEQ) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> SequenceOutput:
        """
        Args:
            images: `(B, T, 3, S, S)`, normalised; S as the model wants it.
        """
        model, (batch, frames) = self.model, images.shape[:2]
        # Frame by frame, so that the rows of one frame lie together.
        features = model.stem(images.transpose(0, 1).flatten(0, 1))
        injection = model.prepare(features)
        rows = torch.arange(batch * frames, device=images.device).view(frames, batch)
        z, solution = model.deq(model.initial_state(batch), of_samples(injection, rows[0]))
        states = [z]
        for t in range(1, frames):
            z = model.cell(z, of_samples(injection, rows[t]))
            states.append(z)
        xy = heatmap_readout(torch.cat(states), coords="unit", eps=model.config.eps).xy
        return SequenceOutput(xy.view(frames, batch, -1, 2).transpose(0, 1), solution)
