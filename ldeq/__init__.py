"""Facial landmarks with deep equilibrium models: solver, implicit layer, model, training and inference."""

from . import ops, solvers
from ._version import __version__
from .face import Face
from .implicit import DEQ
from .landmarker import Landmarker
from .models import LDEQ, LDEQConfig
from .ops.library import show_config

__all__ = ["DEQ", "LDEQ", "Face", "LDEQConfig", "Landmarker", "__version__", "ops", "show_config", "solvers"]
