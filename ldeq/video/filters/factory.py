"""Filters by name, with typed settings."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from pydantic import TypeAdapter, ValidationError

from ...data import Layout
from ...errors import ArgumentError
from ...spelling import did_you_mean
from .base import Filter
from .classic import (
    EMA,
    CausalSavitzkyGolay,
    EMASettings,
    Gaussian,
    GaussianSettings,
    MediaPipeOneEuro,
    MediaPipeSettings,
    OneEuro,
    OneEuroSettings,
    SavitzkyGolay,
    SavitzkyGolaySettings,
)
from .face_frame import FaceFrame, FaceFrameSettings
from .parts import PartsFilter

FILTERS: dict[str, tuple[type[Filter], type]] = {
    "ema": (EMA, EMASettings),
    "one-euro": (OneEuro, OneEuroSettings),
    "mediapipe": (MediaPipeOneEuro, MediaPipeSettings),
    "savgol-causal": (CausalSavitzkyGolay, SavitzkyGolaySettings),
    "savgol": (SavitzkyGolay, SavitzkyGolaySettings),
    "gaussian": (Gaussian, GaussianSettings),
    "face-frame": (FaceFrame, FaceFrameSettings),
}
"""Name to the filter and its settings."""


def make_filter(name: str, layout: Layout, *, parts: Mapping[str, Mapping[str, Any]] | None = None, **settings: Any) -> Filter:
    """A filter for one face.

    ```python
    smooth = make_filter("one-euro", get_layout(68), min_cutoff=5.0)
    smooth.step(points, std, dt=1 / 25)
    ```

    Args:
        name: one of `FILTERS`.
        layout: of the landmarks that it will see.
        parts: settings of their own for some parts of the face (`Layout.indices`), as in ``{"mouth": {"beta": 60.0}}``; what a
            part does not set is as for the rest.
        settings: fields of the filter's settings, such as `OneEuroSettings`; what is not given keeps its default.

    Raises:
        ValueError: for an unknown name or setting, naming the nearest one, or a value out of range.
    """
    if name not in FILTERS:
        raise ArgumentError(f"unknown filter {name!r}{did_you_mean(name, FILTERS)}; choose one of {', '.join(FILTERS)}")
    kind, settings_type = FILTERS[name]
    known = [f.name for f in dataclasses.fields(settings_type)]
    for key in settings:
        if key not in known:
            hint = did_you_mean(key, known)
            raise ArgumentError(f"unknown setting {key!r} of the {name} filter{hint}; it has {', '.join(known)}")
    try:
        typed: Any = TypeAdapter(settings_type).validate_python(settings)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        message = first["msg"].removeprefix("Value error, ")
        raise ArgumentError(f"{name} filter: {where}: {message}" if where else f"{name} filter: {message}") from error
    rest: Filter = kind(typed, layout) if kind is FaceFrame else kind(typed)  # type: ignore[call-arg]
    if not parts:
        return rest
    own = {layout.indices(part): make_filter(name, layout, **{**settings, **changed}) for part, changed in parts.items()}
    return PartsFilter(rest, own)


def filter_from_text(text: str, layout: Layout) -> Filter:
    """A filter as a command line names it: ``one-euro``, ``one-euro,beta=20``, ``one-euro,min_cutoff=2,mouth.beta=60``.

    Args:
        text: the name, then settings with commas between them; one for a part of the face begins with its name and a dot.
        layout: of the landmarks.

    Raises:
        ValueError: for what `make_filter` refuses, and for a setting that is not NAME=NUMBER.
    """
    name, *rest = text.split(",")
    settings: dict[str, float] = {}
    parts: dict[str, dict[str, float]] = {}
    for item in rest:
        key, _, value = item.partition("=")
        try:
            number = float(value)
        except ValueError:
            raise ArgumentError(f"a filter's setting must be NAME=NUMBER, got {item[:40]!r} in {text[:80]!r}") from None
        part, _, own = key.rpartition(".")
        (parts.setdefault(part, {}) if part else settings)[own] = int(number) if number.is_integer() else number
    return make_filter(name, layout, parts=parts, **settings)
