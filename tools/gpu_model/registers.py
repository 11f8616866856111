"""The registers and predicates of the first lanes of a warp, and what instructions do to them.

Integers, predicates and constants are computed; the results of floating-point arithmetic and of shuffles are not known.
"""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Sequence
from dataclasses import dataclass

from .lanes import LANES, MASK, Truth, Word, bits_of, compared, depends_on, each_lane, float_of, joined, signed
from .sass import Instruction

# 1.0 as a pair of bf16, which is 1.002 as a float; and 1.0 as a double.
_READ = {1: (1,), 2: (0x3F80,), 4: (0x3F803F80,), 8: (0, 0x3FF00000), 16: (0x3F803F80,) * 4}


@dataclass(frozen=True)
class Place:
    """A warp of a launch, and what it finds."""

    parameters: bytes
    parameters_at: int
    """Where the parameters start in the bank of constants."""
    grid: int
    threads: int
    block: int = 0
    warp: int = 0
    pairs: int = 6
    """Of the history."""


@dataclass(frozen=True)
class Operation:
    """An instruction with its operands sorted."""

    instruction: Instruction
    truths: list[str]
    """Predicates that it sets."""
    results: list[str]
    sources: list[str]
    certain: bool
    """Whether it runs for certain: what may or may not have been written is not known."""


