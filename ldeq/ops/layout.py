"""What the tensors of a solve's state hold, column by column; the names are the same in every language.

`csrc/layout.h` (C++ and CUDA) and `kernels/layout.py` (Triton) repeat them, and a test compares all three.
"""

from __future__ import annotations

import enum

# Columns of `measurements` `(B, MEASUREMENTS)`, float64: the lowest residual; ||g|| there; ||g|| of the first evaluation; the
# lowest ||g|| of the history; the residual of the last evaluation; the ||g|| that the history's progress is measured against;
# the ||g|| beyond which the sample has diverged.
RESIDUAL, NORM, FIRST_NORM, LOWEST, LAST, MARK, LIMIT = range(7)
MEASUREMENTS = 7

# Columns of `flags` `(B, FLAGS + m)`, int64: a `Status`; evaluations so far; 1 while the sample goes on; the slot that holds
# the best value, or one of the two places below; 1 if the last step mixed several pairs; evaluations without progress. Then,
# for each slot, 1 if its pair takes part.
STATUS, ITERATIONS, ACTIVE, BEST, MIXED, STALLED = range(6)
FLAGS = 6

# Where the best value is if no slot holds it.
IN_SAVED, IN_START = -1, -2

MAX_HISTORY = 16
"""Pairs that the compiled steps keep at most."""


class Status(enum.IntEnum):
    """How the solve of one sample ended."""

    MAX_ITER = 0
    """The budget was used up; `value` is the best point seen."""
    CONVERGED = 1
    """The residual fell to the tolerance."""
    DIVERGED = 2
    """The residual grew out of all bounds; `value` is the best point seen."""
    NONFINITE = 3
    """f returned NaN or infinity for this sample; `value` is the best finite point seen, else the start."""
