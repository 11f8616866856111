"""Operators: their formulas, their public functions, and the backends that run them."""

from .backends import BackendError, available_backends, current_backend, explain, use_backend
from .softargmax import Readout, SoftArgmax, heatmap_normalise, heatmap_readout, softargmax

__all__ = [
    "BackendError",
    "Readout",
    "SoftArgmax",
    "available_backends",
    "current_backend",
    "explain",
    "heatmap_normalise",
    "heatmap_readout",
    "softargmax",
    "use_backend",
]
