"""Facial landmarks with deep equilibrium models: solver, implicit layer, model, training and inference.

Importing the solvers, the implicit layer or the model loads torch and no OpenCV, pydantic or YAML: what needs them is imported
when it is first used.
"""

from __future__ import annotations

import importlib
import os
import sys
from typing import TYPE_CHECKING, Any

from ._version import __version__
from .errors import LdeqError
from .startup import is_program
from .waiting import apply_waiting

# torch reads this when it is loaded.
apply_waiting(sys.orig_argv, sys.argv, os.environ)

# A library defines its operators when it is imported. The program answers `--help` first: its commands load torch.
if TYPE_CHECKING or not is_program(sys.argv, sys.orig_argv):
    from . import ops, solvers
    from .implicit import DEQ
    from .models import LDEQ, LDEQConfig
    from .ops.library import show_config

if TYPE_CHECKING:
    from .face import Face
    from .landmarker import Landmarker

__all__ = ["DEQ", "LDEQ", "Face", "LDEQConfig", "Landmarker", "LdeqError", "__version__", "ops", "show_config", "solvers"]

_LATER = {
    "DEQ": "implicit",
    "LDEQ": "models",
    "LDEQConfig": "models",
    "Face": "face",
    "Landmarker": "landmarker",
    "show_config": "ops.library",
}
"""Name -> the module that defines it."""

_MODULES = ("cli", "data", "detection", "engine", "face", "landmarker", "metrics", "ops", "solvers", "video")


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f".{name}", __name__)
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f".{_LATER[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_LATER, *_MODULES})
