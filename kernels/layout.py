"""Columns of the solve state for Triton kernels; the names and numbers of `ldeq/ops/layout.py`."""

import triton.language as tl

# `measurements` `(B, MEASUREMENTS)`, float64.
RESIDUAL = tl.constexpr(0)
NORM = tl.constexpr(1)
FIRST_NORM = tl.constexpr(2)
LOWEST = tl.constexpr(3)
LAST = tl.constexpr(4)
MARK = tl.constexpr(5)
LIMIT = tl.constexpr(6)
MEASUREMENTS = tl.constexpr(7)

# `flags` `(B, FLAGS + m)`, int64.
STATUS = tl.constexpr(0)
ITERATIONS = tl.constexpr(1)
ACTIVE = tl.constexpr(2)
BEST = tl.constexpr(3)
MIXED = tl.constexpr(4)
STALLED = tl.constexpr(5)
FLAGS = tl.constexpr(6)

# Statuses.
CONVERGED = tl.constexpr(1)
DIVERGED = tl.constexpr(2)
NONFINITE = tl.constexpr(3)

# Where the best value is if no slot holds it.
IN_SAVED = tl.constexpr(-1)
IN_START = tl.constexpr(-2)
