"""Crops of a face in a video: how they follow it, the views of one, and heatmaps carried from one crop into the next."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from ..data import SquareBox, compose, crop_matrix

# A resampled heatmap whose peak is below this has left the crop; what is left of it is a tail.
VANISHED = 1e-3


class View(NamedTuple):
    """How a face is looked at: mirrored or not, the crop moved by some of its pixels, right and down."""

    mirrored: bool
    shift: float


# Half a heatmap cell, 4 pixels of the crop, is where the error of a readout from a grid turns round.
VIEWS = (View(False, 0.0), View(True, 0.0), View(False, 2.0), View(True, 2.0))


def view_square(square: SquareBox, view: View, size: int) -> SquareBox:
    """The crop of a view, of `size` pixels; that of a mirrored view in the picture mirrored about its column 0."""
    shift = view.shift * square.side / size
    x0, y0 = square.x0 - shift, square.y0 - shift
    return SquareBox(-(x0 + square.side - 1) if view.mirrored else x0, y0, square.side)


def view_matrix(square: SquareBox, view: View, size: int) -> NDArray[np.float64]:
    """The `(2, 3)` map from the picture to a view's crop of `size` pixels."""
    matrix = crop_matrix(view_square(square, view, size), size)
    return compose(matrix, np.array([[-1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])) if view.mirrored else matrix


def follow_crop(current: SquareBox, target: SquareBox, slack: float, side_slack: float) -> SquareBox:
    """The next crop: `current`, dragged so far that `target` is within the slack of it.

    A play operator: what trembles by less than the slack moves nothing, and a steady motion is followed at its own speed, a
    slack behind. An average would let every tremor through, scaled down, and lag behind a fast face.

    Args:
        current: the crop now.
        target: the crop that the last landmarks ask for.
        slack: in sides of the crop, for the centre.
        side_slack: as a ratio, for the side.
    """
    dx, dy = target.cx - current.cx, target.cy - current.cy
    distance = math.hypot(dx, dy)
    share = max(0.0, 1.0 - slack * current.side / distance) if distance > 0 else 0.0
    ratio = math.log(target.side / current.side)
    beyond = math.copysign(max(0.0, abs(ratio) - math.log1p(side_slack)), ratio)
    return SquareBox.about(current.cx + share * dx, current.cy + share * dy, current.side * math.exp(beyond))


def move_heatmaps(z: Tensor, before: Sequence[SquareBox], after: Sequence[SquareBox]) -> Tensor:
    """Heatmaps of one crop resampled into another, so that every peak stays over its place in the picture.

    Args:
        z: `(B, K, h, h)` heatmaps of peak 1. Column j is crop coordinate j / h, as in the readout.
        before: the crop of each face they belong to.
        after: the crop of each face they are wanted in.

    Returns:
        `(B, K, h, h)`, peak 1; what lies outside the old crop is 0, and a map that is wholly outside stays 0.
    """
    h = z.shape[-1]
    # Crop coordinate u is index u S of a crop of S pixels, image index x0 - 0.5 + (u + 0.5 / S) side: with S = 4 h, heatmap
    # column j lies at x0 - 0.5 + (j + 1 / 8) side / h.
    rows = []
    for a, b in zip(before, after, strict=True):
        ratio = b.side / a.side
        shift = [(b_0 - a_0) * h / a.side + (ratio - 1) / 8 for a_0, b_0 in ((a.x0, b.x0), (a.y0, b.y0))]
        rows.append([ratio, *shift])
    ratio, x, y = torch.tensor(rows, dtype=z.dtype, device=z.device).T[:, :, None]
    place = torch.arange(h, dtype=z.dtype, device=z.device)
    # grid_sample with align_corners counts -1 .. 1 from the first to the last column.
    columns, lines = ((ratio * place + shift) * (2 / (h - 1)) - 1 for shift in (x, y))
    batch = len(rows)
    grid = torch.stack((columns[:, None, :].expand(batch, h, h), lines[:, :, None].expand(batch, h, h)), dim=-1)
    moved = F.grid_sample(z, grid, mode="bilinear", padding_mode="zeros", align_corners=True)
    # Between columns the peak is lower; a map that left the crop has none to restore.
    peak = moved.amax((-2, -1), keepdim=True)
    return moved / torch.where(peak > VANISHED, peak, 1.0)
