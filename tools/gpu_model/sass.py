"""Reads SASS, the machine code of NVIDIA's GPUs as `cuobjdump -sass` prints it, with the scheduling bits of each instruction.

From Volta on an instruction has 128 bits. Bits 105 to 121 tell the scheduler how many cycles to wait before the warp's next
instruction, which of six scoreboards the instruction raises until its result is there or its operands are read, and which of
them it waits for (Jia et al., "Dissecting the NVIDIA Volta GPU Architecture via Microbenchmarking", 2018, section 2).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property

SCOREBOARDS = 6
_NONE = 7

_FUNCTION = re.compile(r"\s+Function : (\S+)")
_LINE = re.compile(r"\s+/\*([0-9a-f]{4,})\*/\s+(.*?)\s*;\s+/\* 0x([0-9a-f]{16}) \*/")
_REST = re.compile(r"\s+/\* 0x([0-9a-f]{16}) \*/")
_PREDICATED = re.compile(r"@(!?)(U?P[0-9T])\s+")
_WIDTHS = (("128", 16), ("64", 8), ("U16", 2), ("S16", 2), ("U8", 1), ("S8", 1))


@dataclass(frozen=True)
class Instruction:
    address: int
    text: str
    """Without its predicate, like ``"LDG.E.128 R8, desc[UR10][R4.64]"``."""
    predicate: str = ""
    """``P0`` or ``!P0``; empty if it always runs."""
    stall: int = 1
    """Cycles until the warp's next instruction may be issued."""
    raises: int | None = None
    """The scoreboard that is up until the result is there."""
    holds: int | None = None
    """The scoreboard that is up until the operands have been read."""
    waits: frozenset[int] = frozenset()
    """The scoreboards that must be down first."""

    @cached_property
    def opcode(self) -> str:
        return self.text.split(maxsplit=1)[0]

    @cached_property
    def name(self) -> str:
        """The opcode without its modifiers."""
        return self.opcode.partition(".")[0]

    @cached_property
    def operands(self) -> tuple[str, ...]:
        """Operands in order, results first, without ``.reuse``."""
        rest = self.text.partition(" ")[2].replace(".reuse", "")
        return tuple(part.strip() for part in rest.split(",")) if rest else ()

    @cached_property
    def width(self) -> int:
        """Bytes that a thread reads or writes in memory."""
        parts = self.opcode.split(".")
        return next((size for name, size in _WIDTHS if name in parts), 4)

    @property
    def reads_memory(self) -> bool:
        """Whether it reads global memory."""
        return self.name == "LDG"

    @property
    def writes_memory(self) -> bool:
        """Whether it writes global memory."""
        return self.name in ("STG", "ST")

    @cached_property
    def target(self) -> int | None:
        """Where a branch goes."""
        found = re.search(r"0x([0-9a-f]+)$", self.text) if self.name in ("BRA", "CALL", "BSSY") else None
        return int(found[1], 16) if found else None


def functions(text: str) -> dict[str, list[Instruction]]:
    """The instructions of every kernel in a listing, by its mangled name."""
    found: dict[str, list[Instruction]] = {}
    current: list[Instruction] | None = None
    lines = iter(text.splitlines())
    for line in lines:
        if m := _FUNCTION.match(line):
            current = found[m[1]] = []
        elif current is not None and (m := _LINE.match(line)):
            rest = _REST.match(next(lines, ""))
            current.append(instruction(int(m[1], 16), m[2], int(rest[1], 16) if rest else 0))
    return found


def instruction(address: int, text: str, high: int) -> Instruction:
    """One instruction from its text and the upper half of its bits."""
    predicate = ""
    if m := _PREDICATED.match(text):
        predicate, text = m[1] + m[2], text[m.end() :]
    bits = high >> 41
    raised, held = bits >> 5 & 7, bits >> 8 & 7
    return Instruction(
        address,
        text,
        predicate,
        stall=bits & 15,
        raises=None if raised == _NONE else raised,
        holds=None if held == _NONE else held,
        waits=frozenset(i for i in range(SCOREBOARDS) if bits >> 11 + i & 1),
    )
