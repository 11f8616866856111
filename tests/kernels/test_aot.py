"""The Triton kernels compiled ahead of time, for four generations of NVIDIA's GPUs and two of AMD's: no stack, and for NVIDIA
no more registers than recorded.

LDEQ_FULL_MATRIX=1 compiles every type and launch shape; LDEQ_RECORD=1 then writes what it finds to budgets.json, for a change
that is meant to cost registers.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import aot
import budgets
import pytest
from triton.backends import backends

HERE = Path(__file__).parent
BUDGETS = HERE / "budgets.json"


def compiled(cache: Path, *arguments: str) -> dict[str, Any]:
    """In a process of its own: in this one the kernels are the interpreter's. Its own cache, or nothing would be compiled."""
    environment = {**os.environ, "TRITON_CACHE_DIR": str(cache), "TRITON_DEFAULT_FP_FUSION": "1"}
    environment.pop("TRITON_INTERPRET", None)
    run = subprocess.run(
        [sys.executable, str(HERE.parent / "support" / "aot.py"), *(["--all"] if budgets.FULL else []), *arguments],
        capture_output=True, text=True, env=environment, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr[-3000:]
    found: dict[str, Any] = json.loads(run.stdout)
    return found


def test_kernels_compile_within_their_budgets(tmp_path):
    found = compiled(tmp_path)
    for architecture, kernels in found["kernels"].items():
        for name, use in kernels.items():
            assert use["stack"] == 0, f"{architecture} {name} uses {use['stack']} bytes of stack"
            # Held maps are read once: the map, and in the backward pass the gradient of the heatmap.
            if "held" in name and "readout" not in name:
                assert use["block_reads"] == (2 if "backward" in name else 1), f"{architecture} {name}: {use}"
    registers = {a: {name: use["registers"] for name, use in kernels.items()} for a, kernels in found["kernels"].items()}
    if budgets.RECORD:
        budgets.write(BUDGETS, found["compiler"], registers)
    budgets.check(BUDGETS, found["compiler"], registers, complete=budgets.FULL)


# XPUs are served by a Triton of Intel's own, which PyPI's does not hold.
@pytest.mark.skipif("amd" not in backends, reason="this Triton has no compiler for AMD; PyPI's has")
@pytest.mark.parametrize("target", aot.AMD if budgets.FULL else aot.AMD[-1:])
def test_kernels_compile_for_waves_of_64_threads(tmp_path, target):
    for name, use in compiled(tmp_path, target)["kernels"][target].items():
        assert use["stack"] == use["spills"] == 0, f"{target} {name}: {use}"
        assert use["wave"] == 64 and use["threads"] == 64 * use["warps"] <= 1024, f"{target} {name}: {use}"


def test_every_kernel_is_compiled():
    """A kernel that is added without a case would not be checked."""
    helpers = ("decide", "sum_tiles", "scale_of", "sum_of_squares", "measure", "mean_residual")
    known = {(case.module, case.kernel) for case in aot.cases(False, "sm_90")}
    for module in ("softargmax", "anderson", "fixed_point", "sample_state"):
        text = (HERE.parents[1] / "kernels" / f"{module}.py").read_text()
        for block in text.split("@triton.jit")[1:]:
            name = block.split("\ndef ", 1)[1].split("(", 1)[0]
            helper = name.startswith("_") or name in helpers
            assert helper or (module, name) in known, f"{module}.{name} has no case in aot.py"
