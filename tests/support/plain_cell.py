"""The cell as the paper draws it: every concatenation made, everything at full resolution, from named parameters alone."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

SLOPE = 0.01


def block(weights: Mapping[str, Tensor], name: str, v: Tensor, norm: str = "group", stride: int = 1) -> Tensor:
    """conv with bias -> LeakyReLU(0.01) -> norm, from the entries of a state dict."""
    kernel = weights[f"{name}.0.weight"]
    v = F.conv2d(v, kernel, weights[f"{name}.0.bias"], stride, padding=(kernel.shape[-1] - 1) // 2)
    v = F.leaky_relu(v, SLOPE)
    scale, shift = weights[f"{name}.2.weight"], weights[f"{name}.2.bias"]
    if norm == "group":
        return F.group_norm(v, 8, scale, shift)
    return F.batch_norm(v, weights[f"{name}.2.running_mean"], weights[f"{name}.2.running_var"], scale, shift)


def hourglass(weights: Mapping[str, Tensor], name: str, v: Tensor, depth: int) -> Tensor:
    if depth == 0:
        return block(weights, name, v)
    skip = block(weights, f"{name}.skip", v)
    pooled = (skip[..., ::2, ::2] + skip[..., 1::2, ::2] + skip[..., ::2, 1::2] + skip[..., 1::2, 1::2]) / 4
    low = hourglass(weights, f"{name}.inner", block(weights, f"{name}.down", pooled), depth - 1)
    up = block(weights, f"{name}.up", low).repeat_interleave(2, -1).repeat_interleave(2, -2)
    v = block(weights, f"{name}.fuse", torch.cat((up, skip), 1))
    return v + block(weights, f"{name}.residual", v)


def plain_logits(weights: Mapping[str, Tensor], z: Tensor, x: Tensor, depth: int) -> Tensor:
    """The head's output h, from the cell's own named parameters."""
    features = hourglass(weights, "hourglass", block(weights, "mix", torch.cat((z, x), 1)), depth)
    return F.conv2d(features, weights["head.weight"], weights["head.bias"])


def plain_cell(weights: Mapping[str, Tensor], z: Tensor, x: Tensor, depth: int, beta: float) -> Tensor:
    """f(z, x)."""
    h = plain_logits(weights, z, x, depth)
    return torch.exp(beta * (h - h.amax((-2, -1), keepdim=True)))
