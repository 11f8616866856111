"""The hot CUDA kernels read memory in wide pieces and ask for much at once, at the paper's sizes on an H100.

access_budgets.json records both for each kernel; LDEQ_FULL_MATRIX=1 LDEQ_RECORD=1 writes what is found. `make gpu-model` says
what it means for the time.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import budgets
import nvcc
import pytest
from gpu_model.gpus import H100
from gpu_model.launches import Case, cases, cuda_launches
from gpu_model.prediction import Prediction, predict

BUDGETS = Path(__file__).with_name("access_budgets.json")
ACCESS = ("narrowest_load", "least_in_flight", "most_in_flight")

pytestmark = pytest.mark.skipif(nvcc.compiler() is None, reason="nvcc is not installed; install a CUDA toolkit")


@cache
def found() -> list[tuple[Case, list[Prediction]]]:
    every = [case for kind in ("f32", "bf16") for case in cases(4, kind)]
    return [(case, [predict(H100, launch) for launch in cuda_launches(case, H100)]) for case in every]


def access(p: Prediction) -> dict[str, int]:
    """Bytes of a thread's narrowest read, and those that a warp has asked for when it waits."""
    return dict(zip(ACCESS, (p.flight.narrowest, p.flight.least, p.flight.most), strict=True))


def test_no_kernel_reads_in_narrower_pieces_or_asks_for_less_at_once_than_recorded(host_library):
    seen = {f"{case.name}: {p.name}": access(p) for case, kernels in found() for p in kernels if p.bytes > case.bytes // 10}
    if budgets.RECORD:
        rows = ",\n".join(f"  {json.dumps(name)}: {json.dumps(row)}" for name, row in sorted(seen.items()))
        BUDGETS.write_text(f'{{\n "compiler": {json.dumps(nvcc.version())},\n "kernels": {{\n{rows}\n }}\n}}\n')
    record = json.loads(BUDGETS.read_text())
    assert seen.keys() == record["kernels"].keys()
    if record["compiler"] == nvcc.version():
        less = {name: (row, record["kernels"][name]) for name, row in seen.items() if below(row, record["kernels"][name])}
        assert not less, f"found and recorded: {less}"


def below(row: dict[str, int], recorded: dict[str, int]) -> bool:
    return any(row[key] < recorded[key] for key in ACCESS)


def test_kernels_move_no_more_bytes_than_their_operator_must(host_library):
    """The walk through the machine code agrees with the formulas of ldeq/ops: it went the way that a GPU goes."""
    for case, kernels in found():
        moved = sum(p.bytes for p in kernels)
        assert case.bytes <= moved <= 1.02 * case.bytes, (case.name, case.kind, moved, case.bytes)
