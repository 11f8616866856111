r"""Performance profiles (Dolan and Moré 2002): the share of the problems that a solver ends within tau times the best one's
cost.

Cost is the number of evaluations of f, or the CPU time, until a point x that f was given has ||f(x) - x|| <= tol ||f(x)||. The
harness measures that in every evaluation and ends the run there: the same test, in float64, for all.
"""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import matplotlib
import torch
from contestants import Map, Run
from profile_problems import Problem
from torch import Tensor

matplotlib.use("Agg")
from matplotlib import pyplot as plt

Costs = dict[str, dict[str, float]]
"""By problem, then by solver; infinity where it failed."""


class _Found(Exception):
    pass


class _Spent(Exception):
    pass


class Watched:
    """f, which counts its calls and ends the run at the first good point, or when the budget is spent."""

    def __init__(self, f: Callable[[Tensor], Tensor], tol: float, budget: int) -> None:
        self.f, self.tol, self.budget, self.calls = f, tol, budget, 0

    def __call__(self, x: Tensor) -> Tensor:
        fx = self.f(x)
        self.calls += 1
        wide = fx.double()
        if (wide - x.double()).norm() <= self.tol * wide.norm():
            raise _Found
        if self.calls >= self.budget:
            raise _Spent
        return fx


def solve(run: Run, f: Map, start: Tensor, tol: float, budget: int) -> tuple[float, float]:
    """(evaluations, seconds of CPU time), both infinite where the run failed."""
    watched = Watched(f, tol, budget)
    begin = time.process_time()
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            run(watched, start, 2 * budget)
    except _Found:
        return watched.calls, time.process_time() - begin
    except Exception:  # whatever a solver gives up with
        pass
    return math.inf, math.inf


def costs(
    contestants: Mapping[str, Run], problems: Iterable[Problem], dtype: torch.dtype, budget: int, rounds: int = 1
) -> tuple[Costs, Costs]:
    """Evaluations and seconds, the least of `rounds` runs, on the problems that have the dtype."""
    evaluations: Costs = {}
    seconds: Costs = {}
    for problem in problems:
        if dtype not in problem.tolerances:
            continue
        f, start = problem.build(dtype)
        tol = problem.tolerances[dtype]
        runs = [{name: solve(run, f, start, tol, budget) for name, run in contestants.items()} for _ in range(rounds)]
        evaluations[problem.name] = {name: runs[0][name][0] for name in contestants}
        seconds[problem.name] = {name: min(r[name][1] for r in runs) for name in contestants}
    return evaluations, seconds


def ratios(found: Costs) -> dict[str, list[float]]:
    """Each solver's cost over the best one's, on the problems that somebody solves."""
    solved = [row for row in found.values() if min(row.values()) < math.inf]
    return {name: [row[name] / min(row.values()) for row in solved] for name in next(iter(found.values()))}


def share(ratios: list[float], tau: float) -> float:
    """The profile at tau."""
    return sum(r <= tau for r in ratios) / len(ratios)


def area(ratios: list[float], largest: float = 10.0) -> float:
    """Mean of the profile over log tau from 1 to `largest`: 1 for a solver that is always the best."""
    return sum(1 - math.log(min(r, largest)) / math.log(largest) for r in ratios) / len(ratios)


def finite(costs: Costs) -> dict[str, dict[str, float | None]]:
    """The table for JSON, which has no infinity: None where a solver failed."""
    return {name: {solver: c if c < math.inf else None for solver, c in row.items()} for name, row in costs.items()}


def best(ratios: list[float]) -> float:
    """Share of the problems on which nobody is better."""
    return share(ratios, 1.0)


def solved(ratios: list[float]) -> float:
    return sum(r < math.inf for r in ratios) / len(ratios)


def summary(panels: Mapping[str, Costs], figure: Callable[[list[float]], float]) -> dict[str, dict[str, float]]:
    """By solver and panel, a figure of the ratios: `area`, `best` or `solved`."""
    found = {title: ratios(costs) for title, costs in panels.items()}
    names = list(dict.fromkeys(name for by_solver in found.values() for name in by_solver))
    return {name: {title: figure(by_solver[name]) for title, by_solver in found.items()} for name in names}


def draw(panels: Mapping[str, Costs], path: Path, largest: float = 10.0) -> None:
    columns = math.ceil(len(panels) / 2)
    figure, grid = plt.subplots(2, columns, figsize=(5 * columns, 8), sharey=True, squeeze=False)
    for ax, (title, found) in zip(grid.flat, panels.items(), strict=False):
        for i, (name, values) in enumerate(ratios(found).items()):
            at = sorted({1.0, largest, *(r for r in values if r <= largest)})
            ours = name.startswith("ldeq")
            style = {"linewidth": 2.4 if ours else 1.2, "linestyle": "-" if ours else ("--", ":", "-.")[i % 3]}
            ax.step(at, [share(values, tau) for tau in at], where="post", label=name, color=f"C{i}" if i < 10 else "k", **style)
        ax.set(xscale="log", xlim=(1, largest), ylim=(0, 1.02), title=title, xlabel="cost over the best solver's")
        ax.set_xticks([1, 2, 5, 10], labels=["1", "2", "5", "10"])
        ax.minorticks_off()
        ax.grid(alpha=0.3)
    for row in grid:
        row[0].set_ylabel("share of the problems")
    for ax in grid.flat[len(panels) :]:
        ax.axis("off")
    handles, labels = grid[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="lower center", ncols=5, fontsize=8, frameon=False)
    figure.tight_layout(rect=(0, 0.06, 1, 1))
    figure.savefig(path, dpi=110)
    plt.close(figure)
