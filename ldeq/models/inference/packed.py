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

SIDE = 32
"""Of the largest maps on which the first and the last convolution of an evaluation are matrix products, which read and write
the state as it lies in memory. One thread, AVX-512: 140 and 98 us instead of 210 and 120 for maps of 32 x 32, but 2.6 and 2.6
ms instead of 2.4 and 1.9 for the paper's of 64 x 64."""


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
        # What reads the state and what writes the logits: `(h h, K)` and `(K, h h)`, as matrix products take and give them.
        self._first: Convolution | None = None
        self._last: Convolution | None = None
        if folded.head.size <= SIDE:
            self._first, self._last = folded.mix.convolution, folded.head
            self._of_state = folded.mix.convolution.kernel[:, :, 0, 0].t().contiguous()
            self._to_logits = folded.head.kernel[:, :, 0, 0].contiguous()
            bias = folded.head.bias
            self._bias = torch.zeros(1) if bias is None else bias.view(1, -1, 1)

    def convolve(self, v: Tensor, convolution: Convolution, *, activate: bool = False) -> Tensor:
        c = convolution
        if c is self._last:
            kernel = self._to_logits.expand(len(v), -1, -1)
            return torch.baddbmm(self._bias, kernel, _rows(v).mT).view(len(v), -1, c.size, c.size)
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
        if convolution is self._first and v.is_contiguous():
            kernel = self._of_state.expand(len(v), -1, -1)
            rows = torch.baddbmm(_rows(other), v.flatten(2).mT, kernel)
            return F.leaky_relu_(rows.view(len(v), *v.shape[2:], -1).permute(0, 3, 1, 2), SLOPE)
        v = v.contiguous(memory_format=torch.channels_last)  # the state is not
        return F.leaky_relu_(self.convolve(v, convolution).add_(other), SLOPE)

    def add(self, a: Tensor, b: Tensor) -> Tensor:
        return b.add_(a)

    def heatmaps(self, logits: Tensor, beta: float) -> Tensor:
        return heatmap_normalise(logits.contiguous(), beta)


def _rows(v: Tensor) -> Tensor:
    """Channels-last maps `(B, C, h, w)` as `(B, h w, C)`, a view."""
    return v.permute(0, 2, 3, 1).flatten(1, 2)


def _pack(convolution: Convolution) -> Tensor:
    """Laid out for a batch of one; a layout that another batch prefers was not measured to differ."""
    c = convolution
    pad, shape = c.kernel.shape[-1] // 2, [1, c.kernel.shape[1], c.size, c.size]
    kernel = c.kernel.contiguous(memory_format=torch.channels_last)
    packed: Tensor = torch.ops.mkldnn._reorder_convolution_weight(kernel, [pad, pad], [c.stride, c.stride], [1, 1], 1, shape)
    return packed
