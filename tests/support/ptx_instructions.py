"""What every instruction of PTX that the kernels use means, as C++ of its operands.

A row is a pattern of the whole opcode and an expression. In an expression `a`, `b` and `c` are the operands after the result,
as values of the instruction's type; `Value` is the type of the result, `t` the thread (ptx_thread.h). The section numbers are
those of the "PTX ISA" manual.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

INTEGER = r"[us](?:16|32|64)"
BITS = r"b(?:16|32|64)"
FLOAT = r"f(?:32|64)"


@dataclass(frozen=True)
class Row:
    opcode: str
    """A regular expression with a group `type`."""
    value: str
    reads: tuple[str, ...] = ()
    """The types of the operands, where they are not all the instruction's."""
    writes: str = ""
    """The type of the result, where it is not the instruction's."""


def row(name: str, types: str, value: str, reads: tuple[str, ...] = (), writes: str = "") -> Row:
    return Row(rf"(?:{name})\.(?P<type>{types})", value, reads, writes)


WIDER = {"u16": "u32", "s16": "s32", "u32": "u64", "s32": "s64"}

TABLE = [
    # 9.7.1 integers. Arithmetic wraps around (-fwrapv).
    row("add", INTEGER, "a + b"),
    row("sub", INTEGER, "a - b"),
    row(r"mul\.lo", INTEGER, "a * b"),
    row(r"mul\.hi", r"[us]32", "(std::int64_t{a} * b) >> 32"),
    row(r"mul\.hi", r"[us]64", "(widest(a) * b) >> 64"),
    *(row(r"mul\.wide", t, "Value{a} * b", writes=wide) for t, wide in WIDER.items()),
    *(row(r"mad\.wide", t, "Value{a} * b + c", (t, t, wide), wide) for t, wide in WIDER.items()),
    row(r"mad\.lo", INTEGER, "a * b + c"),
    row("div", INTEGER, "a / t.divisor(b)"),
    row("rem", INTEGER, "a % t.divisor(b)"),
    row("neg", INTEGER, "-a"),
    row("abs", INTEGER, "a < 0 ? -a : a"),
    row("min", INTEGER, "b < a ? b : a"),
    row("max", INTEGER, "a < b ? b : a"),
    row("popc", "b32", "__builtin_popcount(a)"),
    row("popc", "b64", "__builtin_popcountll(a)", writes="u32"),
    row("bfi", "b(?:32|64)", "inserted(a, b, c, d)", ("", "", "u32", "u32")),
    row("bfe", "[us](?:32|64)", "extracted(a, b, c)", ("", "u32", "u32")),
    # 9.7.3 floating point: rounded to nearest, subnormal numbers kept unless .ftz.
    row(r"add(?:\.rn)?(?:\.ftz)?", FLOAT, "a + b"),
    row(r"sub(?:\.rn)?(?:\.ftz)?", FLOAT, "a - b"),
    row(r"mul(?:\.rn)?(?:\.ftz)?", FLOAT, "a * b"),
    row(r"fma\.rn(?:\.ftz)?", FLOAT, "std::fma(a, b, c)"),
    row(r"div\.(?:rn|full)(?:\.ftz)?", FLOAT, "a / b"),
    row(r"div\.approx(?:\.ftz)?", "f32", "t.approximate(a / b)"),
    row(r"rcp\.rn(?:\.ftz)?", FLOAT, "1 / a"),
    row(r"sqrt\.rn(?:\.ftz)?", FLOAT, "std::sqrt(a)"),
    row(r"neg(?:\.ftz)?", FLOAT, "-a"),
    row(r"abs(?:\.ftz)?", FLOAT, "std::fabs(a)"),
    row(r"min(?:\.ftz)?", FLOAT, "std::fmin(a, b)"),
    row(r"max(?:\.ftz)?", FLOAT, "std::fmax(a, b)"),
    row(r"min(?:\.ftz)?\.NaN(?:\.ftz)?", FLOAT, "std::isunordered(a, b) ? Value(NAN) : std::fmin(a, b)"),
    row(r"max(?:\.ftz)?\.NaN(?:\.ftz)?", FLOAT, "std::isunordered(a, b) ? Value(NAN) : std::fmax(a, b)"),
    row(r"ex2\.approx(?:\.ftz)?", "f32", "t.approximate(std::exp2(a))"),
    row(r"lg2\.approx(?:\.ftz)?", "f32", "t.approximate(std::log2(a))"),
    row(r"sqrt\.approx(?:\.ftz)?", "f32", "t.approximate(std::sqrt(a))"),
    row(r"rsqrt\.approx(?:\.ftz)?", "f32", "t.approximate(1 / std::sqrt(a))"),
    row(r"rsqrt\.approx", "f64", "1 / std::sqrt(a)"),
    # 9.7.8 logic and shifts: a shift by the width or more leaves nothing, or the sign.
    row("and", BITS, "a & b"),
    row("or", BITS, "a | b"),
    row("xor", BITS, "a ^ b"),
    row("not", BITS, "~a"),
    row("and", "pred", "a && b"),
    row("or", "pred", "a || b"),
    row("xor", "pred", "a != b"),
    row("not", "pred", "!a"),
    row("shl", BITS, "b < 8 * sizeof(a) ? a << b : 0", ("", "u32")),
    row("shr", r"[bu](?:16|32|64)", "b < 8 * sizeof(a) ? a >> b : 0", ("", "u32")),
    row("shr", r"s(?:16|32|64)", "a >> (b < 8 * sizeof(a) ? b : 8 * sizeof(a) - 1)", ("", "u32")),
    row(r"shf\.l\.wrap", "b32", "(std::uint64_t{b} << 32 | a) << (c & 31) >> 32"),
    row(r"shf\.r\.wrap", "b32", "(std::uint64_t{b} << 32 | a) >> (c & 31)"),
    row("prmt", "b32", "permuted(a, b, c)"),
    row(r"lop3", "b32", "looked_up(a, b, c, d)"),
    # 9.7.6 choice.
    row("selp", r"\w+", "c ? a : b", ("", "", "pred")),
    # 9.7.9 moves of one register. Global addresses are those of the CPU.
    row("mov", r"\w+", "a"),
    row(r"cvta(?:\.to)?\.global", "u64", "a"),
]

