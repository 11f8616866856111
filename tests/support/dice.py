"""Seeded choices for the fuzzer: what hurts readers of bytes, text and documents, thousands a second.

Hypothesis draws a seed, and a property makes many mutations of it, each a case of its own: a draw of hypothesis costs more than
most parsers take. A failure names the seed and the number of the mutation, and the same seed gives the same mutations again.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence
from typing import Any

NUMBERS = [
    *(
        "nan",
        "inf",
        "-inf",
        "-1e39",
        "1e999",
        "0",
        "1",
        "-0",
        "-1",
        "1_0",
        "٣",
        "0x10",
        "1e-320",
        "1.5",
        "0.25",
        "+1",
        ".5",
        "5.",
    ),
    *("99999999999999999999", "9" * 5000, "2147483648", "-2147483649", "4294967296", "1e308", "-1e308", "true", "07", "1:30"),
]
WORDS = [
    *("x", "", " ", "true", "null", "~", "None", "a.png", "../a.png", "/etc/passwd", "/dev/null", "\ufeff", "\ud800", "é"),
    *("%s%n", "$HOME", "${X}", "C:\\a", "\u202e", "a" * 300, "\\", "\x7f", "NaN", "-", "--", "b.png", "left", "preset", "tiny"),
]
MARKS = [
    *("\n", "\r", "\0", "\x1b[2J", ",", ";", "\t", "{", "}", "[", "]", '"', "'", ":", "#", "*a", "&a ", "-", "=", ".."),
    *(
        "!!python/object:os.system",
        "!!int ''",
        "!!float x",
        "!!binary x",
        "!!timestamp 2001-01-01",
        "<<: *a",
        "? ",
        "|",
        ">",
        "%",
    ),
]
PIECES = [*NUMBERS, *WORDS, *MARKS, "[" * 3000, "{a: " * 300, "a: &a [*a]", "\n" * 50]
"""What hurts readers of text."""

HOSTILE_WHOLES = [
    0,
    1,
    -1,
    2,
    3,
    127,
    255,
    256,
    65535,
    2**31 - 1,
    2**31,
    -(2**31),
    2**32,
    2**53,
    2**63 - 1,
    2**63,
    10**30,
    10**400,
]
HOSTILE_REALS = [float("nan"), float("inf"), -float("inf"), 1e39, -1e39, 1e308, 1e-320, 0.0, -0.0, 0.5, 1.0, -1.0, 3.4e38, 1e-8]
_BYTES = [0, 1, 0x7F, 0x80, 0xFF, 0x0A, 0x20, 0x22, 0x7B]
_NUMBER = re.compile(r"-?\d+(?:\.\d+)?")


class Dice(random.Random):
    """A source of seeded choices."""

    def maybe(self, chance: float = 0.5) -> bool:
        return self.random() < chance

    def whole(self) -> int:
        """A number of the size of an argument, or a hostile one."""
        return self.randint(-3, 20) if self.maybe(0.6) else self.choice(HOSTILE_WHOLES)

    def real(self) -> float:
        return self.uniform(-3, 3) if self.maybe(0.5) else self.choice(HOSTILE_REALS)

    def piece(self) -> str:
        return self.choice(PIECES)

    def text(self) -> str:
        """A short text of any characters."""
        return "".join(chr(self.choice([self.randint(32, 126), self.randint(0, 0x2FF), self.randint(0, 0x10FFFF)]))
                       for _ in range(self.randint(0, 8)))  # fmt: skip

    def some(self, least: int, most: int, make: Callable[[], Any]) -> list[Any]:
        return [make() for _ in range(self.randint(least, most))]

    def value(self, depth: int = 0) -> Any:
        """A value of a document."""
        kinds: Sequence[Callable[[], Any]] = (
            lambda: None,
            lambda: self.maybe(),
            self.whole,
            self.real,
            self.piece,
            self.text,
            lambda: self.choice(WORDS),
            lambda: self.choice(NUMBERS),
            lambda: self.some(0, 3, lambda: self.value(depth + 1)) if depth < 3 else [],
            lambda: (
                {self.choice(["a", "preset", "rule", "", "x"]): self.value(depth + 1) for _ in range(self.randint(0, 2))}
                if depth < 3
                else {}
            ),
        )
        return self.choice(kinds)()

    def damaged(self, data: bytes, head: int = 64) -> bytes:
        """Bytes with one to four faults; half of them within the first `head` bytes."""
        for _ in range(self.choice([1, 1, 1, 2, 3, 4])):
            reach = min(head, len(data)) if self.maybe() else len(data)
            at = self.randint(0, max(reach - 1, 0))
            kind = self.randint(0, 8)
            if kind == 0 and at < len(data):
                data = data[:at] + bytes([data[at] ^ 1 << self.randint(0, 7)]) + data[at + 1 :]
            elif kind == 1:
                data = data[:at] + bytes([self.choice(_BYTES)]) + data[at + 1 :]
            elif kind == 2:
                data = data[:at] + self.randbytes(self.randint(1, 12)) + data[at + self.randint(0, 12) :]
            elif kind == 3:
                data = data[:at] + data[at + self.choice([1, 2, 4, 8, 64]) :]
            elif kind == 4:
                data = data[:at]
            elif kind == 5:
                size = self.choice([2, 4, 8])
                number = (self.choice(HOSTILE_WHOLES) % (1 << 8 * size)).to_bytes(size, self.choice(["little", "big"]))
                data = data[:at] + number + data[at + size :]
            elif kind == 6:
                length = self.randint(1, 64)
                data = data[:at] + data[at : at + length] * self.choice([2, 3, 40]) + data[at + length :]
            elif kind == 7:
                other = self.randint(0, max(len(data) - 1, 0))
                data = data[:at] + data[other : other + self.randint(1, 64)] + data[at:]
            else:
                data = data[:at] + self.piece().encode("utf-8", "surrogatepass") + data[at:]
        return data

    def edited(self, text: str) -> bytes:
        """Text with one to five faults, as bytes; a lone surrogate becomes bytes that are no UTF-8."""
        for _ in range(self.choice([1, 1, 2, 3, 5])):
            kind, at = self.randint(0, 7), self.randint(0, len(text))
            if kind <= 2:
                numbers = list(_NUMBER.finditer(text)) if len(text) < 20_000 else []
                if numbers:
                    one = self.choice(numbers)
                    text = text[: one.start()] + self.choice(NUMBERS) + text[one.end() :]
                    continue
            if kind == 3:
                lines = text.split("\n")
                i, j = self.randrange(len(lines)), self.randrange(len(lines))
                lines[i : i + self.randint(0, 1)] = [lines[j]] * self.choice([0, 1, 2])
                text = "\n".join(lines)
            elif kind == 4:
                text = text[:at]
            elif kind == 5:
                text = text.replace(
                    self.choice(["\n", " ", ",", ":", "0"]), self.choice([*MARKS, "", "\r\n", "  "]), self.choice([1, 3, -1])
                )
            else:
                text = text[:at] + self.piece() + text[at + self.choice([0, 0, 1, 5, 30]) :]
        data = text.encode("utf-8", "surrogatepass")
        return self.damaged(data) if self.maybe(0.1) else data

    def changed(self, document: Any) -> Any:
        """A document with one or two places that hold another value, are gone, or have an unknown neighbour."""
        for _ in range(self.choice([1, 1, 2])):
            document = self._changed_once(document)
        return document

    def _changed_once(self, document: Any) -> Any:
        if not isinstance(document, dict | list) or not document or self.maybe(0.12):
            return self.value()
        copy: Any = dict(document) if isinstance(document, dict) else list(document)
        key: Any = self.choice(list(copy)) if isinstance(copy, dict) else self.randrange(len(copy))
        if isinstance(copy[key], dict | list) and copy[key] and self.maybe(0.8):
            copy[key] = self._changed_once(copy[key])
            return copy
        kind = self.randint(0, 4)
        if kind == 0:
            del copy[key]
        elif kind == 1 and isinstance(copy, dict):
            copy[str(self.value())[:40]] = copy[key]
        elif kind == 1:
            copy.append(self.value())
        elif kind == 2 and type(copy[key]) in (int, float):
            copy[key] = self.choice([self.whole(), self.real(), copy[key] + 1, -copy[key], str(copy[key])])
        else:
            copy[key] = self.value()
        return copy
