"""Reads PTX, the text that nvcc and Triton emit: kernels, and in each its parameters, shared memory and statements."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

BYTES = {"pred": 1} | {kind + bits: int(bits) // 8 for kind in ("b", "u", "s", "f") for bits in ("8", "16", "32", "64")}

_PARAMETER = re.compile(
    r"\.param\s+(?:\.align\s+(?P<align>\d+)\s+)?\.(?P<type>\w+)\s+(?:\.ptr\s+(?:\.(?:global|shared)\s+)?(?:\.align\s+\d+\s+)?)?"
    r"(?P<name>[\w$]+)(?:\[(?P<count>\d+)\])?"
)
_SHARED = re.compile(r"\.shared\s+\.align\s+(\d+)\s+\.(\w+)\s+([\w$]+)(?:\[(\d*)\])?\s*;")
_LABEL = re.compile(r"([\w$]+)\s*:(?!:)")


@dataclass(frozen=True)
class Statement:
    """An instruction, a declaration of registers or a label; or ``opcode`` "{" or "}", a scope of names that opens or ends."""

    opcode: str
    operands: tuple[str, ...] = ()
    predicate: str = ""
    """``%p1`` or ``!%p1``: the instruction runs where it is true."""


@dataclass(frozen=True)
class Kernel:
    name: str
    parameters: dict[str, int]
    """Where each parameter starts, in bytes."""
    parameter_bytes: int
    shared: dict[str, int]
    """Where each array in shared memory starts; memory that the launch adds comes after all of them."""
    shared_bytes: int
    body: str

    def statements(self) -> Iterator[Statement]:
        at, text = 0, self.body
        while at < len(text):
            if text[at].isspace():
                at += 1
            elif text[at] in "{}":
                yield Statement(text[at])
                at += 1
            elif label := _LABEL.match(text, at):
                yield Statement("label", (label.group(1),))
                at = label.end()
            else:
                end = text.index(";", at)
                yield from statement(text[at:end])
                at = end + 1


def statement(text: str) -> Iterator[Statement]:
    guarded = re.match(r"@(!?%\w+)\s+", text)
    opcode, _, rest = text[guarded.end() if guarded else 0 :].strip().partition(" ")
    if opcode not in (".pragma", ".shared", ".extern"):
        yield Statement(opcode, split(rest), guarded.group(1) if guarded else "")


def split(text: str) -> tuple[str, ...]:
    """The parts of a list between commas, of which braces and brackets keep theirs."""
    return tuple(part.strip() for part in re.findall(r"(?:\{[^}]*\}|\[[^\]]*\]|[^,{\[])+", text) if part.strip())


def kernels(text: str) -> list[Kernel]:
    """Every kernel of a PTX module."""
    text = re.sub(r"/\*.*?\*/|//[^\n]*|^\s*\.(?:loc|file)\b[^\n]*", " ", text, flags=re.S | re.M)
    text = re.sub(r"[\t ]+", " ", text)
    found = []
    for entry in re.finditer(r"\.entry\s+([\w$]+)\s*\((.*?)\)[^{;]*\{(.*?)^\}", text, re.S | re.M):
        name, listed, body = entry.groups()
        parameters, parameter_bytes = _laid_out(
            (m["name"], int(m["align"] or BYTES[m["type"]]), BYTES[m["type"]] * int(m["count"] or 1))
            for m in _PARAMETER.finditer(listed)
        )
        arrays = _SHARED.findall(body)
        outside = re.findall(r"\.extern\s+\.shared\s+\.align\s+\d+\s+\.b8\s+([\w$]+)\[\]", text)
        shared, shared_bytes = _laid_out((n, int(align), BYTES[kind] * int(count or 1)) for align, kind, n, count in arrays)
        found.append(
            Kernel(name, parameters, parameter_bytes, shared | dict.fromkeys(outside, shared_bytes), shared_bytes, body)
        )
    return found


def _laid_out(items: Iterator[tuple[str, int, int]]) -> tuple[dict[str, int], int]:
    """Where each of these (name, alignment, bytes) starts, and the bytes of all."""
    places, end = {}, 0
    for name, align, size in items:
        places[name] = -(-end // align) * align
        end = places[name] + size
    return places, end
