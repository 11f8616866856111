"""Loads the native library `_C` (built from csrc/ by setup.py), once, and knows why not where it cannot."""

from __future__ import annotations

import json
from pathlib import Path

import torch

_PACKAGE = Path(__file__).resolve().parent.parent


def _load() -> str | None:
    """None if the library's operators are there, else the reason why not, in one line."""
    library = _PACKAGE / "_C.so"
    if not library.exists():
        return build_report().get("cpu", "the native library was not built; reinstall with pip install --no-build-isolation")
    try:
        torch.ops.load_library(str(library))
    except OSError as error:
        built = build_report().get("torch", "an unknown torch")
        return (
            f"the native library failed to load in torch {torch.__version__} (built with {built}): {str(error).splitlines()[0]}"
        )
    return None


def build_report() -> dict[str, str]:
    """What setup.py wrote down about the build: compiler, torch, hash of the sources, or the reason why there is none."""
    try:
        report = json.loads((_PACKAGE / "_build.json").read_text())
    except (OSError, ValueError):
        return {}
    return {str(k): str(v) for k, v in report.items()} if isinstance(report, dict) else {}


MISSING: str | None = _load()
"""Why the native operators are missing; None where they are there."""
