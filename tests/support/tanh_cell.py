"""A small contraction whose gradient is known, and losses of the two sizes that matter."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from ldeq.implicit import GRADIENTS

N = 12
each_gradient = pytest.mark.parametrize("gradient", GRADIENTS)
LOSSES: dict[str, Callable[[Tensor], Tensor]] = {
    "sum": lambda z: z.square().sum(),
    # As small as a mean over 98 maps of 64 x 64 makes it: an absolute ridge or tolerance fails here.
    "mean": lambda z: 1e-6 * z.square().mean(),
}


class TanhCell(nn.Module):
    """tanh(W z + U x + b) with ||W|| = .8: a contraction whose unrolled gradient converges too."""

    def __init__(self, dtype: torch.dtype = torch.float64, norm: float = 0.8) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        w, u, b = (torch.randn(s, generator=generator, dtype=torch.float64) for s in ((N, N), (N, 3), (N,)))
        self.w = nn.Parameter((norm * w / torch.linalg.matrix_norm(w, 2)).to(dtype))
        self.u, self.b = nn.Parameter(u.to(dtype)), nn.Parameter(b.to(dtype))

    def forward(self, z: Tensor, x: Tensor) -> Tensor:
        return torch.tanh(z @ self.w.T + x @ self.u.T + self.b)


def injection(batch: int = 4, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(batch, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(dtype)


def start(batch: int = 4, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.zeros(batch, N, dtype=dtype)


def gradients(output: Callable[[TanhCell, Tensor], Tensor], loss: Callable[[Tensor], Tensor]) -> list[Tensor]:
    """Of a loss on output(cell, x), in float64: W, U, b and the injection."""
    cell, x = TanhCell(), injection().requires_grad_()
    return list(torch.autograd.grad(loss(output(cell, x)), (cell.w, cell.u, cell.b, x)))


def unrolled_to_convergence(cell: TanhCell, x: Tensor) -> Tensor:
    z = start()
    for _ in range(200):  # .8^200 = 4e-20
        z = cell(z, x)
    return z


def relative_error(got: Tensor, want: Tensor) -> float:
    return float((got.double() - want.double()).norm() / want.double().norm())
