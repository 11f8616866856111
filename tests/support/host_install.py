"""Puts other operators behind ldeq's backend "cpu"."""

from __future__ import annotations

import pytest
import torch

from ldeq.ops import dispatch
from ldeq.ops.softargmax.registration import implementations

SOLVE_OPERATORS = ("anderson_step", "fixed_point_step", "best_so_far")


def install(namespace: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Until the test ends, the backend "cpu" runs the operators `torch.ops.<namespace>`."""
    operators = getattr(torch.ops, namespace)
    entries = implementations(namespace) | {name: getattr(operators, name) for name in SOLVE_OPERATORS}
    for name, function in entries.items():
        monkeypatch.setitem(dispatch._implementations[name], "cpu", function)
