"""One Anderson iteration, solver only, at LDEQ's size: B = 4, D = 98 x 64 x 64, m = 6, float32."""

from __future__ import annotations

import torch
from paired import paired, save
from torchdeq.solver import get_solver

from ldeq.solvers import anderson

B, D, M = 4, 98 * 64 * 64, 6
STEPS = 16
EVALUATIONS = [torch.randn(B, D, generator=torch.Generator().manual_seed(s)) for s in range(8)]


def cell():
    """An f that costs nothing: it hands out one of eight fixed tensors, so that only the solver is timed."""
    calls = 0

    def f(z: torch.Tensor) -> torch.Tensor:
        nonlocal calls
        calls += 1
        return EVALUATIONS[calls % 8].reshape(z.shape)

    return f


def published(f, x0: torch.Tensor, steps: int) -> torch.Tensor:
    """The published loop, rewritten plainly: full Gram matrix, both mixing products, five host reads an iteration."""
    xs, fs = torch.zeros(B, M, D), torch.zeros(B, M, D)
    xs[:, 0], fs[:, 0] = x0, f(x0)
    xs[:, 1], fs[:, 1] = fs[:, 0], f(fs[:, 0])
    system, right = torch.zeros(B, M + 1, M + 1), torch.zeros(B, M + 1, 1)
    system[:, 0, 1:] = system[:, 1:, 0] = 1
    right[:, 0] = 1
    lowest, best = float("inf"), x0
    trace = []
    for k in range(2, steps):
        n = min(k, M)
        g = fs[:, :n] - xs[:, :n]
        system[:, 1 : n + 1, 1 : n + 1] = torch.bmm(g, g.transpose(1, 2)) + 1e-4 * torch.eye(n)[None]
        alpha = torch.linalg.solve(system[:, : n + 1, : n + 1], right[:, : n + 1])[:, 1 : n + 1, 0]
        i = k % M
        xs[:, i] = 1.0 * (alpha[:, None] @ fs[:, :n])[:, 0] + 0.0 * (alpha[:, None] @ xs[:, :n])[:, 0]
        fs[:, i] = f(xs[:, i])
        difference = fs[:, i] - xs[:, i]
        norm, size = difference.norm(), fs[:, i].norm()
        absolute, relative = norm.item(), (norm / (1e-5 + size)).item()
        trace.append((absolute, relative))
        if relative < lowest:
            lowest, best = relative, xs[:, i].clone()
        # The other three reads are of single numbers, as in the loop that people run.
        if torch.isnan(norm).item() or torch.isinf(size).item() or bool(norm < 0):
            break
    return best


def test_step(benchmark):
    start = torch.zeros(B, D)
    torchdeq = get_solver("anderson")

    def solve(history=None):
        return anderson(cell(), start, m=M, max_iter=STEPS, tol=0, history_dtype=history)

    targets = [torch.empty(B, D) for _ in range(8)]

    def stream(_):
        # 16 D a step: eight copies, each of which reads D and writes D.
        for _ in range(STEPS - 1):
            for source, target in zip(EVALUATIONS, targets, strict=True):
                target.copy_(source)

    candidates = {
        "ours": lambda _: solve(),
        "ours, bf16 history": lambda _: solve(torch.bfloat16),
        "published loop": lambda _: published(cell(), start, STEPS),
        "torchdeq": lambda _: torchdeq(cell(), start, max_iter=STEPS, tol=0.0, m=M, lam=1e-4),
        "floor: stream 16 D": stream,
    }
    with torch.no_grad():
        results = paired(candidates, rounds=9, warm=1)
        for entry in results.values():
            entry["median_ms"] /= STEPS
            entry["best_ms"] /= STEPS
        save("anderson_step", f"one Anderson iteration, B = {B}, D = {D}, m = {M}, fp32, solver only", results)
        benchmark.pedantic(solve, rounds=5, warmup_rounds=1)
