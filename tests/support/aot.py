"""Compiles the Triton kernels ahead of time, without a GPU, and reports registers, stack and reads of each.

`python tests/support/aot.py [--all] TARGET ...` prints a JSON table, for targets like sm_90 and gfx942. Tests run it in a
process of its own, since theirs has Triton's interpreter on.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

NVIDIA = ("sm_80", "sm_90", "sm_100", "sm_120")
AMD = ("gfx90a", "gfx942")


@dataclass
class Case:
    """One way to compile a kernel. `types` are those of pointers that are not listed in `POINTERS`."""

    label: str
    module: str
    kernel: str
    constants: dict[str, Any]
    warps: int
    types: dict[str, str] = field(default_factory=dict)
    even: bool = True
    """Sizes and strides are multiples of 16, as LDEQ's are; Triton compiles other code where they are not."""


def cases(everything: bool, target: str) -> Iterator[Case]:
    """Every kernel at LDEQ's sizes in one type, or with ``everything`` each type and launch shape."""
    for dtype in (
        ("fp32", "bf16", "fp16") if everything else ("fp32",) if target in ("sm_80", "sm_100", "gfx90a") else ("bf16",)
    ):
        yield from softargmax_cases(dtype, everything)
        yield from solver_cases(dtype, everything)
    flags: dict[str, Any] = {"RELATIVE": True, "SUM": 64}
    for rows in (1, 2, 4, 8, 16) if everything else (8, 16):
        for batch in (False, True) if everything else (False,):
            constants = {**flags, "MOVES": True, "BATCH_STOP": batch, "SAFEGUARDS": True, "N": rows}
            yield Case(f"anderson_decide m {rows}{' batch' if batch else ''}", "anderson", "anderson_decide", constants, 1)
    for batch in (False, True):
        name = f"fixed_point_decide{' batch' if batch else ''}"
        yield Case(name, "fixed_point", "fixed_point_decide", {**flags, "BATCH_STOP": batch}, 1)
    yield Case("measure_batch", "sample_state", "measure_batch", flags, 1)


def softargmax_cases(dtype: str, everything: bool) -> Iterator[Case]:
    types = dict.fromkeys(("maps", "heatmap", "grad_heatmap", "grad_maps"), dtype)
    shapes = [(4096, True, 8), (2048, False, 8)]
    more = [(32, True, 1), (512, True, 1), (2048, True, 4), (8192, True, 16)]
    for block, hold, warps in shapes + (more if everything else []):
        for what in (" betas", " one beta", " readout") if everything else (" betas", " one beta"):
            normalise, betas = what != " readout", what == " betas"
            for even in (True, False) if everything else (True,):
                shape = {"NORMALISE": normalise, "BETAS": betas, "HOLD": hold, "BLOCK": block}
                name = f"{dtype} {'held' if hold else 'streamed'} {block}{what}{'' if even else ' odd'}"
                keep = {**shape, "KEEP": normalise}
                yield Case(f"softargmax_forward {name}", "softargmax", "softargmax_forward", keep, warps, types, even)
                both = {**shape, "HAS_HEATMAP": True}
                yield Case(f"softargmax_backward {name}", "softargmax", "softargmax_backward", both, warps, types, even)


def solver_cases(dtype: str, everything: bool) -> Iterator[Case]:
    tiles = {8: 1024, 16: 512, **({1: 1024, 2: 1024, 4: 1024} if everything else {})}
    cast = {"MOVES": True, "EVICTS": True, "CAST": dtype != "fp32"}
    for g in ("fp32", "bf16") if everything else (dtype,):
        types = {**dict.fromkeys(("f", "x_cast", "evicted", "saved_best", "start", "out", "ring"), dtype), "g": g}
        for rows, block in tiles.items():
            for even in (True, False) if everything else (True,):
                name = f"{dtype} g {g} m {rows}{'' if even else ' odd'}"
                gram = {"MOVES": True, "BATCH_STOP": False, "N": rows, "BLOCK": block}
                yield Case(f"anderson_measure {name}", "anderson", "anderson_measure", gram, 8, types, even)
                mix = {**cast, "DAMPED": True, "N": rows, "BLOCK": block}
                yield Case(f"anderson_mix {name}", "anderson", "anderson_mix", mix, 4, types, even)
    for even in (True, False) if everything else (True,):
        name = f"{dtype}{'' if even else ' odd'}"
        move = {"MOVES": True, "CAST": dtype != "fp32", "BATCH_STOP": False, "BLOCK": 1024}
        yield Case(f"fixed_point_measure {name}", "fixed_point", "fixed_point_measure", move, 4, types, even)
        yield Case(f"fixed_point_undo {name}", "fixed_point", "fixed_point_undo", {**cast, "BLOCK": 1024}, 4, types, even)
        yield Case(f"best_so_far {name}", "sample_state", "best_so_far", {"N": 8, "BLOCK": 1024}, 4, types, even)


