"""Solvers on one list of problems: evaluations and time to a tolerance, as performance profiles."""

from __future__ import annotations

import pytest
import torch
from contestants import contestants
from profile_problems import problems
from profiles import Costs, area, best, costs, draw, finite, solved, summary
from record import RESULTS, save

BUDGET = 500
# Differences kept: Anderson mixing with m = 6 and m = 12.
DEPTHS = (5, 11)


def test_profiles(device):
    if device != "cpu":
        pytest.skip("evaluations are the same on every device, and half of the peers run on a CPU alone")
    drawn = problems()
    evaluations: dict[str, Costs] = {}
    seconds: dict[str, Costs] = {}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for depth in DEPTHS:
            found, missing = contestants(depth)
            for dtype in (torch.float64, torch.float32):
                title = f"m = {depth + 1}, {str(dtype).removeprefix('torch.')}"
                evaluations[f"evaluations, {title}"], times = costs(found, drawn, dtype, BUDGET)
                # Times of the shorter history alone: those of both look alike.
                if depth == DEPTHS[0]:
                    seconds[f"CPU time, {title}"] = times
        panels = {**evaluations, **seconds}
        draw(panels, RESULTS / "solver_profiles.png")
        save(
            "solver_profiles",
            f"performance profiles of {len(drawn)} problems, at most {BUDGET} evaluations: area up to 10 times the best cost",
            summary(panels, area),
            share_best=summary(panels, best),
            share_solved=summary(panels, solved),
            missing_because=missing,
            evaluations={title: finite(table) for title, table in evaluations.items()},
        )
    finally:
        torch.set_num_threads(threads)
