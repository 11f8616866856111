"""The deep equilibrium layer: a solve in the forward pass, and its gradient by a second solve."""

from .adjoint import DerivativeError, Solver
from .dropout import VariationalDropout
from .jacobian import jacobian_loss, spectral_radius
from .layer import DEQ, GRADIENTS, Cell

__all__ = [
    "DEQ",
    "GRADIENTS",
    "Cell",
    "DerivativeError",
    "Solver",
    "VariationalDropout",
    "jacobian_loss",
    "spectral_radius",
]
