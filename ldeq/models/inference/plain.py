"""The folded network in plain PyTorch: what `torch.export` records, and what other engines are compared with."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from ..cell import SLOPE
from .folded import Affine, Convolution, Norm


class PlainOperations:
    """`Operations` by public functions of PyTorch alone."""

    def convolve(self, v: Tensor, convolution: Convolution, *, activate: bool = False) -> Tensor:
        c = convolution
        v = F.conv2d(v, c.kernel, c.bias, stride=c.stride, padding=c.kernel.shape[-1] // 2)
        return F.leaky_relu(v, SLOPE) if activate else v

    def convolve_add(self, v: Tensor, convolution: Convolution, other: Tensor) -> Tensor:
        return F.leaky_relu(self.convolve(v, convolution) + other, SLOPE)

    def normalise(self, v: Tensor, norm: Norm) -> Tensor:
        return F.group_norm(v, norm.groups, norm.scale, norm.shift, norm.eps)

    def scale(self, v: Tensor, affine: Affine) -> Tensor:
        return torch.addcmul(affine.shift, v, affine.scale)

    def max_pool(self, v: Tensor) -> Tensor:
        return F.max_pool2d(v, 2)

    def average_pool(self, v: Tensor) -> Tensor:
        return F.avg_pool2d(v, 2)

    def upsample(self, v: Tensor) -> Tensor:
        return F.interpolate(v, scale_factor=2.0, mode="nearest")

    def add(self, a: Tensor, b: Tensor) -> Tensor:
        return a + b

    def heatmaps(self, logits: Tensor, beta: float) -> Tensor:
        return torch.exp(beta * (logits - logits.amax((-2, -1), keepdim=True)))
