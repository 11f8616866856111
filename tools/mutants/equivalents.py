"""Faults of the sample that change nothing that anyone can see, judged one by one, each with its reason."""

from __future__ import annotations

from typing import NamedTuple


class Equivalent(NamedTuple):
    """A fault, named as `Mutant` names it (file, function, what), and why the program stays the same."""

    file: str
    function: str
    fault: str
    reason: str


EQUIVALENTS: tuple[Equivalent, ...] = ()