# Types of parameters that are not fp32 pointers.
POINTERS = {
    "flags": "i64", "todo": "i32", "measurements": "fp64", "gram": "fp64", "stats": "fp64", "betas": "fp64",
    "grad_betas": "fp64",
}  # fmt: skip
FLOATS = {"beta", "eps", "scale_x", "offset_x", "scale_y", "offset_y", "tol", "ridge"}
LONGS = {"stride_b", "stride_k", "stride_h", "stride_w", "stride", "size"}
INTEGERS = {
    "channels", "height", "width", "beta_stride", "tiles", "n", "m", "slot", "columns", "column", "batch", "first",
}  # fmt: skip


def type_of(name: str, case: Case) -> str | tuple[str, ...]:
    if name in case.constants:
        return "constexpr"
    if name in FLOATS:
        return "fp32"
    if name in LONGS | INTEGERS:
        return "i64" if name in LONGS else "i32"
    pointer = "*" + case.types.get(name, POINTERS.get(name, "fp32"))
    return (pointer,) * case.constants["N"] if name == "ring" else pointer


def compiled(case: Case, target: str) -> dict[str, int]:
    import importlib

    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    function = getattr(importlib.import_module(f"ldeq.kernels.{case.module}"), case.kernel)
    signature = {name: type_of(name, case) for name in function.arg_names}
    # torch allocates on 512 bytes: pointers are aligned to 16 at run time too.
    even = (LONGS | {"width"} if case.module == "softargmax" else LONGS) if case.even else set()
    attributes: dict[tuple[int, ...], list[list[Any]]] = {}
    for i, (name, kind) in enumerate(signature.items()):
        if isinstance(kind, tuple):
            attributes |= {(i, j): [["tt.divisibility", 16]] for j in range(len(kind))}
        elif kind.startswith("*") or name in even:
            attributes[(i,)] = [["tt.divisibility", 16]]
    source = ASTSource(function, signature, constexprs=case.constants, attrs=attributes)
    # The data centre GPUs of AMD run 64 threads in a wave.
    gpu = GPUTarget("hip", target, 64) if target in AMD else GPUTarget("cuda", int(target.removeprefix("sm_")), 32)
    binary = triton.compile(source, target=gpu, options={"num_warps": case.warps})
    if target in AMD:
        return used_by_amd(binary.asm["amdgcn"]) | {"warps": case.warps}
    reads = len(re.findall(r"tt\.load [^\n]*tensor<", binary.asm["ttgir"]))
    return used_by_nvidia(binary.asm["cubin"]) | {"block_reads": reads}


def used_by_nvidia(cubin: bytes) -> dict[str, int]:
    import triton

    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        report = subprocess.run([tool, "--dump-resource-usage", file.name], capture_output=True, text=True, check=True).stdout
    found = {key: int(value) for key, value in re.findall(r"(REG|STACK|LOCAL):(\d+)", report)}
    return {"registers": found["REG"], "stack": found["STACK"] + found["LOCAL"]}


def used_by_amd(assembly: str) -> dict[str, int]:
    """What the kernel's descriptor says at the end of the assembly."""
    found = {name: int(value) for name, value in re.findall(r"^\s+\.([a-z_]+): +(\d+)$", assembly, re.MULTILINE)}
    return {
        "registers": found["vgpr_count"],
        "stack": found["private_segment_fixed_size"],
        "spills": found["vgpr_spill_count"] + found["sgpr_spill_count"],
        "wave": found["wavefront_size"],
        "threads": found["max_flat_workgroup_size"],
    }


def table(everything: bool, targets: Sequence[str]) -> dict[str, dict[str, dict[str, int]]]:
    """{"sm_90": {label: {"registers": .., "stack": .., "block_reads": ..}}}"""
    jobs = [(case, target) for target in targets for case in cases(everything, target)]
    out: dict[str, dict[str, dict[str, int]]] = {target: {} for target in targets}
    with ProcessPoolExecutor(max_workers=2) as pool:
        for (case, target), found in zip(jobs, pool.map(compiled, *zip(*jobs, strict=True), chunksize=4), strict=True):
            out[target][case.label] = found
    return out


if __name__ == "__main__":
    import triton

    asked = [argument for argument in sys.argv[1:] if argument != "--all"]
    json.dump(
        {"compiler": f"triton {triton.__version__}", "kernels": table("--all" in sys.argv, asked or NVIDIA)},
        sys.stdout,
        indent=1,
    )
