"""What may change when a run goes on from a checkpoint: the settings, field by field."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .checkpoint import CheckpointError
from .console import Console
from .documents import TrainingDocument
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


def check_changes(
    document: TrainingDocument,
    before: TrainSettings,
    now: TrainSettings,
    world: int,
    steps_per_epoch: int,
    allowed: bool,
    console: Console,
) -> None:
    """Refuses settings that changed: those that no run survives, and unless they are allowed all that change its course.

    Args:
        document: of the checkpoint.
        before: its settings.
        now: those of the run.
        world: processes of the run.
        steps_per_epoch: of the run.
        allowed: whether settings that change the course of a run may have changed.
        console: is told what did.

    Raises:
        CheckpointError: which ones changed, and what to do.
    """
    found = changes(before, now)
    fixed = {name: change for name, change in found.items() if name in FIXED}
    for name, then, today in (
        ("number of processes", document.world, world),
        ("number of steps an epoch", document.position.steps_per_epoch, steps_per_epoch),
    ):
        if then != today:
            fixed[name] = (then, today)
    for name, (then, today) in fixed.items():
        raise CheckpointError(
            f"the checkpoint was made with another {name} ({then}, now {today}); put it back, or start anew in another "
            "run.out, where run.start takes weights along"
        )
    if found and not allowed:
        raise CheckpointError(
            f"the settings have changed since the checkpoint: {describe(found)}; put them back, or go on under the new "
            "ones with --allow-changes"
        )
    if found:
        console.warn(f"going on under changed settings: {describe(found)}")
    if before.run.epochs != now.run.epochs and now.optim.schedule == "onecycle":
        console.say(
            f"run.epochs was {before.run.epochs} and is {now.run.epochs}: the learning rate follows the cycle of the new "
            "length from here on"
        )


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
