"""Defaults, presets and thresholds are those with which the published tables were made.

A change of one of them changes results for everybody who did not set it. So it is made on purpose: ``LDEQ_RECORD=1`` writes
tests/engine/tuned_numbers.json anew, and the changelog says what changed.
"""

from __future__ import annotations

import dataclasses
import enum
import importlib
import inspect
import json
import os
import pkgutil
from fractions import Fraction
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import ldeq.data
import ldeq.engine
import ldeq.video
from ldeq.data.augment import Augmentation

RECORD = Path(__file__).parent / "tuned_numbers.json"

# How drawn faces and lines look has no published figure.
COSMETIC = ("ldeq.data.synthetic", "ldeq.data.draw", "ldeq.video.drawing", "ldeq.video.converging")


def plain(value: Any) -> Any:
    """A value as JSON holds it; None for what is neither a number nor text nor made of these."""
    if isinstance(value, enum.Enum):
        return value.name
    if isinstance(value, bool | int | str):
        return value
    if isinstance(value, float | Fraction):
        return str(float(value))
    if isinstance(value, tuple | list):
        parts = [plain(v) for v in value]
        return parts if all(p is not None for p in parts) else None
    if isinstance(value, dict):
        found = {str(k): plain(v) for k, v in value.items()}
        return found if all(v is not None for v in found.values()) else None
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: p for f in dataclasses.fields(value) if (p := plain(getattr(value, f.name))) is not None}
    return None


def defaults(function: Any) -> dict[str, Any]:
    try:
        parameters = inspect.signature(function).parameters.values()
    except (ValueError, TypeError):
        return {}
    empty = inspect.Parameter.empty
    return {p.name: v for p in parameters if p.default is not empty and (v := plain(p.default)) is not None}


def numbers_of(module: ModuleType) -> dict[str, Any]:
    """Constants of a module, and the defaults of its public functions, methods and data classes."""
    found: dict[str, Any] = {}
    for name, value in sorted(vars(module).items()):
        named = name.strip("_").isupper() and not dataclasses.is_dataclass(value)
        if named and (constant := plain(value)) is not None and len(str(constant)) < 400:
            found[name] = constant
        if name.startswith("_") or getattr(value, "__module__", "") != module.__name__:
            continue
        if inspect.isfunction(value) and (given := defaults(value)):
            found[name] = given
        if inspect.isclass(value):
            if given := defaults(value):
                found[name] = given
            for method, function in sorted(vars(value).items()):
                if inspect.isfunction(function) and not method.startswith("_") and (given := defaults(function)):
                    found[f"{name}.{method}"] = given
    return found


def everything() -> dict[str, Any]:
    found: dict[str, Any] = {}
    for package in (ldeq.data, ldeq.engine, ldeq.video):
        for info in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if not info.name.startswith(COSMETIC) and (numbers := numbers_of(importlib.import_module(info.name))):
                found[info.name] = numbers
    found["augmentation"] = {n: plain(Augmentation.preset(n)) for n in ("none", "light", "paper", "strong")}
    found["model"] = {name: plain(make()) for name, make in ldeq.engine.settings.PRESETS.items()}
    found["filters"] = {name: plain(settings()) for name, (_, settings) in ldeq.video.filters.FILTERS.items()}
    return json.loads(json.dumps(found))  # type: ignore[no-any-return]


NOW = everything()
if os.environ.get("LDEQ_RECORD"):
    lines = [f"{json.dumps(name)}: {json.dumps(NOW[name], sort_keys=True)}" for name in sorted(NOW)]
    RECORD.write_text("{\n" + ",\n".join(lines) + "\n}\n")
THEN: dict[str, Any] = json.loads(RECORD.read_text())


@pytest.mark.parametrize("module", sorted(NOW.keys() | THEN.keys()))
def test_numbers_are_those_of_the_published_tables(module: str) -> None:
    assert NOW.get(module) == THEN.get(module), f"is this meant? Then record it with LDEQ_RECORD=1: {module}"
