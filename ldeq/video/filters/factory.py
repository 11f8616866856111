"""Filters by name, with typed settings."""

from __future__ import annotations

import dataclasses
import difflib
from typing import Any

from pydantic import TypeAdapter, ValidationError

from ...data import Layout
from .base import Filter
from .classic import (
    EMA,
    CausalSavitzkyGolay,
    EMASettings,
    Gaussian,
    GaussianSettings,
    OneEuro,
    OneEuroSettings,
    SavitzkyGolay,
    SavitzkyGolaySettings,
)
from .face_frame import FaceFrame, FaceFrameSettings

FILTERS: dict[str, tuple[type[Filter], type]] = {
    "ema": (EMA, EMASettings),
    "one-euro": (OneEuro, OneEuroSettings),
    "savgol-causal": (CausalSavitzkyGolay, SavitzkyGolaySettings),
    "savgol": (SavitzkyGolay, SavitzkyGolaySettings),
    "gaussian": (Gaussian, GaussianSettings),
    "face-frame": (FaceFrame, FaceFrameSettings),
}
"""Name to the filter and its settings."""


def make_filter(name: str, layout: Layout, **settings: Any) -> Filter:
    """A filter for one face.

    ```python
    smooth = make_filter("one-euro", get_layout(68), min_cutoff=5.0)
    smooth.step(points, std, dt=1 / 25)
    ```

    Args:
        name: one of `FILTERS`.
        layout: of the landmarks that it will see.
        settings: fields of the filter's settings, such as `OneEuroSettings`; what is not given keeps its default.

    Raises:
        ValueError: for an unknown name or setting, naming the nearest one, or a value out of range.
    """
    if name not in FILTERS:
        raise ValueError(f"unknown filter {name!r}; did you mean {nearest(name, list(FILTERS))!r}? Known: {', '.join(FILTERS)}")
    kind, settings_type = FILTERS[name]
    known = [f.name for f in dataclasses.fields(settings_type)]
    for key in settings:
        if key not in known:
            raise ValueError(f"unknown setting {key!r} of the {name} filter; did you mean {nearest(key, known)!r}?")
    try:
        typed: Any = TypeAdapter(settings_type).validate_python(settings)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        message = first["msg"].removeprefix("Value error, ")
        raise ValueError(f"{name} filter: {where}: {message}" if where else f"{name} filter: {message}") from error
    return kind(typed, layout) if kind is FaceFrame else kind(typed)  # type: ignore[call-arg]


def nearest(word: str, known: list[str]) -> str:
    return difflib.get_close_matches(word, known, n=1, cutoff=0.0)[0]
