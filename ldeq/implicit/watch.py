"""Telling once that a whole training runs without a fixed point."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd

from ..solvers import Solution, Status, as_solver
from .dropout import VariationalDropout

WINDOW = 100
"""Training calls that are looked at together. The host reads two numbers of the device after so many."""

SLOW = 0.7
"""Contraction per evaluation that is expected at least: small budgets, such as LDEQ's three to five evaluations, need not
reach a tolerance, but their residual falls."""


class ConvergenceWatch:
    """Looks at the solves of a training, and warns once if none of their samples converges.

    LDEQ and others spend small fixed budgets on purpose, so that a status of `MAX_ITER` alone says little. The warning wants a
    residual above both ten times the tolerance and `SLOW` to the power of the budget, for all samples of `WINDOW` calls.
    """

    def __init__(self, solver: Any) -> None:
        """
        Args:
            solver: the forward solver of the layer.
        """
        known = as_solver(solver)
        self.limit: float | None = None
        """Mean residual above which a solve counts as stuck; None if nothing is watched."""
        if known is not None and known.tol > 0:
            slow = SLOW**known.max_iter
            if known.stop == "relative":
                self.limit = max(10 * known.tol, slow)
            elif known.stop == "motion":  # the residual is relative, and the tolerance is not in its units
                self.limit = max(1e-2, slow)
            elif known.max_iter >= 20:  # an absolute residual has no scale to judge a small budget by
                self.limit = 10 * known.tol
        self._calls = 0
        self._stuck: Tensor | None = None

    def __call__(self, solution: Solution, cell: Any) -> None:
        """Takes in the solution of one training call."""
        if self.limit is None or solution.status.numel() == 0:
            return
        failed = (solution.status != Status.CONVERGED).to(torch.float32).mean()
        found = torch.stack((failed, solution.residual.detach().to(torch.float32).mean()))
        self._stuck = found if self._stuck is None or self._stuck.device != found.device else self._stuck + found
        self._calls += 1
        if self._calls < WINDOW:
            return
        share, residual = (self._stuck / self._calls).tolist()
        self._calls, self._stuck = 0, None
        if share > 0.99 and not residual <= self.limit:
            self.limit = None  # once
            _warn(share, residual, cell)


def _warn(share: float, residual: float, cell: Any) -> None:
    modules = cell.named_modules() if isinstance(cell, nn.Module) else ()
    random = [
        f"cell.{name}" if name else "cell"
        for name, module in modules
        if isinstance(module, _DropoutNd) and not isinstance(module, VariationalDropout) and module.training and module.p > 0
    ]
    if random:
        remedy = f"{random[0]} draws a new mask at every evaluation: use ldeq.implicit.VariationalDropout in its place"
    else:
        remedy = (
            "the cell may not contract: try Anderson with a larger max_iter, a smaller learning rate, "
            "ldeq.implicit.jacobian_loss as a regulariser, or weight or spectral norm on its layers"
        )
    warnings.warn(
        f"DEQ: {share:.0%} of the samples of the last {WINDOW} training calls did not converge, with a mean residual of "
        f"{residual:.2g}: the gradient is not that of a fixed point; {remedy}",
        RuntimeWarning,
        stacklevel=7,
    )
