"""The published model and its loop, written from the facts in the paper and about its release, and independent of ldeq.

Everything as it is drawn: concatenations are made, the skip's half first in each level up; Anderson mixing is the bordered
system with an absolute ridge; the batch stops on its mean.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Function = Callable[[Tensor], Tensor]


class ConvNorm(nn.Module):
    """conv with bias -> LeakyReLU(0.01) -> norm."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, batch: bool = False) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2)
        self.norm = nn.BatchNorm2d(outputs) if batch else nn.GroupNorm(8, outputs)

    def forward(self, v: Tensor) -> Tensor:
        return self.norm(F.leaky_relu(self.conv(v), 0.01))


class Level(nn.Module):
    def __init__(self, widths: list[int]) -> None:
        super().__init__()
        w, inner = widths[:2]
        self.branch = ConvNorm(w, w, 3)
        self.narrow = ConvNorm(w, inner, 3)
        self.low = Level(widths[1:]) if len(widths) > 2 else ConvNorm(inner, inner, 3)
        self.widen = ConvNorm(inner, w, 3)
        self.merge = ConvNorm(2 * w, w, 1)
        self.smooth = ConvNorm(w, w, 5)

    def forward(self, v: Tensor) -> Tensor:
        skip = self.branch(v)
        low = self.low(self.narrow(F.avg_pool2d(skip, 2)))
        v = self.merge(torch.cat((skip, F.interpolate(self.widen(low), scale_factor=2, mode="nearest")), 1))
        return v + self.smooth(v)


class Released(nn.Module):
    """Stem, cell and readout; 264, +24, 4 levels and 98 landmarks are the released ones."""

    def __init__(self, landmarks: int = 98, width: int = 264, step: int = 24, depth: int = 4, beta: float = 0.3) -> None:
        super().__init__()
        self.landmarks, self.beta = landmarks, beta
        self.entry = nn.Sequential(
            ConvNorm(3, width // 4, 7, 2, batch=True),
            ConvNorm(width // 4, width // 2, 3, batch=True),
            nn.MaxPool2d(2),
            ConvNorm(width // 2, width, 3, batch=True),
        )
        self.join = ConvNorm(landmarks + width, width, 1)
        self.glass = Level([width + i * step for i in range(depth + 1)])
        self.last = nn.Conv2d(width, landmarks, 1)

    def cell(self, z: Tensor, x: Tensor) -> Tensor:
        h = self.last(self.glass(self.join(torch.cat((z, x), 1))))
        return torch.exp(self.beta * (h - h.amax((-2, -1), keepdim=True)))

    @torch.no_grad()
    def forward(self, images: Tensor, solve: Callable[[Function, Tensor], Tensor]) -> Tensor:
        """Landmarks `(B, K, 2)` in unit coordinates."""
        x = self.entry(images)
        z0 = torch.zeros(len(images), self.landmarks, *x.shape[-2:], dtype=x.dtype)
        z = self.cell(solve(lambda z: self.cell(z, x), z0), x)
        p = z / (z.sum((-2, -1), keepdim=True) + 1e-4)
        side = z.shape[-1]
        unit = torch.arange(side, dtype=z.dtype) / side
        return torch.stack(((p.sum(-2) * unit).sum(-1), (p.sum(-1) * unit).sum(-1)), -1)


def anderson_loop(f: Function, z0: Tensor, m: int = 6, ridge: float = 1e-4, evaluations: int = 5, tol: float = 1e-4) -> Tensor:
    """Anderson mixing with two start-up evaluations besides the budget; the iterate of lowest residual."""
    xs, fs = [z0], [f(z0)]
    xs.append(fs[0])
    fs.append(f(xs[1]))
    lowest, best = torch.inf, z0
    for _ in range(evaluations):
        g = torch.stack([a - b for a, b in zip(fs[-m:], xs[-m:], strict=True)], 1).flatten(2)
        n = g.shape[1]
        system = torch.zeros(len(z0), n + 1, n + 1, dtype=z0.dtype)
        system[:, 0, 1:] = system[:, 1:, 0] = 1
        system[:, 1:, 1:] = g @ g.mT + ridge * torch.eye(n, dtype=z0.dtype)
        right = torch.zeros(len(z0), n + 1, 1, dtype=z0.dtype)
        right[:, 0] = 1
        alpha = torch.linalg.solve(system, right)[:, 1:, 0]
        x = sum(a[:, None, None, None] * v for a, v in zip(alpha.T, fs[-m:], strict=True))
        assert isinstance(x, Tensor)
        xs.append(x)
        fs.append(f(x))
        size = ((fs[-1] - x).flatten(1).norm(dim=1) / fs[-1].flatten(1).norm(dim=1)).mean().item()
        if size < lowest:
            lowest, best = size, x
        if size < tol:
            break
    return best


def fixed_point_loop(f: Function, z0: Tensor, evaluations: int = 5, tol: float = 5e-4) -> Tensor:
    """z <- f(z); the iterate of lowest residual."""
    lowest, best, x = torch.inf, z0, z0
    for _ in range(evaluations):
        fx = f(x)
        size = ((fx - x).flatten(1).norm(dim=1) / fx.flatten(1).norm(dim=1)).mean().item()
        if size < lowest:
            lowest, best = size, x
        if size < tol:
            break
        x = fx
    return best


def seeded(model: Released, seed: int = 0) -> Released:
    """Random weights under which every tensor matters and the cell contracts about as a trained one does."""
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in model.state_dict().items():
        if not tensor.is_floating_point():
            continue
        noise = torch.randn(tensor.shape, generator=generator, dtype=tensor.dtype)
        if tensor.ndim == 4:
            fan = tensor[0].numel() + tensor.shape[0] * tensor[0, 0].numel()
            tensor.copy_(noise * (2 / fan) ** 0.5)
        elif name.endswith("running_var"):
            tensor.copy_(1 + noise.abs())
        elif name.endswith("norm.weight"):
            tensor.copy_(1 + 0.2 * noise)
        else:
            tensor.copy_(0.2 * noise)
    # A cell that does not contract makes every rounding larger from step to step.
    model.join.conv.weight.data[:, : model.landmarks] *= 0.1
    model.last.weight.data *= 3
    return model.eval()


def published_file(path: Path, model: Released, **arguments: object) -> Path:
    """A file in the published format."""
    torch.save({"args": argparse.Namespace(**arguments), "state_dict": model.state_dict()}, path)
    return path
