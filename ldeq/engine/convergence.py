"""A word about solves that do not get near a fixed point."""

from __future__ import annotations

# A trained model's residual lies at some hundredths, that of random weights at 0.3. What stays above a tenth is on no way to a
# fixed point.
_FAR_RELATIVE = 0.1
# Residuals without a scale of their own are measured by the tolerance; for the usual relative one, 1e-4, this is the same.
_FAR_IN_TOLERANCES = 1000.0
_SHORTEST, _LONGEST = 50, 200


class ConvergenceWatch:
    """Notes that no sample converges and the residual stays large, step after step, and says so once.

    A spent budget by itself is no fault: a few evaluations far from the tolerance are what the published model trains with.

    Args:
        tol: of the forward solve.
        relative: whether the solve's residual is relative.
        total_steps: of the run; it speaks after half of it, and within 50 to 200 steps.
    """

    def __init__(self, tol: float, relative: bool, total_steps: int) -> None:
        self.far = _FAR_RELATIVE if relative else _FAR_IN_TOLERANCES * tol
        self.patience = min(max(total_steps // 2, _SHORTEST), _LONGEST)
        self.steps = 0
        self.residuals = 0.0
        self.told = False

    def update(self, unconverged: float, residual: float) -> str | None:
        """Takes in a step.

        Args:
            unconverged: share of the samples whose solve did not converge.
            residual: their mean residual.

        Returns:
            a sentence, the first time that there is reason for it.
        """
        if self.told:
            return None
        # A residual that is not a number is far, too.
        if unconverged < 1 or residual <= self.far:
            self.steps, self.residuals = 0, 0.0
            return None
        self.steps += 1
        self.residuals += residual
        if self.steps < self.patience:
            return None
        self.told = True
        return (
            f"no solve converged in the last {self.steps} steps (100 % of the samples spent their evaluations, mean residual "
            f"{self.residuals / self.steps:.2g}): the gradient is not that of a fixed point. If the cell has dropout, draw one "
            "mask for a whole solve, outside the cell; if its map expands, scale its weights down or lower optim.lr; else "
            "raise model.max_iter"
        )
