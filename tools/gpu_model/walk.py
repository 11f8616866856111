"""Follows the first lanes of a warp through a kernel, as far as branches and addresses ask for.

What is read from memory counts as 1 in every type, so that samples are active, weights are not 0 and no best value is saved. A
branch that nothing is known of is not taken, unless what it would skip calls the slow path of a division or a root. A loop that
nothing is known of is one over the pairs of the history, as is a count of bits.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from .lanes import LANES, Truth, signed
from .registers import Place, Registers
from .sass import Instruction

MOST = 400_000


@dataclass(frozen=True)
class Step:
    """An instruction that a warp issues."""

    instruction: Instruction
    runs: bool
    """Whether its predicate lets it do anything."""
    lanes: int = 32
    """Lanes that take part."""
    spread: int | None = None
    """Bytes from one lane's address to the next one's; None if the walk does not know."""

    @cached_property
    def bytes(self) -> int:
        """Bytes of global memory that the warp moves, in sectors of 32."""
        width = self.instruction.width
        if not self.runs:
            return 0
        if self.lanes == 1 or self.spread == 0:
            return max(width, 32)
        # Neighbours that leave gaps of less than a sector leave them to the warp's other accesses.
        return self.lanes * (width if self.spread is None or abs(self.spread) < 32 else max(width, 32))

    @property
    def wavefronts(self) -> int:
        """Groups of 128 bytes that the access is split into."""
        if self.lanes == 1 or self.spread == 0:
            return 1
        each = self.instruction.width if self.spread is None else max(abs(self.spread), self.instruction.width)
        return max(1, 32 * min(each, 128) // 128)

    @property
    def is_shared(self) -> bool:
        """Whether all lanes access one place, which a cache holds."""
        return self.lanes == 1 or self.spread == 0


def walk(code: Sequence[Instruction], place: Place) -> list[Step]:
    """What one warp issues, from its first instruction to its EXIT."""
    return _Walk(code, place).run()


class _Walk:
    def __init__(self, code: Sequence[Instruction], place: Place):
        self.code, self.pairs = code, place.pairs
        self.registers = Registers(place)
        self.turns: Counter[int] = Counter()
        """How often each branch that nothing is known of was met."""
        self.at = {instruction.address: index for index, instruction in enumerate(code)}

    def run(self) -> list[Step]:
        steps: list[Step] = []
        index = 0
        while index < len(self.code) and len(steps) < MOST:
            instruction = self.code[index]
            guard = self.registers.truth(instruction.predicate) if instruction.predicate else (True,) * LANES
            runs = guard is None or any(guard)
            lanes = 32 if guard is None or len(set(guard)) == 1 else 1
            steps.append(Step(instruction, runs, lanes, self.spread(instruction)))
            index += 1
            name = instruction.name
            if name in ("EXIT", "BRA") or (name == "CALL" and self.ends(instruction)):
                goes = self.goes(instruction, guard)
                if name == "EXIT" and goes:
                    return steps
                if name != "EXIT" and goes and instruction.target is not None:
                    if instruction.target == instruction.address:
                        return steps  # the padding after the last EXIT
                    index = self.at[instruction.target]
            elif runs:
                self.registers.compute(instruction, None if guard is None else guard[0])
        if len(steps) >= MOST:
            raise RuntimeError(f"the walk through the kernel does not end: it is at {self.code[index].address:#x}")
        return steps

    def ends(self, call: Instruction) -> bool:
        """Whether a call never comes back: how the compiler leaves some loops."""
        if call.target not in self.at:
            return False
        after = (i.name for i in self.code[self.at[call.target] :])
        return next((name for name in after if name in ("RET", "EXIT")), "RET") == "EXIT"

    def goes(self, instruction: Instruction, guard: Truth | None) -> bool:
        """Whether a branch is taken, by the first lane."""
        conditions = [guard]
        if ".DIV" in instruction.opcode:  # if the lanes have diverged
            return False
        conditions += [self.registers.truth(o) for o in instruction.operands if re.fullmatch(r"!?U?P[0-9T]", o)]
        if all(c is not None for c in conditions):
            return all(c[0] for c in conditions if c is not None)
        if any(c is not None and not c[0] for c in conditions):
            return False
        if instruction.target is None:
            return False
        self.turns[instruction.address] += 1
        turn = self.turns[instruction.address]
        if instruction.target <= instruction.address:
            return turn % (self.pairs - 1) != 0
        skipped = self.code[self.at[instruction.address] + 1 : self.at[instruction.target]]
        slow = len(skipped) <= 12 and any(i.name == "CALL" for i in skipped)
        return slow or turn % self.pairs == 0  # out of a loop

    def spread(self, instruction: Instruction) -> int | None:
        if not (instruction.reads_memory or instruction.writes_memory):
            return None
        found = re.search(r"\[(R\d+)(?:\.64|\.U32)*(?:\+[^\]]*)?\](?!\[)", instruction.text)
        low = self.registers.word(found[1]) if found else None
        return None if low is None else signed(low[1] - low[0])
