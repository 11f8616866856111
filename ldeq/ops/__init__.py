"""Operators: `softargmax` and `solve_step`, each a folder with its formula, its reference in plain PyTorch and its backends."""

from .dispatch import BackendError, available_backends, current_backend, explain, use_backend
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
