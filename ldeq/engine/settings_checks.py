"""Ranges of the settings' numbers, and the setting that was probably meant."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from ..errors import LdeqError
from ..spelling import nearest


class SettingsError(LdeqError, ValueError):
    """A configuration cannot be used; the message names the key and what is expected."""


# Smallest and largest value of each number: largest ones far above any use, so that a mistyped number takes neither all
# memory nor for ever.
RANGES: dict[str, tuple[float, float]] = {
    "model.landmarks": (1, 10_000),
    "model.image_size": (4, 8_192),
    "model.width": (4, 16_384),
    "model.width_increment": (0, 16_384),
    "model.depth": (0, 10),
    "model.groups": (1, 16_384),
    "model.max_iter": (1, 10**6),
    "model.backward_max_iter": (1, 10**6),
    "model.phantom_steps": (1, 10_000),
    "model.m": (1, 10_000),
    "model.check_every": (0, 10**6),
    "data.crop_scale": (0.1, 100),
    "data.workers": (0, 1_024),
    "data.sequence": (0, 10_000),
    "optim.lr": (0, 1e6),
    "optim.weight_decay": (0, 1e6),
    "optim.warmup": (0, 1),
    "optim.gamma": (0, 1e6),
    "optim.clip": (0, 1e12),
    "optim.ema": (0, 1),
    "optim.sigma": (0, 1e6),
    "optim.margin": (0, 1e6),
    "optim.openings": (0, 1e12),
    "optim.flicker": (0, 1e12),
    "run.epochs": (1, 10**7),
    "run.batch": (1, 10**6),
    # The order of an epoch is drawn from a million times the seed.
    "run.seed": (0, 2**40),
    "run.validate_every": (1, 10**7),
    "run.save_every": (1, 10**7),
    "run.keep": (1, 10**7),
    "run.log_every": (1, 10**9),
}

# Of these the bound itself is excluded.
_ABOVE = ("optim.lr", "optim.gamma", "optim.sigma")
_BELOW = ("optim.ema",)


def check_ranges(document: Mapping[str, Any], prefix: str = "") -> None:
    """Refuses numbers that are not finite or out of their range, before anything is computed from them.

    Args:
        document: settings by name, groups inside; what is no number is left to the check of types.
        prefix: of the names, with its dot.

    Raises:
        SettingsError: for the first such number.
    """
    for key, value in document.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            check_ranges(value, f"{name}.")
            continue
        for item in value if isinstance(value, list | tuple) else (value,):
            # Text may stand for a number where a number is wanted, and is a name elsewhere.
            number = _number(item) if name in RANGES or not isinstance(item, str) else None
            if number is not None:
                _check_range(name, number)


def _check_range(name: str, value: float) -> None:
    if isinstance(value, float) and not math.isfinite(value):
        raise SettingsError(f"{name} must be a finite number, got {value}")
    low, high = RANGES.get(name, (-math.inf, math.inf))
    if name in _BELOW and not low <= value < high:
        raise SettingsError(f"{name} must lie in [{low}, {high}), got {shortened(value)}")
    if value < low or (name in _ABOVE and value == low):
        raise SettingsError(f"{name} must be {'>' if name in _ABOVE else '>='} {low:g}, got {shortened(value)}")
    if value > high:
        raise SettingsError(f"{name} must be <= {high:,}, got {shortened(value)}")


def _number(value: object) -> float | None:
    """The number that a value is or, as text, stands for; None if it is none."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return None
    return value


def near_setting(key: str, names: Iterable[str]) -> str | None:
    """The name that was probably meant: one that is spelled alike, or the initials of the key, as lr for learning_rate."""
    names = list(names)
    initials = "".join(word[:1] for word in key.lower().split("_") if word)
    for name in names:
        if len(initials) > 1 and name == initials:
            return name
        if len(key) > 1 and key == "".join(word[:1] for word in name.split("_")):
            return name
    return nearest(key, names)


def shortened(value: object) -> str:
    """A value as a sentence shows it; a number of many digits by their count."""
    if isinstance(value, int) and not isinstance(value, bool) and value.bit_length() > 200:
        return f"a number of {int(value.bit_length() * 0.30103) + 1} digits"
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
