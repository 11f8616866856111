"""Heatmap normalisation and soft-argmax in plain PyTorch: the specification that every backend is tested against."""

from __future__ import annotations

import torch
from torch import Tensor

from ..dispatch import register
from .definition import Readout, SoftArgmax


@register("softargmax", "torch")
def softargmax_reference(logits: Tensor, beta: float | Tensor, coords: str, eps: float, heatmap: bool = True) -> SoftArgmax:
    """`softargmax` in plain PyTorch: the specification that every backend is tested against."""
    z = normalised(logits, beta)
    return SoftArgmax(z.to(logits.dtype) if heatmap else logits.new_empty(0), *heatmap_readout_reference(z, coords, eps))


@register("heatmap_normalise", "torch")
def heatmap_normalise_reference(logits: Tensor, beta: float | Tensor) -> Tensor:
    """`heatmap_normalise` in plain PyTorch: the specification that every backend is tested against."""
    return normalised(logits, beta).to(logits.dtype)


def normalised(logits: Tensor, beta: float | Tensor) -> Tensor:
    """exp(beta (h - max h)), not yet rounded to the logits' dtype."""
    h = logits.to(accumulation_dtype(logits.dtype))
    peak = h.amax(dim=(-2, -1), keepdim=True)
    # -inf - -inf is NaN: a map of -inf alone must give zeros.
    peak = torch.where(peak == -torch.inf, 0.0, peak)
    if isinstance(beta, Tensor):
        beta = beta.to(h.dtype).reshape(-1, 1, 1)
    # Masked pixels (-inf): their share of the gradient of beta, z (h - max h), must be 0 and not 0 x inf.
    below = (h - peak).clamp_min(torch.finfo(h.dtype).min)
    return torch.exp(beta * below)


@register("heatmap_readout", "torch")
def heatmap_readout_reference(heatmap: Tensor, coords: str, eps: float) -> Readout:
    """`heatmap_readout` in plain PyTorch: the specification that every backend is tested against."""
    return read(heatmap, axes_of(coords, heatmap), eps)


def read(heatmap: Tensor, axes: tuple[float, float, float, float], eps: float) -> Readout:
    z = heatmap.to(accumulation_dtype(heatmap.dtype))
    height, width = z.shape[-2:]
    p = z / (z.sum(dim=(-2, -1), keepdim=True) + eps)
    rows, columns = p.sum(-1), p.sum(-2)
    x_px = torch.arange(width, dtype=z.dtype, device=z.device)
    y_px = torch.arange(height, dtype=z.dtype, device=z.device)
    mean_x, mean_y = (columns * x_px).sum(-1), (rows * y_px).sum(-1)
    var_x = (columns * (x_px - mean_x.unsqueeze(-1)) ** 2).sum(-1)
    var_y = (rows * (y_px - mean_y.unsqueeze(-1)) ** 2).sum(-1)
    scale_x, offset_x, scale_y, offset_y = axes
    # With eps > 0 the weights sum to slightly less than one, and an offset is weighted like any coordinate.
    mass = columns.sum(-1)
    xy = torch.stack((mean_x * scale_x + mass * offset_x, mean_y * scale_y + mass * offset_y), dim=-1)
    variance = (var_x + var_y) / 2
    # The derivative of sqrt at 0 is infinite: a map with all its weight on one pixel takes the branch without it.
    positive = variance > 0
    std = torch.where(positive, torch.where(positive, variance, 1.0).sqrt(), variance)
    return Readout(xy, std * scale_x)


def axis(coords: str, n: int) -> tuple[float, float]:
    """(scale, offset) such that pixel i of n lies at ``scale * i + offset`` in the coordinates `coords`."""
    if coords == "unit":
        return 1.0 / n, 0.0
    if coords == "pixel":
        return 1.0, 0.0
    if coords == "align_corners":
        return (2.0 / (n - 1), -1.0) if n > 1 else (0.0, 0.0)
    return 2.0 / n, 1.0 / n - 1.0


def accumulation_dtype(dtype: torch.dtype) -> torch.dtype:
    """float32 for half types (bf16 coordinates were seen off by 0.23 pixels), else the type itself."""
    return torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype


def axes_of(coords: str, maps: Tensor) -> tuple[float, float, float, float]:
    """(scale_x, offset_x, scale_y, offset_y)."""
    return (*axis(coords, maps.shape[-1]), *axis(coords, maps.shape[-2]))
