"""One step of a fixed-point solve: what it computes, its state, its reference, and the compiled operators behind it."""

from ..layout import MAX_HISTORY, Status
from .registration import register_compiled
from .state import SolveState, StopRule
from .step import AndersonStep, FixedPointStep, Next, Step, best_so_far

register_compiled()

__all__ = [
    "MAX_HISTORY",
    "AndersonStep",
    "FixedPointStep",
    "Next",
    "SolveState",
    "Status",
    "Step",
    "StopRule",
    "best_so_far",
]
