"""Heatmap normalisation and soft-argmax: formula and public functions, reference, and the compiled operators behind them."""

from .definition import COORDS, Readout, SoftArgmax, heatmap_normalise, heatmap_readout, softargmax
from .reference import heatmap_normalise_reference, heatmap_readout_reference, softargmax_reference
from .registration import register_compiled

register_compiled()

__all__ = [
    "COORDS",
    "Readout",
    "SoftArgmax",
    "heatmap_normalise",
    "heatmap_normalise_reference",
    "heatmap_readout",
    "heatmap_readout_reference",
    "softargmax",
    "softargmax_reference",
]
