"""Times the warps of one multiprocessor: a simulation of its four schedulers, their units, barriers and reads of memory.

A warp issues its next instruction as soon as the scoreboards that it waits for are down, the cycles that the compiler asked for
are over, and its scheduler and the unit are free. Reads and writes of device memory go through a queue that serves the
multiprocessor's part of the copy bandwidth. What the model leaves out: misses of the instruction cache, bank conflicts, other
multiprocessors that take more than their part, and clocks that fall under load.
"""

from __future__ import annotations

import heapq
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

from .gpus import GPU
from .sass import SCOREBOARDS
from .walk import Step

SCHEDULERS = 4
# Cycles until a result of variable latency is there: the paper named in sass.py, and its successors for Ampere and Hopper.
RESULT_AFTER = {"LDS": 29, "SHFL": 24, "MUFU": 22, "LDC": 32, "LDCU": 32, "ULDC": 32, "S2R": 24, "S2UR": 24, "R2UR": 12}
OTHER_RESULT = 16
OPERANDS_READ = 14
BARRIER = 12
BLOCK_START = 250

# Units of a scheduler, by the name of the instruction; what is not named takes none but the issue.
_UNITS = {
    "integer": "IADD3 IMAD LEA LOP3 SHF ISETP SEL PRMT IMNMX VIMNMX VIADD IABS PLOP3 P2R R2P",
    "double": "DADD DMUL DFMA DSETP DMNMX",
    "slow": "MUFU I2F F2I F2F FRND POPC FLO",
    "float": "FADD FMUL FFMA FMNMX FMNMX3 FSEL FSETP FSET FCHK I2FP F2FP HADD2 HMUL2 HFMA2",
}
UNIT_OF = {name: unit for unit, names in _UNITS.items() for name in names.split()}


@dataclass
class Timing:
    cycles: float
    """From the first block's start to the last one's end."""
    bytes: int
    """Of device memory that were read and written."""
    issued: int
    """Instructions, of all warps."""
    waited: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    """Cycles that warps stood still, by what they waited for."""
    busy: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    """Cycles that each unit of a scheduler was taken, on average."""


@dataclass
class _Warp:
    block: int
    steps: Sequence[Step]
    scheduler: int
    at: int = 0
    ready: float = 0.0
    down: list[float] = field(default_factory=lambda: [0.0] * SCOREBOARDS)
    raised_by: list[str] = field(default_factory=lambda: ["memory"] * SCOREBOARDS)


class _Units:
    """When each unit is free again."""

    def __init__(self, gpu: GPU):
        self.gpu = gpu
        self.issue = [0.0] * SCHEDULERS
        self.units: dict[tuple[str, int], float] = {}
        self.access = 0.0
        self.memory = 0.0

    def unit_of(self, step: Step) -> tuple[str, int]:
        """The unit of an instruction, and for how many cycles it takes it."""
        unit = UNIT_OF.get(step.instruction.name, "")
        cycles = {"integer": 2, "double": self.gpu.fp64_cycles, "slow": 8, "float": self.gpu.fp32_cycles}
        return unit, cycles.get(unit, 1)


def simulate(
    gpu: GPU, first: Sequence[Step], others: Sequence[Step], warps: int, blocks: int, at_once: int, cached: bool
) -> Timing:
    """Runs `blocks` blocks on one multiprocessor.

    Args:
        gpu: whose multiprocessor it is.
        first: what the first warp of a block issues.
        others: what each other warp issues.
        warps: of a block.
        blocks: that the multiprocessor runs, one after the other.
        at_once: blocks that it holds.
        cached: whether the L2 cache answers all reads.
    """
    units, timing = _Units(gpu), Timing(0.0, 0, 0)
    heap: list[tuple[float, int]] = []
    members: list[_Warp] = []
    left: Counter[int] = Counter()
    arrived: dict[int, list[int]] = {}
    started = 0

    def start(now: float) -> None:
        nonlocal started
        for warp in range(warps):
            member = _Warp(started, first if warp == 0 else others, len(members) % SCHEDULERS, ready=now + BLOCK_START)
            members.append(member)
            heapq.heappush(heap, (member.ready, len(members) - 1))
        left[started] = warps
        started += 1

    for _ in range(min(at_once, blocks)):
        start(0.0)
    while heap:
        now, index = heapq.heappop(heap)
        warp = members[index]
        step = warp.steps[warp.at]
        instruction = step.instruction
        may = max((warp.down[i] for i in instruction.waits), default=0.0)
        if may > now:
            slowest = max(instruction.waits, key=lambda i: warp.down[i])
            timing.waited[warp.raised_by[slowest]] += may - now
            heapq.heappush(heap, (may, index))
            continue
        unit, takes = units.unit_of(step)
        free = max(units.issue[warp.scheduler], units.units.get((unit, warp.scheduler), 0.0) if unit else 0.0)
        is_access = instruction.name in ("LDG", "STG", "LDS", "STS", "SHFL", "LD", "ST")
        if is_access:
            free = max(free, units.access - 8)
        if free > now:
            timing.waited["issue"] += free - now
            heapq.heappush(heap, (free, index))
            continue
        timing.issued += 1
        units.issue[warp.scheduler] = now + 1
        timing.busy["issue"] += 1 / SCHEDULERS
        if unit:
            timing.busy[unit] += takes / SCHEDULERS
            units.units[unit, warp.scheduler] = now + takes
        done = now + RESULT_AFTER.get(instruction.name, OTHER_RESULT)
        if is_access and step.runs:
            units.access = max(units.access, now) + step.wavefronts
            timing.busy["access"] += step.wavefronts
        if instruction.reads_memory and step.runs:
            done = _read(units, step, now, cached)
            if not (cached or step.is_shared):
                timing.bytes += step.bytes
        elif instruction.writes_memory and step.runs:
            units.memory = max(units.memory, now) + step.bytes / gpu.bytes_per_cycle
            timing.bytes += step.bytes
        for board, release in ((instruction.raises, done), (instruction.holds, now + OPERANDS_READ)):
            if board is not None and release > warp.down[board]:
                warp.down[board] = release
                warp.raised_by[board] = "memory" if instruction.reads_memory else "results"
        warp.at += 1
        after = now + max(1, instruction.stall)
        timing.cycles = max(timing.cycles, after)
        if warp.at == len(warp.steps):
            left[warp.block] -= 1
            # A block's writes have to be taken by the memory before another comes in its place.
            if left[warp.block] == 0 and started < blocks:
                start(after)
            continue
        if instruction.name == "BAR":
            waiting = arrived.setdefault(warp.block, [])
            waiting.append(index)
            warp.ready = after
            if len(waiting) == warps:
                for other in waiting:
                    timing.waited["barrier"] += after - members[other].ready
                    heapq.heappush(heap, (after + BARRIER, other))
                waiting.clear()
            continue
        heapq.heappush(heap, (after, index))
    timing.cycles = max(timing.cycles, units.memory)
    return timing


def _read(units: _Units, step: Step, now: float, cached: bool) -> float:
    """When a read is back."""
    if cached or step.is_shared:
        return now + units.gpu.cached
    units.memory = max(units.memory, now) + step.bytes / units.gpu.bytes_per_cycle
    return units.memory + units.gpu.latency
