"""What performance profiles count: evaluations to the first good point, the same for all; and how shares are formed."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch


def test_plain_iteration_costs_what_the_slope_says() -> None:
    """z = z / 2 + 1 from 0: residual 2^-k after k steps, relative to f = 2 - 2^-k."""
    from contestants import contestants
    from profiles import solve

    found, _ = contestants(5)
    start = torch.zeros(1, 3, dtype=torch.float64)
    count, seconds = solve(found["plain iteration"], lambda z: z / 2 + 1, start, 1e-6, 100)
    assert count == next(k + 1 for k in range(100) if 2.0**-k <= 1e-6 * (2 - 2.0**-k))
    assert 0 < seconds < 60
    assert solve(found["plain iteration"], lambda z: z / 2 + 1, start, 1e-6, 10) == (math.inf, math.inf)


def test_every_contestant_solves_an_easy_problem_with_few_evaluations() -> None:
    from contestants import contestants
    from profiles import solve

    slope = torch.linspace(0, 0.5, 20, dtype=torch.float64)
    found, missing = contestants(5)
    assert set(missing) <= {"aa type I", "aa type II", "torchdeq Anderson", "torchdeq Broyden", "torchdeq Broyden, keeps all"}
    for name, run in found.items():
        count, _ = solve(run, lambda z: slope * z + 1, torch.zeros(1, 20, dtype=torch.float64), 1e-4, 100)
        assert count <= 14, name


def test_a_peer_that_is_not_installed_is_left_out_with_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    import contestants

    def without(name: str) -> object:
        raise ModuleNotFoundError(f"No module named {name!r}")

    monkeypatch.setattr(contestants, "import_module", without)
    found, missing = contestants.contestants(5)
    assert missing["aa type I"] == "No module named 'aa'"
    assert not set(found) & set(missing)
    assert {"ldeq Anderson", "scipy Anderson"} <= set(found)


def test_shares_and_areas_of_a_small_table() -> None:
    from profiles import area, best, finite, ratios, share, solved, summary

    costs = {"p": {"a": 10.0, "b": 20.0}, "q": {"a": math.inf, "b": 5.0}, "nobody": {"a": math.inf, "b": math.inf}}
    assert ratios(costs) == {"a": [1.0, math.inf], "b": [2.0, 1.0]}
    assert share([2.0, 1.0], 1.0) == 0.5
    assert share([2.0, 1.0], 2.0) == 1.0
    assert summary({"t": costs}, best) == {"a": {"t": 0.5}, "b": {"t": 0.5}}
    assert summary({"t": costs}, solved) == {"a": {"t": 0.5}, "b": {"t": 1.0}}
    assert summary({"t": costs}, area) == {"a": {"t": 0.5}, "b": {"t": pytest.approx(1 - math.log10(2) / 2)}}
    assert finite(costs)["q"] == {"a": None, "b": 5.0}


def test_problems_are_fixed_point_problems_and_their_names_differ(tmp_path: Path) -> None:
    from profile_problems import problems
    from profiles import costs, draw

    drawn = problems(seeds=1)
    assert len({p.name for p in drawn}) == len(drawn) > 25
    for problem in drawn:
        for dtype in problem.tolerances:
            f, start = problem.build(dtype)
            with torch.no_grad():
                fx = f(start)
            assert fx.shape == start.shape
            assert fx.dtype == start.dtype == dtype
            assert len(start) == 1
    from contestants import contestants

    found, _ = contestants(5)
    few = {"ldeq Anderson": found["ldeq Anderson"], "plain iteration": found["plain iteration"]}
    table, seconds = costs(few, drawn[:1], torch.float64, 100)
    draw({"evaluations": table, "time": seconds}, tmp_path / "profiles.png")
    assert (tmp_path / "profiles.png").stat().st_size > 1000
