"""Arithmetic on what registers hold in the lanes of a warp that are followed."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence

LANES = 2
MASK = 0xFFFFFFFF

Word = tuple[int, ...]
"""The 32 bits of a register, by lane."""
Truth = tuple[bool, ...]


def signed(value: int) -> int:
    return (value & MASK) - ((value & 0x80000000) << 1)


def float_of(bits: int) -> float:
    return float(struct.unpack("<f", struct.pack("<I", bits & MASK))[0])


def bits_of(value: float) -> int:
    return int(struct.unpack("<I", struct.pack("<f", value))[0])


def each_lane(function: Callable[[int, int], int], a: Word | None, b: Word | None) -> Word | None:
    return None if a is None or b is None else tuple(function(x, y) for x, y in zip(a, b, strict=True))


def depends_on(table: int, place: int) -> bool:
    """Whether the result of a table of truth depends on this operand."""
    bit = 4 >> place
    return any((table >> row & 1) != (table >> (row ^ bit) & 1) for row in range(8))


def joined(either: bool, outcome: Truth, other: Truth | None) -> Truth | None:
    if other is None:
        decided = all(outcome) if either else not any(outcome)
        return outcome if decided else None
    return tuple((a or b) if either else (a and b) for a, b in zip(outcome, other, strict=True))


def compared(how: str, a: Sequence[float], b: Sequence[float], below: Truth | None) -> Truth:
    """a against b; `below` is what the lower words said, which decides where the upper ones are equal."""
    out = []
    for lane in range(LANES):
        x, y = a[lane], b[lane]
        lower = below[lane] if below is not None else how in ("EQ", "LE", "GE")
        if how == "NE":
            out.append(x != y or (lower and below is not None))
        elif how == "EQ":
            out.append(x == y and lower)
        elif how in ("LT", "LE"):
            out.append(x < y or (x == y and lower))
        else:
            out.append(x > y or (x == y and lower))
    return tuple(out)
