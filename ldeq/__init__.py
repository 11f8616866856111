"""Facial landmarks with deep equilibrium models: solver, implicit layer, model, training and inference."""

from . import ops, solvers
from .implicit import DEQ
from .models import LDEQ, LDEQConfig

__version__ = "0.1.0"

__all__ = ["DEQ", "LDEQ", "LDEQConfig", "__version__", "ops", "solvers"]
