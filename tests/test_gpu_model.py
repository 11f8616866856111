"""The model of kernels on GPUs, on small pieces of machine code."""

from __future__ import annotations

import struct

import pytest
from gpu_model.flight import flight
from gpu_model.gpus import A100, B200, H100
from gpu_model.multiprocessor import BARRIER, BLOCK_START, RESULT_AFTER, simulate
from gpu_model.registers import Place
from gpu_model.sass import Instruction, functions
from gpu_model.walk import walk

LISTING = """
	code for sm_90
		Function : kernel
        /*0000*/                   LDC R1, c[0x0][0x28] ;                          /* 0x00000a00ff017b82 */
                                                                                   /* 0x000ff00000000800 */
        /*0010*/              @!P0 LDG.E.128 R4, desc[UR6][R2.64+0x10] ;           /* 0x0000000402048981 */
                                                                                   /* 0x0050a8000c1e1d00 */
        /*0020*/                   EXIT ;                                          /* 0x000000000000794d */
                                                                                   /* 0x000fea0003800000 */
"""


def code(*lines: str) -> list[Instruction]:
    """Instructions from "predicate | text | scoreboard raised | scoreboards awaited"."""
    found = []
    for number, line in enumerate(lines):
        predicate, text, raises, waits = (part.strip() for part in (line + "|||").split("|")[:4])
        awaited = frozenset(int(board) for board in waits)
        found.append(Instruction(16 * number, text, predicate, raises=int(raises) if raises else None, waits=awaited))
    return found


def place(parameters: bytes = b"", grid: int = 4, block: int = 1, warp: int = 1) -> Place:
    return Place(parameters, 0x210, grid, 64, block, warp)


def test_the_scheduling_bits_of_a_listing_are_read():
    first, second, last = functions(LISTING)["kernel"]
    assert (first.opcode, first.stall, first.raises, first.holds) == ("LDC", 8, None, None)
    assert (second.predicate, second.opcode, second.width, second.reads_memory) == ("!P0", "LDG.E.128", 16, True)
    assert (second.stall, second.raises, second.holds, second.waits) == (4, 2, 0, frozenset({0, 2}))
    assert last.opcode == "EXIT"


def test_a_walk_follows_parameters_and_not_what_it_does_not_know():
    steps = walk(
        code(
            "|ISETP.NE.U32.AND P0, PT, RZ, c[0x0][0x210], PT",
            "|ISETP.NE.AND.EX P0, PT, RZ, c[0x0][0x214], PT, P0",
            "!P0|BRA 0x40",
            "|LDG.E R2, [R4.64]",
            "|FSETP.GT.AND P1, PT, R9, R8, PT",
            "P1|BRA 0x70",
            "|STG.E [R4.64], R2",
            "|EXIT",
        ),
        place(struct.pack("<Q", 0)),
    )
    # A null pointer: the read is left out. Nothing is known of R9, so the write is not.
    assert [step.instruction.name for step in steps] == ["ISETP", "ISETP", "BRA", "FSETP", "BRA", "STG", "EXIT"]


def test_a_walk_counts_a_loop_by_its_numbers():
    steps = walk(
        code(
            "|MOV R0, RZ",
            "|IADD3 R0, R0, 0x1, RZ",
            "|ISETP.GE.AND P0, PT, R0, c[0x0][0x210], PT",
            "!P0|BRA 0x10",
            "|EXIT",
        ),
        place(struct.pack("<I", 5)),
    )
    assert sum(step.instruction.name == "IADD3" for step in steps) == 5


