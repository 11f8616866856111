r"""Whether landmarks are those of a face: a score from what the model knows of its own answer, at no cost.

$$\mathrm{score} = \sigma(-22.8 - 4.12 \ln r - 5.62 \ln s)$$

r is the residual ||f(z) - z|| / ||f(z)|| of a full solve: a cell that sees no face does not settle. s is the mean deviation of
the heatmaps over the longer side of the landmarks' extent: a cell that is not sure spreads them. The numbers are a logistic
regression on the shipped model, faces against everything else with equal weight: 308 faces of HELEN test, WFLW test (hard
ones) and clips, in boxes off by 6 % and 10 %, against 353 boxes of background, noise, grey, texture and faces turned by a
quarter or a half. Fitted on one half of the boxes it separates the other half with an AUC of 0.990 and 0.995; the halves share
the seven clips and some group photos. The numbers above are fitted on all of them. `tools/face_scores.py` measures the score on
newly drawn boxes of these photos; `docs/results/face-score` has its table.

What it is not: the error of the points, a probability where faces are rare, or an identity. Of hard faces one in eight scores
below 0.5. Another model orders its answers in the same way, but its 0.5 may lie elsewhere:
look at a few of its scores before taking a limit.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

BIAS, RESIDUAL, SPREAD = -22.8, -4.12, -5.62

# Logarithms of less say nothing more: float32 heatmaps do not settle further.
SMALLEST = 1e-6


def face_score(residual: float, points: NDArray[np.float32], std: NDArray[np.float32]) -> float:
    """The score of a face, 0 (no face) to 1.

    Args:
        residual: ||f(z) - z|| / ||f(z)|| of the last full solve. That of a solve that starts from another frame's state
            measures motion instead.
        points: `(K, 2)` pixels.
        std: `(K,)`, the model's deviations in the same pixels.
    """
    extent = float(np.ptp(points, axis=0).max())
    spread = float(std.mean()) / max(extent, SMALLEST)
    if not (math.isfinite(residual) and math.isfinite(spread)):
        return 0.0
    x = BIAS + RESIDUAL * math.log(max(residual, SMALLEST)) + SPREAD * math.log(max(spread, SMALLEST))
    return 1 / (1 + math.exp(-min(max(x, -60.0), 60.0)))
