"""Fixed-point problems on which solvers are compared: one start each, float64 or float32.

They range from contractions that plain iteration solves, over maps that expand in some directions, to the cells that a DEQ
has. Every random number comes from the seed of the problem.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ldeq.data import crop_box, crop_matrix, normalise, open_faces, warp
from ldeq.engine import load_pretrained

Map = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Problem:
    name: str
    family: str
    build: Callable[[torch.dtype], tuple[Map, Tensor]]
    """The map of states `(1, D)` and the start, in a dtype."""
    tolerances: dict[torch.dtype, float]
    """Relative residual to reach, for each dtype that the problem has."""

    def __str__(self) -> str:
        return self.name


DOUBLE, SINGLE = torch.float64, torch.float32
# Reached well above the rounding of the map in either precision.
USUAL = {DOUBLE: 1e-9, SINGLE: 1e-5}
# A step of a hundredth leaves a residual of that share of the error: float32 rounds above 1e-6 of the state.
SMALL_STEPS = {DOUBLE: 1e-9, SINGLE: 1e-6}


def noise(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=DOUBLE)


def linear(name: str, family: str, matrix: Tensor, shift: Tensor, tolerances: dict[torch.dtype, float] = USUAL) -> Problem:
    """z = A z + b; `matrix` is A, or its diagonal."""

    def build(dtype: torch.dtype) -> tuple[Map, Tensor]:
        a, b = matrix.to(dtype), shift.to(dtype)[None]
        start = torch.zeros_like(b)
        return (lambda z: a * z + b, start) if a.ndim == 1 else (lambda z: z @ a.T + b, start)

    return Problem(name, family, build, tolerances)


def pointwise(
    name: str,
    family: str,
    function: Callable[[Tensor, Tensor], Tensor],
    shift: Tensor,
    start: float = 0.0,
    tolerances: dict[torch.dtype, float] = USUAL,
) -> Problem:
    """z = function(z, b)."""

    def build(dtype: torch.dtype) -> tuple[Map, Tensor]:
        b = shift.to(dtype)[None]
        return (lambda z: function(z, b)), torch.full_like(b, start)

    return Problem(name, family, build, tolerances)


def linspace(first: float, last: float, n: int) -> Tensor:
    return torch.linspace(first, last, n, dtype=DOUBLE)


class TwoResolutions(nn.Module):
    """A cell as in multiscale DEQs: two resolutions, each a residual block, then exchanged; random weights."""

    def __init__(self, width: int, side: int) -> None:
        super().__init__()
        self.shapes = ((width, side, side), (2 * width, side // 2, side // 2))
        self.first, self.second = (nn.ModuleList(nn.Conv2d(c, c, 3, padding=1) for c, _, _ in self.shapes) for _ in range(2))
        self.down = nn.Conv2d(width, 2 * width, 3, stride=2, padding=1)
        self.up = nn.Conv2d(2 * width, width, 1)
        self.injections = nn.ParameterList(torch.zeros(1, *shape) for shape in self.shapes)

    def forward(self, z: Tensor) -> Tensor:
        sizes = [math.prod(shape) for shape in self.shapes]
        states = [part.unflatten(1, shape) for part, shape in zip(z.split(sizes, 1), self.shapes, strict=True)]
        high, low = (
            norm(F.relu(z + second(F.relu(norm(first(z)))) + x))
            for z, x, first, second in zip(states, self.injections, self.first, self.second, strict=True)
        )
        mixed = norm(high + F.interpolate(self.up(low), scale_factor=2)), norm(low + self.down(high))
        return torch.cat([part.flatten(1) for part in mixed], 1)


def norm(z: Tensor) -> Tensor:
    return 0.5 * F.group_norm(z, 4)


def contractions(seed: int) -> Iterator[Problem]:
    for n, scale in ((200, 1e-4), (200, 1.0), (200, 100.0), (20_000, 1.0)):
        name = f"linear, slopes 0 to .95, at {scale:g}, D {n}"
        yield linear(name, "linear", linspace(0, 0.95, n), scale * noise(n, seed=seed))
    yield linear("linear, slopes -.95 to .95, D 200", "linear", linspace(-0.95, 0.95, 200), noise(200, seed=seed + 1))
    yield linear("linear, slopes 0 to .99, D 200", "linear", linspace(0, 0.99, 200), noise(200, seed=seed + 2))
    for n, last in ((100, -2.5), (8, -4.0)):
        slopes = 1 - torch.logspace(0, last, n, dtype=DOUBLE)
        yield linear(f"stiff, slopes 0 to 1 - 10^{last:g}, D {n}", "stiff", slopes, noise(n, seed=seed + 3))
    for radius in (0.9, 0.99):
        blocks = [radius * torch.tensor([[t.cos(), -t.sin()], [t.sin(), t.cos()]]) for t in linspace(0.2, 3.1, 12)]
        yield linear(f"rotation, radius {radius:g}, D 24", "rotation", torch.block_diag(*blocks), noise(24, seed=seed + 4))


def expansions(seed: int) -> Iterator[Problem]:
    """Maps that plain iteration leaves."""
    slopes = torch.cat([linspace(-3, -0.5, 4), linspace(0, 0.9, 60), torch.tensor([1.5], dtype=DOUBLE)])
    yield linear("linear, five slopes beyond 1, D 65", "non-contractive", slopes, noise(65, seed=seed + 5))
    yield linear("linear, slopes -30 to .9, D 6", "non-contractive", linspace(-30, 0.9, 6), noise(6, seed=seed + 6))
    for n in (1, 3, 100):
        shift = noise(n, seed=seed + 7)
        yield pointwise(f"-2.5 tanh z + b, D {n}", "non-contractive", lambda z, b: -2.5 * torch.tanh(z) + b, shift)


def gradient_steps(rows: int, columns: int, step: float, seed: int) -> Problem:
    """For min ||A z - y||^2, `step` over the largest curvature."""
    a = noise(rows, columns, seed=seed) / math.sqrt(rows)
    h = a.T @ a
    rate = step / torch.linalg.matrix_norm(h, 2)
    name = f"gradient steps of {step:g}, D {columns}"
    matrix = torch.eye(columns, dtype=DOUBLE) - rate * h
    return linear(name, "gradient steps", matrix, rate * noise(columns, seed=seed + 1))


def small_steps(seed: int) -> Iterator[Problem]:
    """Maps near the identity."""
    n = 100
    w = matrix_of_norm(0.95, n, seed + 8)

    def cell(step: float) -> Callable[[Tensor, Tensor], Tensor]:
        return lambda z, b: z + step * (torch.tanh(z @ w.to(z.dtype).T + b) - z)

    for step in (0.01, 0.1):
        shift = noise(n, seed=seed + 9)
        yield pointwise(f"z + {step:g} (tanh(W z + b) - z), D {n}", "near identity", cell(step), shift, 0.0, SMALL_STEPS)
    slopes = linspace(0.5, 3, n)
    yield pointwise(
        f"z - .01 (d z + z^3 - b), D {n}", "near identity",
        lambda z, b: z - 0.01 * (slopes.to(z.dtype) * z + z**3 - b), noise(n, seed=seed + 10), 0.0, SMALL_STEPS,
    )  # fmt: skip
    for i, (rows, columns, step) in enumerate(((300, 60, 1.0), (300, 60, 0.1), (12, 10, 1.0), (20, 5, 0.01))):
        yield gradient_steps(rows, columns, step, seed + 11 + 2 * i)


def networks(seed: int) -> Iterator[Problem]:
    n = 200
    for size in (0.95, 1.5, 3.0):
        w = matrix_of_norm(size, n, seed + 19)
        function = lambda z, b, w=w: torch.tanh(z @ w.to(z.dtype).T + b)  # noqa: E731
        yield pointwise(f"tanh(W z + b), ||W|| = {size:g}, D {n}", "tanh network", function, noise(n, seed=seed + 20))
    yield pointwise("cos(z + b) - b, D 100", "pointwise", lambda z, b: torch.cos(z + b) - b, noise(100, seed=seed + 21))
    shift = 0.1 * noise(8, seed=seed + 22)
    yield pointwise(".99 z - .03 z^3 + b from 3, D 8", "pointwise", lambda z, b: 0.99 * z - 0.03 * z**3 + b, shift, 3.0)


def matrix_of_norm(size: float, n: int, seed: int) -> Tensor:
    w = noise(n, n, seed=seed)
    return size * w / torch.linalg.matrix_norm(w, 2)


def two_resolutions(gain: float, seed: int) -> Problem:
    """`gain` scales the weights of all convolutions."""

    def build(dtype: torch.dtype) -> tuple[Map, Tensor]:
        cell = TwoResolutions(8, 16)
        with torch.no_grad():
            for i, p in enumerate(cell.parameters()):
                p.copy_(gain * noise(*p.shape, seed=seed + 100 + i) / math.sqrt(p[0].numel()) if p.ndim == 4 else 0 * p)
            for i, x in enumerate(cell.injections):
                x.copy_(noise(*x.shape, seed=seed + 200 + i))
        cell = cell.requires_grad_(False).to(dtype)
        return cell, torch.zeros(1, sum(math.prod(s) for s in cell.shapes), dtype=dtype)

    return Problem(f"two resolutions, weights {gain:g}, D 3072", "MDEQ-like", build, USUAL)


def landmarks(index: int) -> Problem:
    """The cell of the shipped small-68 model on a drawn face, from zeros."""

    def build(dtype: torch.dtype) -> tuple[Map, Tensor]:
        model = load_pretrained("small-68").model
        faces = open_faces("synthetic:4#seed=3,size=256", "test")
        points = faces.record(index).points
        size = model.config.image_size
        box = crop_box("box", box=[*points.min(0), *points.max(0)])
        picture = warp(faces.read(index), crop_matrix(box, size), size)
        start = model.initial_state(1)
        with torch.no_grad():
            x = model.stem(normalise(torch.from_numpy(picture).permute(2, 0, 1)[None]))
        return (lambda z: model.cell(z.reshape(start.shape), x).flatten(1)), start.flatten(1)

    return Problem(f"LDEQ cell, small-68, face {index}", "LDEQ", build, {SINGLE: 1e-4})


def problems(seeds: int = 2) -> list[Problem]:
    """The list, with as many draws of what is random in it."""
    found = [
        pointwise("cos z, D 1", "pointwise", lambda z, b: torch.cos(z), torch.zeros(1)),
        pointwise("tanh(3 z) + 1e-10, D 4", "non-contractive", lambda z, b: torch.tanh(3 * z) + b, torch.full((4,), 1e-10)),
        *(landmarks(i) for i in range(seeds)),
    ]
    for seed in range(seeds):
        drawn = [
            *contractions(1000 * seed), *expansions(1000 * seed), *small_steps(1000 * seed), *networks(1000 * seed),
            *(two_resolutions(gain, 1000 * seed) for gain in (0.5, 1.5)),
        ]  # fmt: skip
        found += [replace(p, name=f"{p.name}, draw {seed}") for p in drawn]
    return found