# 9.7.5 the comparisons of setp. A name with u is true for NaN as well.
COMPARISONS = {
    "eq": "a == b",
    "ne": "a < b || a > b",
    "lt": "a < b",
    "le": "a <= b",
    "gt": "a > b",
    "ge": "a >= b",
    "equ": "!(a < b || a > b)",
    "neu": "a != b",
    "ltu": "!(a >= b)",
    "leu": "!(a > b)",
    "gtu": "!(a <= b)",
    "geu": "!(a < b)",
    "lo": "a < b",
    "ls": "a <= b",
    "hi": "a > b",
    "hs": "a >= b",
    "num": "!std::isunordered(a, b)",
    "nan": "std::isunordered(a, b)",
}

# 9.7.9 cvt to an integer: how a fraction is rounded.
ROUNDINGS = {"rni": "std::nearbyint(a)", "rzi": "std::trunc(a)", "rmi": "std::floor(a)", "rpi": "std::ceil(a)"}


@dataclass(frozen=True)
class Meaning:
    value: str
    reads: tuple[str, ...]
    writes: str
    flushes: bool
    """Subnormal operands and results become 0."""


_COMPILED = [(re.compile(r.opcode), r) for r in TABLE]
_SETP = re.compile(r"setp\.(?P<how>[a-z]+)(?:\.(?P<logic>and|or|xor))?(?:\.ftz)?\.(?P<type>\w+)")
_CVT = re.compile(r"cvt(?:\.(?P<rounding>r\w+))?(?:\.ftz)?\.(?P<to>[a-z]+\d+(?:x2)?)\.(?P<from>[a-z]+\d+)")
_LOGIC = {None: "({0})", "and": "({0}) && c", "or": "({0}) || c", "xor": "({0}) != c"}


def meaning(opcode: str) -> Meaning:
    """Raises NotImplementedError for an instruction that no row describes: none is guessed."""
    flushes = ".ftz" in opcode
    if m := _SETP.fullmatch(opcode):
        value = _LOGIC[m["logic"]].format(COMPARISONS[m["how"]])
        return Meaning(value, (m["type"], m["type"], "pred"), "pred", flushes)
    if m := _CVT.fullmatch(opcode):
        return _conversion(opcode, m["rounding"], m["to"], m["from"])
    for pattern, found in _COMPILED:
        if m := pattern.fullmatch(opcode):
            reads = tuple(kind or m["type"] for kind in found.reads) or (m["type"],) * 4
            return Meaning(found.value, reads, found.writes or m["type"], flushes)
    raise NotImplementedError(opcode)


def _conversion(opcode: str, rounding: str | None, to: str, source: str) -> Meaning:
    if to.endswith("x2"):
        return Meaning(f"packed<{to[:-2]}>(a, b)", (source, source), "b32", False)
    fractions = source[0] in "fb" and to[0] not in "fb"
    if rounding not in ((tuple(ROUNDINGS)) if fractions else (None, "rn")):
        raise NotImplementedError(opcode)
    value = f"saturated<Value>({ROUNDINGS[rounding]})" if fractions and rounding else "converted<Value>(a)"
    return Meaning(value, (source,), to, ".ftz" in opcode)