class Registers:
    def __init__(self, place: Place):
        self.place = place
        self.words: dict[str, Word | None] = {}
        self.truths: dict[str, Truth | None] = {}
        # What an instruction reads, which may be what it writes.
        self.old_words, self.old_truths = self.words, self.truths

    def truth(self, name: str) -> Truth | None:
        inverted = name.startswith("!")
        name = name.lstrip("!")
        value = (True,) * LANES if name in ("PT", "UPT") else self.old_truths.get(name)
        if value is None:
            return None
        return tuple(not v for v in value) if inverted else value

    def word(self, operand: str) -> Word | None:
        """A 32-bit operand; None if it is not known."""
        operand = operand.split(".")[0] if re.fullmatch(r"[-~|]*U?R(?:\d+|Z)\.\w+", operand) else operand
        if operand.startswith("-") and not re.fullmatch(r"-[\d.]+(?:e[-+]?\d+)?", operand):
            value = self.word(operand[1:])
            return None if value is None else tuple(-v & MASK for v in value)
        if operand.startswith("~"):
            value = self.word(operand[1:])
            return None if value is None else tuple(~v & MASK for v in value)
        if operand in ("RZ", "URZ", "SRZ"):
            return (0,) * LANES
        if re.fullmatch(r"U?R\d+", operand):
            return self.old_words.get(operand)
        if m := re.fullmatch(r"-?0x[0-9a-f]+|\d+", operand):
            return (int(m[0], 0) & MASK,) * LANES
        if m := re.fullmatch(r"c\[0x0\]\[(0x[0-9a-f]+)\]", operand):
            return self.constant(int(m[1], 16))
        try:
            return (struct.unpack("<I", struct.pack("<f", float(operand)))[0],) * LANES
        except (ValueError, OverflowError):
            return None

    def constant(self, at: int, size: int = 4) -> Word | None:
        at -= self.place.parameters_at
        if not 0 <= at <= len(self.place.parameters) - size:
            return None
        return (int.from_bytes(self.place.parameters[at : at + size], "little"),) * LANES

    def pair(self, operand: str) -> Word | None:
        """A 64-bit operand."""
        if m := re.fullmatch(r"c\[0x0\]\[(0x[0-9a-f]+)\]", operand):
            return self.constant(int(m[1], 16), 8)
        low, high = self.word(operand), self.word(_next(operand))
        return None if low is None or high is None else tuple(h << 32 | v for h, v in zip(high, low, strict=True))

    def write(self, operand: str, value: Word | None, certain: bool = True) -> None:
        """Sets a register; one that may or may not be written is not known afterwards."""
        if operand not in ("RZ", "URZ"):
            self.words[operand] = tuple(v & MASK for v in value) if value is not None and certain else None

    def write_wide(self, operand: str, value: Word | None, certain: bool = True) -> None:
        self.write(operand, value, certain)
        self.write(_next(operand), None if value is None else tuple(v >> 32 for v in value), certain)

    def compute(self, instruction: Instruction, guard: bool | None) -> None:
        certain = guard is not False and guard is not None
        operands = list(instruction.operands)
        name = instruction.name
        if not operands or name in ("STG", "ST", "STS", "BAR", "RED", "BSSY", "BSYNC", "WARPSYNC", "CALL", "RET", "NOP"):
            return
        if name[0] == "U" and name not in ("UTMALDG",):
            name = name[1:]
        if name == "VOTEU":
            name = "VOTE"
        truths = operands[: {"PLOP3": 2, "VOTE": 1}[name]] if name in ("PLOP3", "VOTE") else _leading_predicates(operands)
        compares = name in ("ISETP", "FSETP", "DSETP", "PLOP3", "FCHK", "VOTE")
        results = [] if compares or len(operands) <= len(truths) else [operands[len(truths)]]
        if name in ("IADD3", "LEA", "IMAD"):
            truths, results = _leading_predicates(operands[1:]), [operands[0]]
            sources = operands[1 + len(truths) :]
        else:
            sources = operands[len(truths) + len(results) :]
        maker = getattr(self, f"do_{name.lower()}", None)
        self.old_words, self.old_truths = dict(self.words), dict(self.truths)
        # Whatever is not described below leaves something unknown.
        for operand in results:
            width = instruction.width // 4 if name in ("LDG", "LDS", "LDC", "LD") else 2 if _is_wide(instruction) else 1
            for _ in range(max(width, 1)):
                self.write(operand, None)
                operand = _next(operand)
        for truth in truths:
            if truth not in ("PT", "UPT"):
                self.truths[truth] = None
        if maker is not None:
            maker(Operation(instruction, truths, results, sources, certain))
        self.old_words, self.old_truths = self.words, self.truths

    def put(self, truth: str, value: Truth | None) -> None:
        if truth not in ("PT", "UPT"):
            self.truths[truth] = value

    def do_mov(self, o: Operation) -> None:
        self.write(o.results[0], self.word(o.sources[0]), o.certain)

    do_r2ur = do_mov

    def do_viadd(self, o: Operation) -> None:
        self.write(o.results[0], each_lane(lambda a, b: a + b, self.word(o.sources[0]), self.word(o.sources[1])), o.certain)

    def do_s2r(self, o: Operation) -> None:
        known = {
            "SR_TID.X": tuple(32 * self.place.warp + lane for lane in range(LANES)),
            "SR_LANEID": tuple(range(LANES)),
            "SR_CTAID.X": (self.place.block,) * LANES,
        }
        zero = o.sources[0] in ("SR_TID.Y", "SR_TID.Z", "SR_CTAID.Y", "SR_CTAID.Z")
        self.write(o.results[0], (0,) * LANES if zero else known.get(o.sources[0]), o.certain)

    do_s2ur = do_2ur = do_s2r

    def do_cs2r(self, o: Operation) -> None:
        if o.sources == ["SRZ"]:
            self.write(o.results[0], (0,) * LANES, o.certain)
            if ".32" not in o.instruction.opcode:
                self.write(_next(o.results[0]), (0,) * LANES, o.certain)

    def do_ldc(self, o: Operation) -> None:
        found = re.fullmatch(r"c\[0x0\]\[(?:(U?R\d+|RZ|URZ)\+)?(0x[0-9a-f]+)\]", o.sources[0])
        base = (0,) * LANES if found is None or found[1] is None else self.word(found[1])
        if found is None or base is None:
            return
        at, size = base[0] + int(found[2], 16), o.instruction.width
        register = o.results[0]
        for start in range(0, size, 4):
            self.write(register, self.constant(at + start, min(size, 4)), o.certain)
            register = _next(register)

    do_ldcu = do_dcu = do_ldc

    def do_ldg(self, o: Operation) -> None:
        register = o.results[0]
        for word in _READ[o.instruction.width]:
            self.write(register, (word,) * LANES, True)
            register = _next(register)

    def do_imad(self, o: Operation) -> None:
        parts = o.instruction.opcode.split(".")
        wide, high, unsigned = "WIDE" in parts, "HI" in parts, "U32" in parts
        a, b = self.word(o.sources[0]), self.word(o.sources[1])
        if o.sources[0] in ("RZ", "URZ") or o.sources[1] in ("RZ", "URZ"):
            a = b = (0,) * LANES
        c = self.pair(o.sources[2]) if wide or high else self.word(o.sources[2])
        carry = self.carries(o.sources[3:]) if "X" in parts else (0,) * LANES
        if a is None or b is None or c is None or carry is None:
            return
        if not unsigned:
            a, b = tuple(map(signed, a)), tuple(map(signed, b))
        value = tuple(x * y + z + k for x, y, z, k in zip(a, b, c, carry, strict=True))
        if wide:
            self.write_wide(o.results[0], value, o.certain)
        else:
            self.write(o.results[0], tuple(v >> 32 for v in value) if high else value, o.certain)

    def carries(self, operands: Sequence[str]) -> Word | None:
        total = [0] * LANES
        for operand in operands:
            truth = self.truth(operand)
            if truth is None:
                return None
            total = [t + v for t, v in zip(total, truth, strict=True)]
        return tuple(total)

    def do_iadd3(self, o: Operation) -> None:
        values = [self.addend(s) for s in o.sources[:3]]
        carry = self.carries(o.sources[3:]) if ".X" in o.instruction.opcode else (0,) * LANES
        if carry is None or any(v is None for v in values):
            return
        total = tuple(sum(v[lane] for v in values if v is not None) + carry[lane] for lane in range(LANES))
        self.write(o.results[0], total, o.certain)
        if o.truths:
            self.put(o.truths[0], tuple(t > MASK for t in total))

    def addend(self, operand: str) -> Word | None:
        """-a as ~a + 1, which does not wrap around: its carry counts."""
        if re.fullmatch(r"-(U?R\d+|c\[.*)", operand):
            value = self.word(operand[1:])
            return None if value is None else tuple((~v & MASK) + 1 for v in value)
        return self.word(operand)

    def do_lea(self, o: Operation) -> None:
        parts = o.instruction.opcode.split(".")
        carry: Word | None = (0,) * LANES
        numbers = [s for s in o.sources if not re.fullmatch(r"!?U?P[0-9T]", s)]
        if "X" in parts:
            carry = self.carries([s for s in o.sources if s not in numbers])
        shift = int(numbers[-1], 0)
        a, b = self.word(numbers[0]), self.word(numbers[1])
        if a is None or b is None or carry is None:
            return
        if "HI" in parts:
            high = tuple(-(v >> 31) & MASK for v in a) if "SX32" in parts else self.word(numbers[2])
            if high is None:
                return
            a = tuple((h << 32 | v) << shift >> 32 & MASK for h, v in zip(high, a, strict=True))
        else:
            a = tuple(v << shift & MASK for v in a)
        total = tuple(x + y + k for x, y, k in zip(a, b, carry, strict=True))
        self.write(o.results[0], total, o.certain)
        if o.truths:
            self.put(o.truths[0], tuple(t > MASK for t in total))

    def do_iabs(self, o: Operation) -> None:
        value = self.word(o.sources[0])
        self.write(o.results[0], None if value is None else tuple(abs(signed(v)) for v in value), o.certain)

    def do_imnmx(self, o: Operation) -> None:
        a, b, least = self.word(o.sources[-3]), self.word(o.sources[-2]), self.truth(o.sources[-1])
        if a is None or b is None or least is None:
            return
        order = (lambda v: v) if "U32" in o.instruction.opcode else signed
        chosen = (min(x, y, key=order) if t else max(x, y, key=order) for x, y, t in zip(a, b, least, strict=True))
        self.write(o.results[0], tuple(chosen), o.certain)

    do_vimnmx = do_imnmx

    def do_popc(self, o: Operation) -> None:
        value = self.word(o.sources[0])
        self.write(
            o.results[0], (self.place.pairs,) * LANES if value is None else tuple(v.bit_count() for v in value), o.certain
        )

    def do_shf(self, o: Operation) -> None:
        parts = o.instruction.opcode.split(".")
        low, shift, high = (self.word(s) for s in o.sources[:3])
        if shift is None:
            return
        if "L" in parts and "HI" not in parts:
            high = (0,) * LANES
        if "R" in parts and "HI" in parts and "U64" not in parts and "S64" not in parts:
            low = (0,) * LANES
        if low is None or high is None:
            return
        out = []
        for v, s, h in zip(low, shift, high, strict=True):
            s = min(s, 63)
            whole = (signed(h) if "S32" in parts or "S64" in parts else h) << 32 | v
            moved = whole << s if "L" in parts else whole >> s
            out.append(moved >> 32 if "HI" in parts else moved)
        self.write(o.results[0], tuple(out), o.certain)

    def do_lop3(self, o: Operation) -> None:
        table = int(o.sources[3], 0)
        values = [self.word(s) for s in o.sources[:3]]
        bits: list[int] = []
        for lane in range(LANES):
            out = 0
            for row in range(8):
                if table >> row & 1:
                    term = MASK
                    for place, value in enumerate(values):
                        if not depends_on(table, place):
                            continue
                        if value is None:
                            return
                        keep = value[lane] if row >> (2 - place) & 1 else ~value[lane] & MASK
                        term = term & keep
                    out |= term
            bits.append(out)
        self.write(o.results[0], tuple(bits), o.certain)
        if o.truths:
            self.put(o.truths[0], tuple(b != 0 for b in bits) if o.certain else None)

    def do_isetp(self, o: Operation) -> None:
        parts = o.instruction.opcode.split(".")
        a, b = self.word(o.sources[0]), self.word(o.sources[1])
        below = self.truth(o.sources[3]) if "EX" in parts else None
        if a is None or b is None or ("EX" in parts and below is None):
            return
        if "U32" not in parts:
            a, b = tuple(map(signed, a)), tuple(map(signed, b))
        outcome = compared(parts[1], a, b, below)
        self.put(o.truths[0], joined("OR" in parts, outcome, self.truth(o.sources[2])) if o.certain else None)

    def do_fsetp(self, o: Operation) -> None:
        values = [self.real(s) for s in o.sources[:2]]
        self.compare_reals(o, values)

    def do_dsetp(self, o: Operation) -> None:
        pairs = [self.pair(s) for s in o.sources[:2]]
        reals = [None if p is None else tuple(struct.unpack("<d", struct.pack("<Q", v))[0] for v in p) for p in pairs]
        self.compare_reals(o, reals)

    def compare_reals(self, o: Operation, values: Sequence[tuple[float, ...] | None]) -> None:
        a, b = values
        parts = o.instruction.opcode.split(".")
        if a is None or b is None or any(map(math.isnan, (*a, *b))):
            return
        outcome = compared(parts[1].removesuffix("U") if parts[1] != "NEU" else "NE", a, b, None)
        self.put(o.truths[0], joined("OR" in parts, outcome, self.truth(o.sources[2])) if o.certain else None)

    def real(self, operand: str) -> tuple[float, ...] | None:
        value = self.word(operand.strip("|"))
        return None if value is None else tuple(float_of(v) for v in value)

    def do_plop3(self, o: Operation) -> None:
        values = [self.truth(s) for s in o.sources[:3]]
        for truth, text in zip(o.truths, o.sources[3:], strict=False):
            table = int(text, 0)
            if any(v is None and depends_on(table, place) for place, v in enumerate(values)):
                continue
            known = [v or (False,) * LANES for v in values]
            bits = tuple(bool(table >> (known[0][i] * 4 + known[1][i] * 2 + known[2][i]) & 1) for i in range(LANES))
            self.put(truth, bits if o.certain else None)

    def do_vote(self, o: Operation) -> None:
        if (
            o.truths and o.truths[0] in self.truths and ".ANY" in o.instruction.opcode
        ):  # the lanes' predicates agree, see `goes`
            self.put(o.truths[0], self.truth(o.sources[-1]))

    def do_sel(self, o: Operation) -> None:
        chosen, a, b = self.truth(o.sources[2]), self.word(o.sources[0]), self.word(o.sources[1])
        if chosen is not None and a is not None and b is not None:
            self.write(o.results[0], tuple(x if t else y for t, x, y in zip(chosen, a, b, strict=True)), o.certain)

    do_fsel = do_sel

    def do_fchk(self, o: Operation) -> None:
        self.put(o.truths[0], (False,) * LANES)  # a division without overflow

    def do_r2p(self, o: Operation) -> None:
        value = self.word(o.sources[0])
        mask = int(o.sources[1], 0)
        for bit in range(7):
            if mask >> bit & 1:
                self.put(f"P{bit}", None if value is None else tuple(bool(v >> bit & 1) for v in value))

    def do_p2r(self, o: Operation) -> None:
        mask, total = int(o.sources[2], 0), [0] * LANES
        for bit in range(7):
            if mask >> bit & 1:
                truth = self.truth(f"P{bit}")
                if truth is None:
                    return
                total = [t | int(v) << bit for t, v in zip(total, truth, strict=True)]
        self.write(o.results[0], tuple(total), o.certain)

    def do_i2f(self, o: Operation) -> None:
        value = self.word(o.sources[0])
        if value is not None and not re.search("64|16|8", o.instruction.opcode):
            number = (lambda v: v) if "U32" in o.instruction.opcode else signed
            self.write(o.results[0], tuple(bits_of(float(number(v))) for v in value), o.certain)

    def do_mufu(self, o: Operation) -> None:
        value = self.real(o.sources[0])
        if value is not None and o.instruction.opcode == "MUFU.RCP" and all(value):
            self.write(o.results[0], tuple(bits_of(1 / v) for v in value), o.certain)

    def do_f2i(self, o: Operation) -> None:
        value = self.real(o.sources[0])
        if value is not None and "U32" in o.instruction.opcode and all(math.isfinite(v) for v in value):
            self.write(o.results[0], tuple(max(0, min(int(v), MASK)) for v in value), o.certain)

    def do_hfma2(self, o: Operation) -> None:
        if o.sources[0] in ("-RZ", "RZ") and o.sources[1] == "RZ" and len(o.sources) == 4:  # how a constant is loaded
            try:
                high, low = (struct.unpack("<H", struct.pack("<e", float(s)))[0] for s in o.sources[2:])
            except ValueError:
                return
            self.write(o.results[0], (high << 16 | low,) * LANES, o.certain)

    def do_prmt(self, o: Operation) -> None:
        a, how, b = (self.word(s) for s in o.sources[:3])
        if a is None or how is None or b is None:
            return
        out = []
        for x, selectors, y in zip(a, how, b, strict=True):
            whole, word = y << 32 | x, 0
            for i in range(4):
                byte = whole >> 8 * (selectors >> 4 * i & 7) & 255
                if selectors >> 4 * i & 8:
                    byte = 255 if byte & 128 else 0
                word |= byte << 8 * i
            out.append(word)
        self.write(o.results[0], tuple(out), o.certain)


def _leading_predicates(operands: Sequence[str]) -> list[str]:
    found = []
    for operand in operands:
        if not re.fullmatch(r"U?P[0-9T]", operand):
            break
        found.append(operand)
    return found


def _is_wide(instruction: Instruction) -> bool:
    """Whether the result takes two registers."""
    return "WIDE" in instruction.opcode or instruction.name in ("DADD", "DFMA", "DMUL", "CS2R") or ".F64." in instruction.opcode


def _next(register: str) -> str:
    m = re.fullmatch(r"(-?~?U?R)(\d+)", register)
    return f"{m[1]}{int(m[2]) + 1}" if m else register
