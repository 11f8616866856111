"""The stem and the hourglass cell of LDEQ (CVPR 2023, section 3 and appendix)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Norm = Callable[[int], nn.Module]


def conv_block(inputs: int, outputs: int, kernel: int, norm: Norm, stride: int = 1) -> nn.Sequential:
    """Convolution with bias -> LeakyReLU(0.01) -> normalisation, in that order; "same" padding."""
    conv = nn.Conv2d(inputs, outputs, kernel, stride=stride, padding=kernel // 2)
    nn.init.xavier_normal_(conv.weight)
    nn.init.zeros_(conv.bias)  # type: ignore[arg-type]
    return nn.Sequential(conv, nn.LeakyReLU(0.01), norm(outputs))


class Stem(nn.Module):
    """Images `(B, 3, S, S)` to features `(B, width, S/4, S/4)`; BatchNorm."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            conv_block(3, width // 4, 7, nn.BatchNorm2d, stride=2),
            conv_block(width // 4, width // 2, 3, nn.BatchNorm2d),
            nn.MaxPool2d(2),
            conv_block(width // 2, width, 3, nn.BatchNorm2d),
        )

    def forward(self, images: Tensor) -> Tensor:
        return self.layers(images)


class HourglassLevel(nn.Module):
    """One level down and up again, around an inner module that works at half the resolution."""

    def __init__(self, width: int, inner_width: int, norm: Norm, inner: nn.Module) -> None:
        super().__init__()
        self.skip = conv_block(width, width, 3, norm)
        self.down = conv_block(width, inner_width, 3, norm)
        self.inner = inner
        self.up = conv_block(inner_width, width, 3, norm)
        self.fuse = conv_block(2 * width, width, 1, norm)
        self.residual = conv_block(width, width, 5, norm)

    def forward(self, v: Tensor) -> Tensor:
        skip = self.skip(v)
        low = self.up(self.inner(self.down(F.avg_pool2d(skip, 2))))
        v = self.fuse(torch.cat((F.interpolate(low, scale_factor=2.0, mode="nearest"), skip), dim=1))
        return v + self.residual(v)


class Cell(nn.Module):
    """f(z, x): heatmaps `(B, K, h, h)` and stem features `(B, width, h, h)` to new heatmaps `(B, K, h, h)`.

    The heatmaps are exp(beta (h - max h)): peak 1, not normalised to sum one.
    """

    def __init__(self, landmarks: int, width: int, width_increment: int, depth: int, groups: int, beta: float) -> None:
        super().__init__()
        self.beta = beta

        def norm(channels: int) -> nn.Module:
            return nn.GroupNorm(groups, channels)

        widths = [width + level * width_increment for level in range(depth + 1)]
        inner: nn.Module = conv_block(widths[-1], widths[-1], 3, norm)
        for level in reversed(range(depth)):
            inner = HourglassLevel(widths[level], widths[level + 1], norm, inner)
        self.mix = conv_block(landmarks + width, width, 1, norm)
        self.hourglass = inner
        self.head = nn.Conv2d(width, landmarks, 1)
        nn.init.xavier_normal_(self.head.weight)
        nn.init.zeros_(self.head.bias)  # type: ignore[arg-type]

    def logits(self, z: Tensor, x: Tensor) -> Tensor:
        """The head's output h `(B, K, h, h)`, before the heatmap normalisation."""
        features = self.hourglass(self.mix(torch.cat((z.to(x.dtype), x), dim=1)))
        # The head runs in the state's precision under autocast and in a half-precision model, too: bf16 logits are off by up
        # to 0.4 % of themselves, and the exponential turns that into an error of the heatmap that no solver can iterate away.
        with torch.autocast(z.device.type, enabled=False):
            return F.conv2d(features.to(z.dtype), self.head.weight.to(z.dtype), self.head.bias.to(z.dtype))  # type: ignore[union-attr]

    def forward(self, z: Tensor, x: Tensor) -> Tensor:
        h = self.logits(z, x)
        return torch.exp(self.beta * (h - h.amax(dim=(-2, -1), keepdim=True)))
