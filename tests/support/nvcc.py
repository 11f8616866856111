"""Compiles the CUDA device code with nvcc, which needs no GPU, and reports registers, stack and spills of every kernel."""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

DEVICE_CODE = Path(__file__).parents[2] / "csrc" / "cuda"
ARCHITECTURES = ("75", "80", "86", "89", "90", "100", "120")
# The files that hold the kernels, which know nothing of torch; what registers them as operators is not compiled here.
UNITS = sorted(DEVICE_CODE.glob("*_*16.cu")) + sorted(DEVICE_CODE.glob("*_f32.cu")) + sorted(DEVICE_CODE.glob("*_f64.cu"))

Use = dict[str, int]


def compiler() -> str | None:
    return shutil.which("nvcc")


def version() -> str:
    text = subprocess.run([str(compiler()), "--version"], capture_output=True, text=True, check=True).stdout
    return "nvcc " + text.rsplit(" V", 1)[-1].split()[0]


def table(architectures: tuple[str, ...]) -> dict[str, dict[str, Use]]:
    """{"sm_90": {kernel: {"registers": .., "stack": .., "spills": ..}}}"""
    jobs = [(a, unit) for a in architectures for unit in UNITS]
    out: dict[str, dict[str, Use]] = {f"sm_{a}": {} for a in architectures}
    with ThreadPoolExecutor(2) as pool:
        for (a, _), found in zip(jobs, pool.map(lambda job: compile_unit(*job), jobs), strict=True):
            out[f"sm_{a}"] |= found
    return out


def compile_unit(architecture: str, unit: Path) -> dict[str, Use]:
    target = f"-gencode=arch=compute_{architecture},code=sm_{architecture}"
    with tempfile.TemporaryDirectory() as folder:
        log = _nvcc(target, "-cubin", "-Xptxas", "-v", str(unit), "-o", f"{folder}/unit.cubin")
    out: dict[str, Use] = {}
    pattern = (
        r"Function properties for (\S+)\n\s*(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads\n"
        r"ptxas info\s*: Used (\d+) registers"
    )
    for name, stack, stores, loads, registers in re.findall(pattern, log):
        out[_readable(name)] = {"registers": int(registers), "stack": int(stack), "spills": int(stores) + int(loads)}
    return out


def cubin(architecture: str, unit: Path, to: Path) -> None:
    """Compiles one file to machine code."""
    _nvcc(f"-gencode=arch=compute_{architecture},code=sm_{architecture}", "-cubin", str(unit), "-o", str(to))


def ptx(architecture: str) -> None:
    """Compiles to PTX, which GPUs newer than all of `ARCHITECTURES` take."""
    for unit in UNITS:
        ptx_of(architecture, unit)


def ptx_of(architecture: str, unit: Path) -> str:
    """The PTX of one file."""
    with tempfile.TemporaryDirectory() as folder:
        _nvcc(f"-arch=compute_{architecture}", "-ptx", str(unit), "-o", f"{folder}/unit.ptx")
        return Path(f"{folder}/unit.ptx").read_text()


def accesses(architecture: str, unit: Path) -> dict[str, list[str]]:
    """{kernel: its reads and writes of global memory in the order of the PTX, like "ld.v4" and "st"}."""
    found = {}
    for name, body in re.findall(r"\.entry (\w+)\((.*?)^}", ptx_of(architecture, unit), re.S | re.M):
        kinds = re.findall(r"\b(ld|st)\.global(?:\.nc)?(\.v[248])?", body)
        found[_readable(name)] = [kind + width for kind, width in kinds]
    return found


def _nvcc(*flags: str) -> str:
    command = [str(compiler()), "-std=c++17", "-O3", *flags]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    if run.returncode:
        raise RuntimeError(run.stderr)
    return run.stderr


def _readable(mangled: str) -> str:
    """anderson_mix<float, float, 8, 4> for its mangled name."""
    return readable(subprocess.run(["c++filt", mangled], capture_output=True, text=True, check=True).stdout)


def readable(name: str) -> str:
    """anderson_mix<float, float, 8, 4> for "void ldeq::anderson_mix<float, float, 8, 4>(...)"."""
    name = name.split("ldeq::", 1)[1].rsplit(">(", 1)[0] + ">"
    return name.replace("__nv_bfloat16", "bf16").replace("__half", "half").strip()
