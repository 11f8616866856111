"""The CUDA device code compiled by nvcc: no stack, no spills, no more registers than budgets.json records.

LDEQ_FULL_MATRIX=1 compiles for every architecture of the wheel, and PTX; LDEQ_RECORD=1 then writes what it finds to
budgets.json, for a change that is meant to cost registers.
"""

import re
from pathlib import Path

import budgets
import nvcc
import pytest

BUDGETS = Path(__file__).with_name("budgets.json")


needs_nvcc = pytest.mark.skipif(
    nvcc.compiler() is None, reason="nvcc is not installed; install a CUDA toolkit to check the CUDA kernels"
)


@needs_nvcc
def test_kernels_compile_without_spills_and_within_their_budgets():
    table = nvcc.table(nvcc.ARCHITECTURES if budgets.FULL else ("75", "90"))
    for architecture, kernels in table.items():
        for name, use in kernels.items():
            assert use["stack"] == 0 and use["spills"] == 0, f"{architecture} {name}: {use}"
    registers = {a: {name: use["registers"] for name, use in kernels.items()} for a, kernels in table.items()}
    if budgets.FULL:
        nvcc.ptx(nvcc.ARCHITECTURES[-1])
    if budgets.RECORD:
        budgets.write(BUDGETS, nvcc.version(), registers)
    budgets.check(BUDGETS, nvcc.version(), registers, complete=True)


@needs_nvcc
def test_no_write_of_sixteen_bytes_is_taken_apart_and_no_read_waits_for_one():
    found = {
        k: v for unit in ("solver_f32.cu", "softargmax_f32.cu") for k, v in nvcc.accesses("90", nvcc.DEVICE_CODE / unit).items()
    }
    writers = {name: kinds for name, kinds in found.items() if re.search(r" 4(, true)?(, (true|false))?>$", name)}
    assert len(writers) >= 10
    for name, kinds in writers.items():
        if "bf16" not in name or "mix" in name:
            assert "st.v4" in kinds, f"{name}: {kinds}"
    # f, x and eight rows of the history, which a write before them would hold up.
    gram = found["anderson_measure<float, float, 8, 4>"]
    assert gram[: gram.index("st.v4")].count("ld.v4") == 10, gram
