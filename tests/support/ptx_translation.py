"""PTX to C++: a kernel becomes a function that one CUDA thread runs; registers become variables and branches become gotos."""

from __future__ import annotations

import re
from collections.abc import Sequence

from ptx_instructions import meaning
from ptx_text import BYTES, Kernel, Statement, split

_BUILT_IN = re.compile(r"%(tid|ntid|ctaid|nctaid)\.([xyz])")
_INTEGER = re.compile(r"(-?)(0[xX][0-9a-fA-F]+|\d+)U?")
_ADDRESS = re.compile(r"\[\s*([%\w$]+)\s*(?:\+\s*(-?\d+))?\s*\]")
_MEMORY = re.compile(r"(ld|st)((?:\.[a-z_]+\w*)*?)\.(param|global|shared)((?:\.[A-Za-z_:]+\w*)*?)(?:\.v([248]))?\.([busf]\d+)")
_REDUCTION = re.compile(r"redux\.sync\.(add|min|max|and|or|xor)\.([sub]32)")
_MATRICES = re.compile(r"ldmatrix\.sync\.aligned\.m8n8\.x([124])\.shared\.b16")
# Without a space: what nvcc lost sight of, which in these kernels is global.
_GENERIC = re.compile(r"(ld|st)(?:\.v([24]))?\.([busf]\d+)")
_SHUFFLE = re.compile(r"shfl\.sync\.(bfly|up|down|idx)\.b32")


def translate(kernel: Kernel) -> str:
    """A C++ file with the kernel as ``extern "C" const Kernel`` of its name."""
    body = _Body(kernel)
    for statement in kernel.statements():
        body.add(statement)
    declared = "".join(f"  std::uint{max(8 * size, 8)}_t {name} = 0;\n" for name, size in body.registers.items())
    return (
        '#include "ptx_thread.h"\n\n'
        f"static void run(Thread& t) {{\n{declared}" + "".join(f"{line}\n" for line in body.lines) + "}\n\n"
        f'extern "C" const Kernel {kernel.name} = {{run, {kernel.parameter_bytes}, {kernel.shared_bytes}}};\n'
    )


