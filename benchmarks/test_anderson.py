"""One Anderson iteration, solver only, at LDEQ's size: B = 4, D = 98 x 64 x 64, m = 6, float32."""

from __future__ import annotations

import torch
from operators import anderson_step
from record import save

from ldeq.cli.bench import free_map
from ldeq.solvers import anderson

B, D, M, STEPS = 4, 98 * 64 * 64, 6, 16


@torch.no_grad()
def test_step(device, benchmark):
    what = f"one Anderson iteration, B = {B}, D = {D}, m = {M}, fp32, solver only"
    save("anderson_step", what, anderson_step(B, D, M, STEPS, device), device)
    outputs = [torch.randn(B, D, device=device) for _ in range(8)]
    start = torch.zeros(B, D, device=device)
    solve = lambda: anderson(free_map(outputs), start, m=M, max_iter=STEPS, tol=0)  # noqa: E731
    benchmark.pedantic(solve, rounds=5, warmup_rounds=1)
