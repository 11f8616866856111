"""Fixed-point problems with known answers, which every solver runs.

Each is a batch of independent samples whose maps differ; `rows` builds the same map for some of them alone.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

Map = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Problem:
    name: str
    build: Callable[[torch.dtype, slice], Map]
    solution: Tensor
    """(B, ...), float64, by a direct or a Newton solve."""
    amplification: float
    """Norm of (I - J)^-1 at the solution: ||x - x*|| is at most this times ||f(x) - x||, to first order."""

    def map(self, dtype: torch.dtype = torch.float64, rows: slice = slice(None)) -> Map:
        return self.build(dtype, rows)

    def start(self, dtype: torch.dtype = torch.float64, rows: slice = slice(None)) -> Tensor:
        return torch.zeros_like(self.solution[rows], dtype=dtype)

    def __str__(self) -> str:
        return self.name


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def linear(scale: float, n: int = 64, batch: int = 3) -> Problem:
    """Symmetric, spectrum in [0, .95]: the table of calls by scale in the notes on solvers was made with it."""
    a, b = torch.linspace(0, 0.95, n, dtype=torch.float64), scale * noise(batch, n)

    def build(dtype: torch.dtype, rows: slice) -> Map:
        slope, shift = a.to(dtype), b[rows].to(dtype)
        return lambda z: slope * z + shift

    return Problem(f"linear at {scale:g}", build, b / (1 - a), 20.0)


def conditioned(batch: int = 6, n: int = 32) -> Problem:
    """Affine, the largest slope of each sample another one: they need very different numbers of iterations."""
    top = torch.tensor([0.1, 0.3, 0.6, 0.8, 0.9, 0.97], dtype=torch.float64)[:batch, None]
    a, b = top * torch.linspace(-1, 1, n, dtype=torch.float64), noise(batch, n, seed=1)

    def build(dtype: torch.dtype, rows: slice) -> Map:
        slope, shift = a[rows].to(dtype), b[rows].to(dtype)
        return lambda z: slope * z + shift

    return Problem("conditioned", build, b / (1 - a), 1 / 0.03)


def rotation(batch: int = 3, pairs: int = 12, radius: float = 0.9) -> Problem:
    """Complex eigenvalues of modulus .9 all around the circle: symmetric intuition fails here."""
    angles = torch.linspace(0.2, 3.1, pairs, dtype=torch.float64)
    blocks = [torch.tensor([[t.cos(), -t.sin()], [t.sin(), t.cos()]], dtype=torch.float64) for t in angles]
    a, b = radius * torch.block_diag(*blocks), noise(batch, 2 * pairs, seed=2)
    eye = torch.eye(2 * pairs, dtype=torch.float64)

    def build(dtype: torch.dtype, rows: slice) -> Map:
        matrix, shift = a.to(dtype), b[rows].to(dtype)
        return lambda z: z @ matrix.T + shift

    return Problem("rotation", build, torch.linalg.solve(eye - a, b.T).T, 1 / (1 - radius))


def tanh_network(batch: int = 3, shape: tuple[int, ...] = (2, 3, 5), norm: float = 0.8) -> Problem:
    """z = tanh(W z + b) on states with several dimensions, ||W|| = .8."""
    n = torch.Size(shape).numel()
    w, b = noise(n, n, seed=3), noise(batch, n, seed=4)
    w = norm * w / torch.linalg.matrix_norm(w, 2)

    def build(dtype: torch.dtype, rows: slice) -> Map:
        matrix, shift = w.to(dtype), b[rows].to(dtype)
        return lambda z: torch.tanh(z.flatten(1) @ matrix.T + shift).reshape(z.shape)

    # Newton, sample by sample; quadratic convergence needs fewer than 20 steps from zero.
    z = torch.zeros(batch, n, dtype=torch.float64)
    for _ in range(20):
        t = torch.tanh(z @ w.T + b)
        jacobian = (1 - t**2).unsqueeze(-1) * w - torch.eye(n, dtype=torch.float64)
        z = z - torch.linalg.solve(jacobian, t - z)
    return Problem("tanh network", build, z.reshape(batch, *shape), 1 / (1 - norm))


def cosine() -> Problem:
    """The Dottie number; one number a sample."""
    return Problem("cosine", lambda dtype, rows: torch.cos, torch.full((2, 1), 0.7390851332151607, dtype=torch.float64), 1.0)


PROBLEMS = [
    *(linear(scale) for scale in (1e-4, 1e-2, 1.0, 1e2, 1e4)),
    conditioned(),
    rotation(),
    tanh_network(),
    cosine(),
]


def name_of(value: object) -> str:
    """The name of a case in pytest's list: functions without their addresses, which are others in each process."""
    return re.sub(r"<function (\S+) at 0x[0-9a-f]+>", r"\1", str(value))
