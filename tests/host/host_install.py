"""Puts other operators behind ldeq's backend "cpu"."""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import Any

import pytest
import torch

from ldeq.ops import backends


def softargmax_module() -> ModuleType:
    return importlib.import_module("ldeq.ops.softargmax")  # the package's attribute of this name is the function


def install(operators: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Until the test ends, ``torch.ops.ldeq`` and the backend "cpu" are `operators`."""
    monkeypatch.setattr(torch.ops, "ldeq", operators)
    softargmax = softargmax_module()
    entries = {
        "softargmax": softargmax._softargmax_by(""),
        "heatmap_normalise": softargmax._normalise_by(""),
        "heatmap_readout": softargmax._readout_by(""),
    }
    for name in ("anderson_step", "fixed_point_step", "best_so_far"):
        entries[name] = getattr(operators, name)
    for name, function in entries.items():
        monkeypatch.setitem(backends._implementations[name], "cpu", function)
