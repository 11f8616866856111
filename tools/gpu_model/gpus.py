"""Figures of the GPUs that the model is made for.

Counts, clocks and bandwidths are NVIDIA's data sheets, throughputs the table "Arithmetic Instructions" of the CUDA C++
Programming Guide. Latencies and the share of the peak that a copy reaches are those of published microbenchmarks, to be
replaced by what is measured once a GPU is at hand.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class GPU:
    name: str
    capability: int
    parameters_at: int
    """Where a kernel's parameters start in the bank of constants."""
    multiprocessors: int
    clock_ghz: float
    peak_gb_s: float
    copy_share: float
    """Of the peak, by a large copy."""
    latency: int
    """Cycles of a read from device memory, with nothing in the way."""
    cached: int
    """Cycles of a read that the L2 cache answers."""
    fp32_cycles: int
    """Between two instructions of a warp scheduler to the unit: 32 lanes over those that a scheduler has."""
    fp64_cycles: int
    registers: int = 65536
    warps: int = 64
    blocks: int = 32
    shared: int = 0
    """Bytes of shared memory for blocks, each of which takes 1 KB more than it asks for."""

    @property
    def copy_bytes_per_s(self) -> float:
        return self.peak_gb_s * 1e9 * self.copy_share

    @property
    def bytes_per_cycle(self) -> float:
        """A multiprocessor's part of the copy bandwidth."""
        return self.copy_bytes_per_s / self.multiprocessors / (self.clock_ghz * 1e9)

    def blocks_at_once(self, threads: int, registers: int, shared: int) -> int:
        """Blocks that a multiprocessor holds; registers are handed out to warps by 256."""
        warps = threads // 32
        by_registers = self.registers // (-(-max(registers, 1) * 32 // 256) * 256) // warps
        return max(1, min(self.blocks, self.warps // warps, by_registers, self.shared // (shared + 1024)))


# The driver keeps launches of a stream this far apart, and the first block starts so long after its launch.
LAUNCH_GAP_US = 1.0

A100 = GPU("A100", 80, 0x160, 108, 1.41, 2039, 0.90, 560, 260, 2, 4, shared=164 * 1024)
H100 = GPU("H100", 90, 0x210, 132, 1.75, 3352, 0.91, 650, 270, 1, 2, shared=228 * 1024)
B200 = GPU("B200", 100, 0x380, 148, 1.85, 8000, 0.90, 800, 300, 1, 2, shared=228 * 1024)

GPUS = (A100, H100, B200)
