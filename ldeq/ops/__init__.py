"""Operators: one file each, with its formula, its plain-PyTorch reference and its public function."""

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
