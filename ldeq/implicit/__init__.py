"""The deep equilibrium layer: a solve in the forward pass, and its gradient by a second solve."""

from .adjoint import DerivativeError, Solver
from .dropout import VariationalDropout
from .layer import DEQ, GRADIENTS, Cell

__all__ = ["DEQ", "GRADIENTS", "Cell", "DerivativeError", "Solver", "VariationalDropout"]