@pytest.mark.parametrize(
    ("scale", "opcode", "spread", "moved", "wavefronts"),
    [
        ("0x10", "LDG.E.128", 16, 512, 4),
        ("0x4", "LDG.E", 4, 128, 1),
        ("0x10", "LDG.E", 16, 128, 4),
        ("0x0", "LDG.E.64", 0, 32, 1),
    ],
)
def test_the_bytes_of_an_access_follow_from_the_addresses_of_neighbours(scale, opcode, spread, moved, wavefronts):
    *_, read, _ = walk(
        code(
            "|S2R R0, SR_TID.X",
            f"|IMAD.WIDE.U32 R2, R0, {scale}, RZ",
            "|IADD3 R4, P0, R2, c[0x0][0x210], RZ",
            "|IADD3.X R5, R3, c[0x0][0x214], RZ, P0, !PT",
            f"|{opcode} R8, desc[UR4][R4.64+0x100]",
            "|EXIT",
        ),
        place(struct.pack("<Q", 0xFFFFFFF0)),
    )
    assert (read.spread, read.bytes, read.wavefronts) == (spread, moved, wavefronts)


def test_64_bit_addresses_carry():
    """The walk would otherwise take two lanes on both sides of 4 GiB for four gigabytes apart."""
    *_, read, _ = walk(
        code(
            "|S2R R0, SR_LANEID",
            "|LEA R4, P0, R0, c[0x0][0x210], 0x4",
            "|LEA.HI.X R5, R0, c[0x0][0x214], RZ, 0x4, P0",
            "|LDG.E.128 R8, [R4.64]",
            "|EXIT",
        ),
        place(struct.pack("<Q", 0xFFFFFFF8), warp=0),
    )
    assert read.spread == 16


LOADS = (
    "|LDG.E.128 R4, [R2.64]|0",
    "|LDG.E.128 R8, [R2.64+0x800]|0",
    "|FADD R4, R4, R8||0",
    "|LDG.E.128 R8, [R2.64+0x1000]|1",
    "|FADD R4, R4, R8||1",
    "|EXIT",
)


def test_reads_in_flight_are_those_asked_for_before_the_first_wait():
    seen = flight(walk(code(*LOADS), place()))
    assert (seen.most, seen.least, seen.narrowest) == (1024, 512, 16)


def test_a_multiprocessor_overlaps_reads_and_not_waits():
    steps = walk(code(*LOADS), place())
    one = simulate(H100, steps, steps, warps=1, blocks=1, at_once=1, cached=False)
    # Two reads that wait for each other.
    assert one.cycles == pytest.approx(BLOCK_START + 2 * H100.latency + 3 * 512 / H100.bytes_per_cycle, rel=0.05)
    many = simulate(H100, steps, steps, warps=8, blocks=40, at_once=8, cached=False)
    assert many.bytes == 40 * 8 * 3 * 512
    # With 64 warps there is always something to read.
    assert many.cycles < 1.3 * many.bytes / H100.bytes_per_cycle
    alone = simulate(H100, steps, steps, warps=8, blocks=40, at_once=1, cached=False)
    assert alone.cycles > 1.5 * many.cycles


def test_a_barrier_waits_for_the_slowest_warp():
    quick = walk(code("|BAR.SYNC 0x0", "|EXIT"), place())
    slow = walk(code("|SHFL.BFLY PT, R0, R1, 0x1, 0x1f|0", "|MOV R2, R0||0", "|BAR.SYNC 0x0", "|EXIT"), place())
    timing = simulate(H100, slow, quick, warps=2, blocks=1, at_once=1, cached=False)
    assert timing.cycles >= BLOCK_START + RESULT_AFTER["SHFL"] + BARRIER


@pytest.mark.parametrize(
    ("gpu", "threads", "registers", "shared", "blocks"),
    [
        (H100, 256, 64, 0, 4),
        (H100, 256, 65, 0, 3),
        (A100, 128, 64, 40 * 1024, 4),
        (B200, 32, 16, 0, 32),
        (A100, 1024, 32, 0, 2),
    ],
)
def test_registers_warps_and_shared_memory_bound_the_blocks_at_once(gpu, threads, registers, shared, blocks):
    assert gpu.blocks_at_once(threads, registers, shared) == blocks
