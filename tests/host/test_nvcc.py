"""The CUDA device code compiled by nvcc: no stack, no spills, no more registers than recorded in csrc/cuda/budgets.json.

LDEQ_FULL_MATRIX=1 compiles for every architecture of the wheel, and PTX; LDEQ_RECORD=1 then writes what it finds to
budgets.json, for a change that is meant to cost registers.
"""

import json
import os

import nvcc
import pytest

BUDGETS = nvcc.DEVICE_CODE / "budgets.json"


needs_nvcc = pytest.mark.skipif(
    nvcc.compiler() is None, reason="nvcc is not installed; install a CUDA toolkit to check the CUDA kernels"
)


@needs_nvcc
def test_kernels_compile_without_spills_and_within_their_budgets():
    full = os.environ.get("LDEQ_FULL_MATRIX") == "1"
    found = {"compiler": nvcc.version(), "kernels": nvcc.table(nvcc.ARCHITECTURES if full else ("75", "90"))}
    if full:
        nvcc.ptx(nvcc.ARCHITECTURES[-1])
        if os.environ.get("LDEQ_RECORD") == "1":
            BUDGETS.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n")
    budgets = json.loads(BUDGETS.read_text())
    for architecture, kernels in found["kernels"].items():
        assert kernels.keys() == budgets["kernels"][architecture].keys()
        for name, use in kernels.items():
            assert use["stack"] == 0 and use["spills"] == 0, f"{architecture} {name}: {use}"
            # Another compiler may allocate differently; it may not spill.
            if budgets["compiler"] == found["compiler"]:
                assert use["registers"] <= budgets["kernels"][architecture][name]["registers"], f"{architecture} {name}: {use}"


@needs_nvcc
def test_no_write_of_sixteen_bytes_is_taken_apart_and_no_read_waits_for_one():
    found = {
        k: v for unit in ("solver_f32.cu", "softargmax_f32.cu") for k, v in nvcc.accesses("90", nvcc.DEVICE_CODE / unit).items()
    }
    writers = {name: kinds for name, kinds in found.items() if name.endswith((" 4>", " 4, true>")) and "repair" not in name}
    assert len(writers) >= 10
    for name, kinds in writers.items():
        if "bf16" not in name or "mix" in name:
            assert "st.v4" in kinds, f"{name}: {kinds}"
    # f, x and eight rows of the history, which a write before them would hold up.
    gram = found["anderson_gram<float, float, 8, 4>"]
    assert gram[: gram.index("st.v4")].count("ld.v4") == 10, gram
