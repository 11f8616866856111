"""The folded network on a CPU, by oneDNN: weights laid out for it once, convolution and activation in one call.

`torch.nn.functional.conv2d` chooses for each call: small inputs take a slow path without oneDNN, and the weights of the
others are laid out anew each time. The operators here are those that torch's own compiler emits.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from ...ops import heatmap_normalise
from ..cell import SLOPE
from .folded import Convolution, Folded, Norm
from .plain import PlainOperations


def packing_missing() -> str | None:
    """Why convolutions cannot be packed in this build of torch, or None."""
    if not torch.backends.mkldnn.is_available():
        return "this torch is built without oneDNN"
    if not (hasattr(torch.ops.mkldnn, "_convolution_pointwise") and hasattr(torch.ops.mkldnn, "_reorder_convolution_weight")):
        return f"torch {torch.__version__} lacks the packed convolutions of oneDNN"
    return None


class PackedOperations(PlainOperations):
    """`Operations` on channels-last float32 maps."""

    def __init__(self, folded: Folded) -> None:
        """
        Args:
            folded: its convolutions are packed here.
        """
        self._convolve = torch.ops.mkldnn._convolution_pointwise.default
        self._kernels = {convolution: _pack(convolution) for convolution in folded.convolutions()}

    def convolve(self, v: Tensor, convolution: Convolution, *, activate: bool = False) -> Tensor:
        c = convolution
        pad = c.kernel.shape[-1] // 2
        how = ("leaky_relu", [SLOPE], "") if activate else ("none", [], "")
        kernel, stride = self._kernels[c], [c.stride, c.stride]
        return self._convolve(v, kernel, c.bias, [pad, pad], stride, [1, 1], 1, *how)

    def normalise(self, v: Tensor, norm: Norm) -> Tensor:
        """Without the checks of `torch.nn.functional`, which take as long as the norm of a small map."""
        return torch.group_norm(v, norm.groups, norm.scale, norm.shift, norm.eps)

    # In place where the operand is nobody else's: for a large batch, fresh memory costs as much as the operation. The fused
    # sum of oneDNN was slower than these three passes.
    def convolve_add(self, v: Tensor, convolution: Convolution, other: Tensor) -> Tensor:
        return F.leaky_relu_(self.convolve(v, convolution).add_(other), SLOPE)

    def add(self, a: Tensor, b: Tensor) -> Tensor:
        return b.add_(a)

    def heatmaps(self, logits: Tensor, beta: float) -> Tensor:
        return heatmap_normalise(logits.contiguous(), beta)


def _pack(convolution: Convolution) -> Tensor:
    """Laid out for a batch of one; a layout that another batch prefers was not measured to differ."""
    c = convolution
    pad, shape = c.kernel.shape[-1] // 2, [1, c.kernel.shape[1], c.size, c.size]
    kernel = c.kernel.contiguous(memory_format=torch.channels_last)
    packed: Tensor = torch.ops.mkldnn._reorder_convolution_weight(kernel, [pad, pad], [c.stride, c.stride], [1, 1], 1, shape)
    return packed
