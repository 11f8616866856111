"""What may change when a run goes on from a checkpoint: the settings, field by field."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .settings import TrainSettings, to_mapping

FREE = frozenset(
    {
        "data.cache",
        "data.workers",
        "run.device",
        "run.epochs",
        "run.keep",
        "run.log_every",
        "run.out",
        "run.save_every",
        "run.start",
        "run.validate_every",
    }
)
"""Settings that change no step that a run takes, and how many it takes."""

FIXED = frozenset(
    {
        "data.sequence",
        "model.beta",
        "model.depth",
        "model.eps",
        "model.groups",
        "model.image_size",
        "model.landmarks",
        "model.width",
        "model.width_increment",
        "optim.name",
        "run.batch",
        "run.seed",
    }
)
"""Settings that no run survives: its weights, its optimizer's state or its position would load, and mean something else."""


def changes(before: TrainSettings, now: TrainSettings) -> dict[str, tuple[Any, Any]]:
    """Settings that differ and are not free, by their names ``group.name``: the values before and now."""
    old, new = _flat(to_mapping(before)), _flat(to_mapping(now))
    names = [name for name in new if name not in FREE]
    return {name: (old.get(name), new[name]) for name in names if old.get(name) != new[name]}


def describe(found: Mapping[str, tuple[Any, Any]]) -> str:
    """Changes as a part of a sentence: ``optim.lr was 0.002 and is 0.001, ...``."""
    return ", ".join(f"{name} was {before} and is {now}" for name, (before, now) in found.items())


def _flat(document: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in document.items():
        if isinstance(value, Mapping):
            flat.update(_flat(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat
