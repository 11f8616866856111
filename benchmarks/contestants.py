"""Solvers that are compared with ours, each behind one signature: ``run(f, start, budget)`` calls f until f stops it.

f maps `(1, D)` to `(1, D)` and ends the run by an exception once a point is good enough (see `profiles`), so that nobody's own
measure of convergence, or the evaluations that a library spends before it looks, plays a part.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from importlib import import_module

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import anderson as scipy_anderson
from torch import Tensor

from ldeq import solvers

Map = Callable[[Tensor], Tensor]
Run = Callable[[Map, Tensor, int], object]


def contestants(depth: int) -> tuple[dict[str, Run], dict[str, str]]:
    """All that are installed, and why the others are not there.

    Args:
        depth: how many differences of earlier evaluations a method may keep: m - 1 pairs of Anderson mixing as we count them,
            and as many rank-one corrections of Broyden's method.
    """

    def ours(solver: solvers.Solver) -> Run:
        return lambda f, start, budget: solver(f, start, max_iter=budget, tol=0.0)

    found: dict[str, Run] = {
        "ldeq Anderson": ours(solvers.Anderson(m=depth + 1)),
        "ldeq Anderson, type I": ours(solvers.Anderson(m=depth + 1, kind="I")),
        "ldeq Broyden": ours(solvers.Broyden(m=depth)),
        "plain iteration": ours(solvers.FixedPoint()),
        "textbook type II": partial(_textbook, depth),
        "scipy Anderson": partial(_scipy, depth, "armijo"),
        "scipy Anderson, no line search": partial(_scipy, depth, None),
    }
    missing: dict[str, str] = {}
    peers: dict[str, dict[str, Run]] = {
        "aa": {"aa type I": partial(_aa, depth, True), "aa type II": partial(_aa, depth, False)},
        "torchdeq": {
            "torchdeq Anderson": partial(_torchdeq, "anderson", {"m": depth + 1}),
            "torchdeq Broyden": partial(_torchdeq, "broyden", {"LBFGS_thres": depth}),
            "torchdeq Broyden, keeps all": partial(_torchdeq, "broyden", {}),
        },
    }
    for package, runs in peers.items():
        try:
            import_module(package)
        except ImportError as error:
            missing |= {name: str(error) for name in runs}
        else:
            found |= runs
    return found, missing


def _textbook(depth: int, f: Map, start: Tensor, budget: int) -> None:
    """Anderson mixing, type II, as Walker and Ni (2011) write it: least squares of differences, here by LAPACK's SVD, in
    float64 and with no safeguard."""
    x = start
    xs: list[Tensor] = []
    fs: list[Tensor] = []
    for _ in range(budget):
        fx = f(x)
        xs, fs = [*xs, x][-depth - 1 :], [*fs, fx][-depth - 1 :]
        g = torch.cat([b - a for a, b in zip(xs, fs, strict=True)]).double()
        if not g.isfinite().all():
            return
        if len(g) == 1:
            x = fx
            continue
        differences, steps = g.diff(dim=0), torch.cat(fs).double().diff(dim=0)
        gamma = torch.linalg.lstsq(differences.T, g[-1:].T, driver="gelsd").solution
        x = (fx.double() - gamma.T @ steps).to(start.dtype)


def _aa(depth: int, type1: bool, f: Map, start: Tensor, budget: int) -> None:
    """cvxgrp/aa, the acceleration inside SCS, with the settings of its README; it computes in float64."""
    function = _numpy(f, start)
    x = start.double().numpy().ravel().copy()
    settings = {"type1": type1, "regularization": 1e-8 if type1 else 1e-12}
    work = import_module("aa").AndersonAccelerator(len(x), depth, **settings)
    before = x.copy()
    for i in range(budget):
        if i > 0:
            work.apply(x, before)
        before = x.copy()
        x[:] = function(before)
        work.safeguard(x, before)


def _scipy(depth: int, line_search: str | None, f: Map, start: Tensor, budget: int) -> None:
    """`scipy.optimize.anderson` on f(x) - x, told that the Jacobian is near -I; it computes in float64."""
    function = _numpy(f, start)
    options = {"alpha": 1.0, "M": depth, "maxiter": budget, "f_tol": 0.0, "line_search": line_search}
    scipy_anderson(lambda z: function(z) - z, start.double().numpy().ravel(), **options)


def _torchdeq(name: str, options: dict[str, int], f: Map, start: Tensor, budget: int) -> None:
    """torchdeq's, with its own settings but for the history."""
    import_module("torchdeq.solver").get_solver(name)(f, start, max_iter=budget, tol=0.0, stop_mode="rel", **options)


def _numpy(f: Map, start: Tensor) -> Callable[[NDArray[np.float64]], NDArray[np.float64]]:
    return lambda z: f(torch.from_numpy(z).to(start.dtype)[None]).double().numpy().ravel()
