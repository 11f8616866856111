"""Compiles the Triton kernels ahead of time, without a GPU, and reports registers and stack of each.

`python tests/kernels/aot.py [--all]` prints a JSON table; run apart from the tests, whose process has Triton's interpreter on.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

TARGETS = (80, 90, 100, 120)
SHORT = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}


def cases(everything: bool) -> list[tuple[str, str, str, dict[str, str], dict[str, Any], int]]:
    """(label, module, kernel, types of the pointers, constants, warps). Pointers that are not named are fp32."""
    out: list[tuple[str, str, str, dict[str, str], dict[str, Any], int]] = []
    dtypes = ("fp32", "bf16", "fp16") if everything else ("fp32", "bf16")
    for d in dtypes:
        maps = {"maps": d, "heatmap": d, "grad_heatmap": d, "grad_maps": d}
        for block, hold, warps in (
            (4096, True, 8),
            (4096, False, 8),
            *(((512, True, 1), (16384, True, 16)) if everything else ()),
        ):
            for normalise in (True, False) if everything else (True,):
                c = {"NORMALISE": normalise, "HOLD": hold, "BLOCK": block}
                name = f"{d} {'held' if hold else 'streamed'} {block}{'' if normalise else ' readout'}"
                out.append((f"softargmax_forward {name}", "softargmax", "softargmax_forward", maps, c, warps))
                out.append(
                    (
                        f"softargmax_backward {name}",
                        "softargmax",
                        "softargmax_backward",
                        maps,
                        {**c, "HAS_HEATMAP": True},
                        warps,
                    )
                )
        for g in ("fp32", "bf16") if everything else (d,):
            for n, block in ((8, 1024), (16, 512), *(((1, 2048), (4, 1024)) if everything else ())):
                types = {"fx": d, "f": d, "g": g, "value": d, "x_cast": d}
                name = f"{d} g {g} m {n}"
                c = {"RETURNS_X": False, "N": n, "BLOCK": block}
                out.append((f"anderson_gram {name}", "anderson", "anderson_gram", types, c, 4))
                out.append(
                    (f"anderson_mix {name}", "anderson", "anderson_mix", types, {**c, "CAST": d != "fp32", "DAMPED": True}, 4)
                )
        types = {"fx": d, "x_cast": d, "ring": d, "value": d}
        c = {"CAST": d != "fp32", "RETURNS_X": False, "BLOCK": 2048}
        out.append((f"fixed_point_move {d}", "fixed_point", "fixed_point_move", types, c, 4))
    for n in (8, 16):
        c = {"RELATIVE": True, "RETURNS_X": False, "SAFEGUARDS": True, "N": n, "SUM": 64}
        out.append((f"anderson_solve m {n}", "anderson", "anderson_solve", {}, c, 1))
    out.append(("fixed_point_record", "fixed_point", "fixed_point_record", {}, {"RELATIVE": True, "SUM": 64}, 1))
    out.append(("finish", "progress", "finish", {}, {"BLOCK": 2048}, 8))
    return out


# Types of parameters that are not fp32 pointers.
POINTERS = {
    "active": "u8", "valid": "u8", "mixed": "u8", "status": "i64", "iterations": "i64", "best_slot": "i32", "gram": "fp64",
}  # fmt: skip
SCALARS = {
    **dict.fromkeys(("eps", "scale_x", "offset_x", "scale_y", "offset_y", "tol", "ridge"), "fp32"),
    **dict.fromkeys(("stride_b", "stride_k", "stride_h", "stride_w", "stride", "size"), "i64"),
    **dict.fromkeys(
        (
            "channels",
            "height",
            "width",
            "beta_stride",
            "tiles",
            "n",
            "m",
            "slot",
            "full",
            "columns",
            "batch",
            "step",
            "last",
            "leaving",
        ),
        "i32",
    ),
}


def compiled(
    case: tuple[str, str, str, dict[str, str], dict[str, Any], int], capability: int
) -> tuple[str, int, dict[str, int]]:
    import importlib

    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    label, module, kernel, types, constants, warps = case
    function = getattr(importlib.import_module(f"ldeq.kernels.{module}"), kernel)
    signature = {}
    for name in function.arg_names:
        if name in constants:
            signature[name] = "constexpr"
        elif name == "beta" and module != "softargmax":
            signature[name] = "fp32"
        elif name in SCALARS:
            signature[name] = SCALARS[name]
        else:
            signature[name] = "*" + types.get(name, POINTERS.get(name, "fp32"))
    # torch allocates on 512 bytes, so every pointer is aligned to 16 at run time too; sizes are those of LDEQ.
    aligned = [i for i, n in enumerate(function.arg_names) if signature[n].startswith("*") or n in ("size", "stride", "width")]
    attributes = {(i,): [["tt.divisibility", 16]] for i in aligned}
    source = ASTSource(function, signature, constexprs=constants, attrs=attributes)
    binary = triton.compile(source, target=GPUTarget("cuda", capability, 32), options={"num_warps": warps}).asm["cubin"]
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(binary)
        file.flush()
        report = subprocess.run([tool, "--dump-resource-usage", file.name], capture_output=True, text=True, check=True).stdout
    found = {key: int(value) for key, value in re.findall(r"(REG|STACK|LOCAL):(\d+)", report)}
    return label, capability, {"registers": found["REG"], "stack": found["STACK"] + found["LOCAL"]}


def table(everything: bool) -> dict[str, dict[str, dict[str, int]]]:
    """{"sm_90": {label: {"registers": .., "stack": ..}}}"""
    jobs = [(case, capability) for capability in TARGETS for case in cases(everything)]
    out: dict[str, dict[str, dict[str, int]]] = {f"sm_{c}": {} for c in TARGETS}
    with ProcessPoolExecutor(max_workers=2) as pool:
        for label, capability, found in pool.map(compiled, *zip(*jobs, strict=True), chunksize=4):
            out[f"sm_{capability}"][label] = found
    return out


if __name__ == "__main__":
    import triton

    json.dump({"compiler": f"triton {triton.__version__}", "kernels": table("--all" in sys.argv)}, sys.stdout, indent=1)
