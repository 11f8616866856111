"""Fixed-point solvers, one a file; all take f and a start `(B, ...)` and return a `Solution`."""

from collections.abc import Callable

from .anderson import PUBLISHED, anderson
from .broyden import broyden
from .compaction import Injected
from .fixed_point import fixed_point
from .solution import Solution, Status

SOLVERS: dict[str, Callable[..., Solution]] = {"anderson": anderson, "fixed_point": fixed_point, "broyden": broyden}
"""The solvers that a configuration can name."""

__all__ = ["PUBLISHED", "SOLVERS", "Injected", "Solution", "Status", "anderson", "broyden", "fixed_point"]
