"""LDEQ as one would write it in plain PyTorch: the baseline of the training benchmark.

The cell concatenates its state with its features in every evaluation and its hourglass levels concatenate before they fuse; the
solver is a Python loop of full-size tensor operations that reads the host in every iteration; the backward solve hangs on a
hook. Parameters carry the names of `ldeq.LDEQ`, so that both can be given the same ones. Nothing here comes from `ldeq.models`
but the configuration, lest a change there makes the baseline faster.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ldeq.models import LDEQConfig
from ldeq.ops import heatmap_readout, use_backend

Map = Callable[[Tensor], Tensor]


def block(inputs: int, outputs: int, kernel: int, norm: nn.Module, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2), nn.LeakyReLU(0.01), norm)


class Stem(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            block(3, width // 4, 7, nn.BatchNorm2d(width // 4), 2),
            block(width // 4, width // 2, 3, nn.BatchNorm2d(width // 2)),
            nn.MaxPool2d(2),
            block(width // 2, width, 3, nn.BatchNorm2d(width)),
        )

    def forward(self, images: Tensor) -> Tensor:
        return self.layers(images)


class Level(nn.Module):
    def __init__(self, width: int, inner_width: int, groups: int, inner: nn.Module) -> None:
        super().__init__()
        self.skip = block(width, width, 3, nn.GroupNorm(groups, width))
        self.down = block(width, inner_width, 3, nn.GroupNorm(groups, inner_width))
        self.inner = inner
        self.up = block(inner_width, width, 3, nn.GroupNorm(groups, width))
        self.fuse = block(2 * width, width, 1, nn.GroupNorm(groups, width))
        self.residual = block(width, width, 5, nn.GroupNorm(groups, width))

    def forward(self, v: Tensor) -> Tensor:
        skip = self.skip(v)
        low = self.up(self.inner(self.down(F.avg_pool2d(skip, 2))))
        v = self.fuse(torch.cat((F.interpolate(low, scale_factor=2.0, mode="nearest"), skip), dim=1))
        return v + self.residual(v)


class Cell(nn.Module):
    def __init__(self, c: LDEQConfig) -> None:
        super().__init__()
        self.beta = c.beta
        widths = [c.width + level * c.width_increment for level in range(c.depth + 1)]
        inner: nn.Module = block(widths[-1], widths[-1], 3, nn.GroupNorm(c.groups, widths[-1]))
        for level in reversed(range(c.depth)):
            inner = Level(widths[level], widths[level + 1], c.groups, inner)
        self.mix = block(c.landmarks + c.width, c.width, 1, nn.GroupNorm(c.groups, c.width))
        self.hourglass = inner
        self.head = nn.Conv2d(c.width, c.landmarks, 1)

    def forward(self, z: Tensor, x: Tensor) -> Tensor:
        h = self.head(self.hourglass(self.mix(torch.cat((z, x), dim=1))))
        return torch.exp(self.beta * (h - h.amax(dim=(-2, -1), keepdim=True)))


class Layer(nn.Module):
    """The implicit layer: solve, one tracked evaluation, and a hook that solves for the gradient."""

    def __init__(self, c: LDEQConfig) -> None:
        super().__init__()
        self.cell = Cell(c)
        self.solver = lambda f, z0: solve(f, z0, c, c.max_iter)
        self.backward_solver = lambda f, z0: solve(f, z0, c, c.backward_max_iter or c.max_iter)

    def forward(self, z0: Tensor, x: Tensor) -> Tensor:
        with torch.no_grad():
            z_star = self.solver(lambda z: self.cell(z, x), z0)
        if not torch.is_grad_enabled():
            return self.cell(z_star, x)
        z_star = z_star.requires_grad_()
        z = self.cell(z_star, x)

        def hook(grad: Tensor) -> Tensor:
            handle.remove()
            vjp = lambda u: torch.autograd.grad(z, z_star, u, retain_graph=True)[0] + grad  # noqa: E731
            return self.backward_solver(vjp, torch.zeros_like(grad))

        handle = z.register_hook(hook)
        return z


class Baseline(nn.Module):
    """Images `(B, 3, S, S)` to landmarks `(B, K, 2)` in units of the crop."""

    def __init__(self, config: LDEQConfig) -> None:
        super().__init__()
        self.config = config
        self.stem = Stem(config.width)
        self.deq = Layer(config)

    def forward(self, images: Tensor) -> Tensor:
        c = self.config
        z0 = images.new_zeros(len(images), c.landmarks, c.heatmap_size, c.heatmap_size)
        z = self.deq(z0, self.stem(images))
        with use_backend("torch"):
            return heatmap_readout(z.float(), coords="unit", eps=c.eps).xy


@torch.no_grad()
def solve(f: Map, z0: Tensor, c: LDEQConfig, max_iter: int) -> Tensor:
    """Anderson mixing with an absolute ridge, or plain iteration: f of lowest relative residual, per sample."""
    if c.solver == "anderson":
        return _anderson(f, z0, c, max_iter)
    z, keep = z0, Best(z0)
    for _ in range(max_iter):
        fz = f(z)
        if keep.record(z, fz) <= c.tol:
            break
        z = fz
    return keep.value


def _anderson(f: Map, z0: Tensor, c: LDEQConfig, max_iter: int) -> Tensor:
    b, d, m = len(z0), z0[0].numel(), c.m
    xs, fs = z0.new_zeros(b, m, d), z0.new_zeros(b, m, d)
    x, keep = z0, Best(z0)
    for k in range(max_iter):
        fx = f(x)
        if keep.record(x, fx) <= c.tol:
            break
        xs[:, k % m], fs[:, k % m] = x.flatten(1), fx.flatten(1)
        n = min(k + 1, m)
        g = fs[:, :n] - xs[:, :n]
        system = z0.new_zeros(b, n + 1, n + 1)
        system[:, 0, 1:] = system[:, 1:, 0] = 1
        system[:, 1:, 1:] = torch.bmm(g, g.transpose(1, 2)) + abs(c.ridge) * torch.eye(n, device=z0.device)[None]
        right = z0.new_zeros(b, n + 1, 1)
        right[:, 0] = 1
        alpha = torch.linalg.solve(system, right)[:, 1:, 0]
        mixed = c.mixing * (alpha[:, None] @ fs[:, :n])[:, 0] + (1 - c.mixing) * (alpha[:, None] @ xs[:, :n])[:, 0]
        x = mixed.view_as(z0)
    return keep.value


class Best:
    def __init__(self, z0: Tensor) -> None:
        self.value = z0
        self.residual = z0.new_full((len(z0), *[1] * (z0.ndim - 1)), float("inf"))

    def record(self, x: Tensor, fx: Tensor) -> float:
        residual = (fx - x).flatten(1).norm(dim=1) / (1e-9 + fx.flatten(1).norm(dim=1))
        better = residual.view_as(self.residual) < self.residual
        self.value = torch.where(better, fx, self.value)
        self.residual = torch.where(better, residual.view_as(self.residual), self.residual)
        return residual.max().item()
