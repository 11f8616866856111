"""From the launches of an operator to its predicted time, and what limits it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .flight import Flight, flight
from .gpus import GPU, LAUNCH_GAP_US
from .launches import Launch
from .multiprocessor import Timing, simulate
from .registers import Place
from .walk import Step, walk

# Between the passes of a step: they read what the pass before has just written.
FROM_CACHE = ("decide", "anderson_decide", "fixed_point_decide", "measure_batch")
# The share of a unit's time from which it counts as what limits a kernel.
BOUND = 0.7


@dataclass(frozen=True)
class Prediction:
    """Of one kernel."""

    name: str
    us: float
    bytes: int
    """Of device memory, all blocks together."""
    share: float
    """Of the copy bandwidth."""
    registers: int
    stack: int
    blocks_at_once: int
    waves: float
    flight: Flight
    in_flight_kb: tuple[float, float]
    """In a multiprocessor, the least and the most that is waited for."""
    instructions_per_byte: float
    limit: str


def predict(gpu: GPU, launch: Launch) -> Prediction:
    """The time of one kernel, with nothing else on the GPU."""
    first, others = _warps(gpu, launch)
    warps = launch.threads // 32
    at_once = gpu.blocks_at_once(launch.threads, launch.registers, launch.shared)
    blocks = -(-launch.grid // gpu.multiprocessors)
    timing = simulate(gpu, first, others, warps, blocks, at_once, launch.name.partition("<")[0] in FROM_CACHE)
    moved = _moved(others) * warps * launch.grid
    us = timing.cycles / gpu.clock_ghz / 1e3
    seen = flight(others)
    resident = min(at_once, blocks) * warps / 1024
    issued = (len(others) * (warps - 1) + len(first)) * launch.grid
    share = moved / gpu.copy_bytes_per_s * 1e6 / us
    return Prediction(
        launch.name, us, moved, share, launch.registers, launch.stack, at_once, launch.grid / (gpu.multiprocessors * at_once),
        seen, (seen.least * resident, seen.most * resident), issued / max(moved, 1),
        _limit(timing, share, launch.grid / gpu.multiprocessors / blocks, seen.least * resident),
    )  # fmt: skip


def together(predictions: Sequence[Prediction]) -> float:
    """Microseconds of an operator's launches, one after the other."""
    return sum(p.us for p in predictions) + LAUNCH_GAP_US * (len(predictions) - 1)


def _warps(gpu: GPU, launch: Launch) -> tuple[list[Step], list[Step]]:
    block = min(1, launch.grid - 1)

    def of(warp: int) -> list[Step]:
        return walk(launch.code, Place(launch.parameters, gpu.parameters_at, launch.grid, launch.threads, block, warp))

    first = of(0)
    return first, of(1) if launch.threads > 32 else first


def _moved(steps: Sequence[Step]) -> int:
    memory = (s for s in steps if s.instruction.reads_memory or s.instruction.writes_memory)
    return sum(s.bytes for s in memory if s.runs and not s.is_shared)


def _limit(timing: Timing, share: float, full: float, in_flight_kb: float) -> str:
    if share >= 0.93:
        return "memory"
    unit, busy = max(timing.busy.items(), key=lambda item: item[1])
    if busy >= BOUND * timing.cycles:
        return f"instructions ({unit} unit)"
    if full < 0.9:
        return "blocks: the last wave is not full"
    waits = max(timing.waited, key=lambda what: timing.waited[what])
    if waits == "memory":
        return f"reads wait for reads: {in_flight_kb:.0f} KB in flight" if in_flight_kb < 32 else "latency of reads"
    return {"issue": f"instructions ({unit} unit)", "barrier": "barriers", "results": "latency of results"}[waits]