class _Body:
    def __init__(self, kernel: Kernel):
        self.kernel = kernel
        self.lines: list[str] = []
        self.registers: dict[str, int] = {}
        self.scopes: list[dict[str, str]] = [{}]
        self.opened = 0
        self.targets: dict[str, tuple[str, ...]] = {}

    def add(self, statement: Statement) -> None:
        opcode, operands = statement.opcode, statement.operands
        if opcode == "{":
            self.opened += 1
            self.scopes.append({})
        elif opcode == "}":
            self.scopes.pop()
        elif opcode == "label":
            self.lines.append(f"{_name(operands[0])}:;")
        elif opcode == ".reg":
            self.declare(operands)
        elif opcode.strip() == ".branchtargets":
            self.targets[self.lines[-1].removesuffix(":;")] = operands
        elif opcode.startswith("."):
            raise NotImplementedError(f"{self.kernel.name}: {statement}")
        else:
            condition = ""
            if predicate := statement.predicate:
                condition = f"if ({'!' if predicate[0] == '!' else ''}{self.register(predicate.lstrip('!'))}) "
            self.lines.append(f"  {condition}{{ {self.instruction(opcode, operands)} }}")

    def declare(self, operands: Sequence[str]) -> None:
        kind, first = operands[0].split()
        for name in (first, *operands[1:]):
            numbered = re.fullmatch(r"(.+)<(\d+)>", name)
            names = [f"{numbered[1]}{i}" for i in range(int(numbered[2]))] if numbered else [name]
            for one in names:
                variable = _name(one) + (f"_{self.opened}" if len(self.scopes) > 1 else "")
                self.scopes[-1][one] = variable
                self.registers[variable] = BYTES[kind.lstrip(".")]

    def register(self, name: str) -> str:
        return next(scope[name] for scope in reversed(self.scopes) if name in scope)

    def bits(self, operand: str) -> str:
        """The bits of a register, a number, a special register or the address of a parameter or an array."""
        if any(operand in scope for scope in self.scopes):
            return self.register(operand)
        if m := re.fullmatch(r"0[fFdD]([0-9a-fA-F]+)", operand):
            return f"0x{m[1]}u" + ("ll" if len(m[1]) == 16 else "")
        if m := _INTEGER.fullmatch(operand):
            return f"std::uint64_t({m[1]}{int(m[2], 0)}ull)"
        if m := _BUILT_IN.fullmatch(operand):
            return f"t.{m[1]}[{'xyz'.index(m[2])}]"
        if operand == "%laneid":
            return "t.lane()"
        if operand in self.kernel.shared:
            return f"{self.kernel.shared[operand]}u"
        if operand in self.kernel.parameters:
            return f"t.parameter({self.kernel.parameters[operand]})"
        raise NotImplementedError(f"{self.kernel.name}: operand {operand}")

    def typed(self, operand: str, kind: str) -> str:
        if operand.startswith("!"):
            return f"!get<{kind}>({self.bits(operand[1:])})"
        return f"get<{kind}>({self.bits(operand)})"

    def instruction(self, opcode: str, operands: tuple[str, ...]) -> str:
        if m := _MEMORY.fullmatch(opcode):
            return self.access(m[1], m[3], int(m[5] or 1), m[6], operands)
        if m := _GENERIC.fullmatch(opcode):
            return self.access(m[1], "global", int(m[2] or 1), m[3], operands)
        if m := _SHUFFLE.fullmatch(opcode):
            to, _, inside = operands[0].partition("|")
            value, *rest = (self.bits(operand) for operand in operands[1:])
            shuffled = f"const auto [value, inside] = t.shuffle<'{m[1][0]}'>({self.site()}, {value}, {', '.join(rest)});"
            return f"{shuffled} {self.register(to)} = value;" + (f" {self.register(inside)} = inside;" if inside else "")
        if m := _REDUCTION.fullmatch(opcode):
            joined = {
                "add": "a + b",
                "min": "b < a ? b : a",
                "max": "a < b ? b : a",
                "and": "a & b",
                "or": "a | b",
                "xor": "a ^ b",
            }
            join = f"[]({m[2]} a, {m[2]} b) {{ return {m[2]}({joined[m[1]]}); }}"
            reduced = f"t.reduce<{m[2]}>({self.site()}, {self.bits(operands[1])}, {self.bits(operands[2])}, {join})"
            return f"set({self.register(operands[0])}, {reduced});"
        if m := _MATRICES.fullmatch(opcode):
            address = _ADDRESS.fullmatch(operands[1])
            assert address, operands
            place = f"{self.bits(address[1])} + {address[2] or 0}"
            values = split(operands[0][1:-1]) if operands[0].startswith("{") else (operands[0],)
            taken = " ".join(f"{self.register(v)} = v[{i}];" for i, v in enumerate(values))
            return f"const auto v = t.load_matrices<{m[1]}>({self.site()}, {place}); {taken}"
        if opcode == "vote.sync.ballot.b32":
            to, value, mask = operands[0], self.typed(operands[1], "pred"), self.bits(operands[2])
            return f"{self.register(to)} = t.ballot({self.site()}, {value}, {mask});"
        if opcode in ("bar.sync", "barrier.sync", "barrier.sync.aligned") and operands == ("0",):
            return f"t.sync_block({self.site()});"
        if opcode == "bar.warp.sync" and operands in (("-1",), ("0xffffffff",)):
            return f"t.sync_warp({self.site()});"
        if opcode in ("bra", "bra.uni"):
            target = _name(operands[0])
            back = f"{target}:;" in self.lines
            return f"t.turn({self.site()}); goto {target};" if back else f"goto {target};"
        if opcode == "brx.idx":
            targets = enumerate(self.targets[_name(operands[1])])
            return f"switch ({self.bits(operands[0])}) {{ {' '.join(f'case {i}: goto {_name(t)};' for i, t in targets)} }}"
        if opcode in ("ret", "exit"):
            return "return;"
        if opcode.startswith("mov.b") and any(operand.startswith("{") for operand in operands):
            return self.rearranged(BYTES[opcode.removeprefix("mov.")], *operands)
        return self.computed(opcode, operands)

    def site(self) -> int:
        return len(self.lines) + 1

    def access(self, how: str, space: str, count: int, kind: str, operands: tuple[str, ...]) -> str:
        memory, listed = (operands[1], operands[0]) if how == "ld" else operands
        values = split(listed[1:-1]) if listed.startswith("{") else (listed,)
        assert len(values) == count, operands
        m = _ADDRESS.fullmatch(memory)
        assert m, memory
        address = f"{self.bits(m[1])} + {m[2] or 0}"
        if how == "ld":
            lines = [f"const auto v = t.load<{kind}, {count}, Space::{space}>({self.site()}, {address});"]
            lines += [f"set({self.register(v)}, v[{i}]);" for i, v in enumerate(values) if v != "_"]
            return " ".join(lines)
        listed = ", ".join(self.typed(v, kind) for v in values)
        return f"t.store<{kind}, {count}, Space::{space}>({self.site()}, {address}, {{{{{listed}}}}});"

    def rearranged(self, size: int, to: str, source: str) -> str:
        """A register taken apart or put together, the lowest bits first."""
        if to.startswith("{"):
            parts = split(to[1:-1])
            width = 8 * size // len(parts)
            taken = (f"set({self.register(p)}, get<b{width}>(v >> {width * i}));" for i, p in enumerate(parts) if p != "_")
            return f"const std::uint64_t v = {self.bits(source)}; " + " ".join(taken)
        parts = split(source[1:-1])
        width = 8 * size // len(parts)
        whole = " | ".join(f"std::uint64_t{{{self.typed(p, f'b{width}')}}} << {width * i}" for i, p in enumerate(parts))
        return f"set({self.register(to)}, get<b{8 * size}>({whole}));"

    def computed(self, opcode: str, operands: tuple[str, ...]) -> str:
        what = meaning(opcode)
        to, _, other = operands[0].partition("|")
        lines = []
        for name, kind, operand in zip("abcd", what.reads, operands[1:], strict=False):
            value = self.typed(operand, kind)
            if kind in ("f16", "bf16"):
                value = f"wide({value})"
            lines.append(f"const auto {name} = {f'flushed({value})' if what.flushes and kind != 'pred' else value};")
        lines.append(f"using Value = {what.writes};")
        value = f"flushed(Value({what.value}))" if what.flushes and what.writes != "pred" else f"Value({what.value})"
        lines.append(f"set({self.register(to)}, {value});")
        if other:
            raise NotImplementedError(f"{self.kernel.name}: two results of {opcode}")
        return " ".join(lines)


def _name(ptx: str) -> str:
    return re.sub(r"\W", "_", ptx)
