"""How results show themselves when they are printed: arrays by type and shape, not by their numbers."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

MOST = 8
"""Numbers, or entries of a list, that are still shown."""

_LONGEST = 60


def brief(value: object) -> str:
    """A value inside a repr: more than `MOST` numbers or entries are told by their type and shape."""
    shape, dtype = getattr(value, "shape", None), getattr(value, "dtype", None)
    if shape is not None and dtype is not None:
        is_short = len(shape) < 2 and math.prod(shape) <= MOST
        return repr(value) if is_short else f"{str(dtype).removeprefix('torch.')} {tuple(shape)}"
    if isinstance(value, Mapping) or (isinstance(value, tuple | list) and not _is_short(value)):
        return f"{type(value).__name__} of {len(value)}"
    if type(value) is tuple:
        return f"({', '.join(map(brief, value))}{',' * (len(value) == 1)})"
    if hasattr(value, "named_parameters"):  # a module would print a line for each of its layers
        return type(value).__name__
    if isinstance(value, str) and len(value) > _LONGEST:
        return repr(f"{value[: _LONGEST - 3]}...")
    return f"{value:.6g}" if isinstance(value, float) else repr(value)


def brief_repr(self: Any, told: Mapping[str, str] | None = None) -> str:
    """The repr of a dataclass or a named tuple, without entries that are None.

    Args:
        self: the object; a class takes the function as its ``__repr__``.
        told: what is said of some entries instead of their values.
    """
    names = [f.name for f in dataclasses.fields(self) if f.repr] if dataclasses.is_dataclass(self) else self._fields
    known = {name: getattr(self, name) for name in names}
    shown = {name: brief(value) for name, value in known.items() if value is not None} | dict(told or {})
    return f"{type(self).__name__}({', '.join(f'{name}={text}' for name, text in shown.items())})"


def _is_short(entries: Sequence[object]) -> bool:
    return len(entries) <= MOST and not any(hasattr(entry, "shape") or dataclasses.is_dataclass(entry) for entry in entries)
