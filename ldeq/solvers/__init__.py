"""Fixed-point solvers: `Anderson`, `FixedPoint` and `Broyden`, one a file, all run by the loop in `loop`.

Each is a value that holds its options and is called with f and a start `(B, ...)`; it returns a `Solution`. The functions
`anderson`, `fixed_point` and `broyden` do both at once.
"""

from collections.abc import Callable

from .anderson import PUBLISHED, Anderson, anderson
from .broyden import Broyden, broyden
from .compaction import Injected
from .fixed_point import FixedPoint, fixed_point
from .solution import Solution, Status
from .solver import Solver, as_solver

SOLVERS: dict[str, Callable[..., Solution]] = {"anderson": anderson, "fixed_point": fixed_point, "broyden": broyden}
"""The solvers that a configuration can name."""

__all__ = [
    "PUBLISHED",
    "SOLVERS",
    "Anderson",
    "Broyden",
    "FixedPoint",
    "Injected",
    "Solution",
    "Solver",
    "Status",
    "anderson",
    "as_solver",
    "broyden",
    "fixed_point",
]
