"""The deep equilibrium layer: a solve in the forward pass, and its gradient by a second solve."""

from .adjoint import Solver
from .layer import DEQ, GRADIENTS, Cell

__all__ = ["DEQ", "GRADIENTS", "Cell", "Solver"]
