"""Recorded budgets of compiled kernels: registers by architecture, one row a kernel. Stack and spills must be 0, so no record
holds them."""

from __future__ import annotations

import json
import os
from pathlib import Path

Registers = dict[str, dict[str, int]]
"""{"sm_90": {kernel: registers}}"""

FULL = os.environ.get("LDEQ_FULL_MATRIX") == "1"
"""Whether to compile for every architecture, type and launch shape."""
RECORD = FULL and os.environ.get("LDEQ_RECORD") == "1"


def write(path: Path, compiler: str, found: Registers) -> None:
    """Replaces the record at `path` by what was `found`."""
    architectures = list(found)
    names = sorted({name for kernels in found.values() for name in kernels})
    rows = [f"  {json.dumps(name)}: {[found[a].get(name) for a in architectures]}".replace("None", "null") for name in names]
    lines = [
        "{",
        f' "compiler": {json.dumps(compiler)},',
        f' "architectures": {json.dumps(architectures)},',
        ' "registers": {',
        ",\n".join(rows),
        " }",
        "}",
    ]
    path.write_text("\n".join(lines) + "\n")


def read(path: Path) -> tuple[str, Registers]:
    """The compiler that the record was made with, and what it found."""
    record = json.loads(path.read_text())
    found: Registers = {architecture: {} for architecture in record["architectures"]}
    for name, row in record["registers"].items():
        for architecture, registers in zip(record["architectures"], row, strict=True):
            if registers is not None:
                found[architecture][name] = registers
    return record["compiler"], found


def check(path: Path, compiler: str, found: Registers, *, complete: bool) -> None:
    """Fails if a kernel has no row, or needs more registers than its row says (another compiler may allocate differently).

    Args:
        path: the record.
        compiler: the name and version of the compiler at hand.
        found: what it needs.
        complete: every kernel was compiled, so a row of no kernel is an error as well.
    """
    recorded_by, budgets = read(path)
    for architecture, kernels in found.items():
        missing = kernels.keys() - budgets[architecture].keys()
        assert not missing, f"{architecture} has no budget for {sorted(missing)}; run with LDEQ_FULL_MATRIX=1 LDEQ_RECORD=1"
        stale = budgets[architecture].keys() - kernels.keys() if complete else set()
        assert not stale, f"{architecture} has budgets of kernels that are gone: {sorted(stale)}"
        if recorded_by == compiler:
            over = {name: used for name, used in kernels.items() if used > budgets[architecture][name]}
            assert not over, f"{architecture}: more registers than {path} allows: {over}"
