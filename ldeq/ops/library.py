"""Loads the native libraries, built from csrc/ by setup.py, once, and knows why not where it cannot.

`_C` implements the operators of `ldeq.ops.schemas` on the CPU, `_C_cuda` on CUDA. Nothing here starts CUDA: a process that
imports ldeq may still fork.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
from functools import cache
from pathlib import Path
from typing import Any

import torch

from . import schemas  # noqa: F401  (the operators must be defined before a library implements them)

_PACKAGE = Path(__file__).resolve().parent.parent


def _load(name: str) -> str | None:
    """None if the library ldeq/``name`` is loaded now, else the reason why not, in one line."""
    path = _PACKAGE / name
    if not path.exists():
        reason = build_report().get("cuda" if "cuda" in name else "cpu", "built")
        return reason if reason != "built" else f"{name} is missing; reinstall with pip install --no-build-isolation"
    if build_report().get("interface") != interface():
        # Its operators may take other arguments, or be defined twice, which ends the process.
        return f"{name} was built for another state of ldeq; build it anew: pip install --no-build-isolation --editable ."
    try:
        torch.ops.load_library(str(path))
    except OSError as error:
        built = build_report().get("torch", "an unknown torch")
        return (
            f"the native library failed to load in torch {torch.__version__} (built with {built}): {str(error).splitlines()[0]}"
        )
    return None


@cache
def interface() -> str:
    """What a library and this package must agree on, as a hash: the operators, and the layout of their tensors."""
    texts = [(Path(__file__).parent / name).read_bytes() for name in ("schemas.py", "layout.py")]
    return hashlib.sha256(b"".join(texts)).hexdigest()[:16]


@cache
def build_report() -> dict[str, str]:
    """What setup.py wrote down about the build: compilers, torch, hash of the sources, or the reason why there is none."""
    try:
        report = json.loads((_PACKAGE / "_build.json").read_text())
    except (OSError, ValueError):
        return {}
    return {str(k): str(v) for k, v in report.items()} if isinstance(report, dict) else {}


def _load_cuda() -> str | None:
    if torch.version.cuda is None:
        return f"torch {torch.__version__} is built without CUDA"
    return _load("_C_cuda.so") or unsupported(build_report(), driver_version(), gpu_capabilities())


def unsupported(report: dict[str, str], driver: int | None, gpus: list[tuple[int, int]] | None) -> str | None:
    """Why the CUDA kernels of the build `report` cannot run with this driver on these GPUs, or None.

    Args:
        report: as `build_report`; its ``cuda_archs`` is like ``"7.5 8.0 12.0+PTX"``, its ``toolkit`` like ``"13.0"``.
        driver: newest CUDA version that the driver serves, as 13000 for 13.0; None without a driver.
        gpus: compute capabilities; None where they cannot be told, which counts as good.
    """
    if driver is None:
        return "no NVIDIA driver was found"
    toolkit = report.get("toolkit", "0.0")
    if driver // 1000 < int(toolkit.split(".")[0]):
        floor = f" (driver {DRIVER_FLOOR[toolkit.split('.')[0]]} or newer)" if toolkit.split(".")[0] in DRIVER_FLOOR else ""
        return (
            f"the compiled kernels need a driver for CUDA {toolkit}{floor}, and this one serves CUDA "
            f"{driver // 1000}.{driver % 1000 // 10}"
        )
    if gpus is None or any(has_image(report.get("cuda_archs", ""), gpu) for gpu in gpus):
        return None
    if not gpus:
        return "this machine has no NVIDIA GPU"
    found = ", ".join(sorted({f"{major}.{minor}" for major, minor in gpus}))
    return f"no kernel image for a GPU of compute capability {found}; built for {report.get('cuda_archs')}"


# The first driver that serves each major version of the toolkit.
DRIVER_FLOOR = {"12": "525", "13": "580"}


def has_image(archs: str, gpu: tuple[int, int]) -> bool:
    """Machine code runs on its own major version from its minor version upwards, PTX on everything newer."""
    for arch in archs.split():
        major, minor = (int(part) for part in arch.removesuffix("+PTX").split("."))
        if (gpu[0] == major and gpu[1] >= minor) or (arch.endswith("+PTX") and gpu >= (major, minor)):
            return True
    return False


def driver_version() -> int | None:
    """The CUDA version that the driver serves, as 13000 for 13.0; None without a driver."""
    version = ctypes.c_int()
    try:
        status = ctypes.CDLL("libcuda.so.1").cuDriverGetVersion(ctypes.byref(version))
    except OSError:
        return None
    return version.value if status == 0 and version.value > 0 else None


def gpu_capabilities() -> list[tuple[int, int]] | None:
    """Compute capabilities of all GPUs, from the management library, which does not start CUDA; None where it is missing."""
    try:
        nvml = ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:
        return None
    if nvml.nvmlInit_v2() != 0:
        return None
    try:
        return _capabilities(nvml)
    finally:
        nvml.nvmlShutdown()


def _capabilities(nvml: Any) -> list[tuple[int, int]] | None:
    count, found = ctypes.c_uint(), []
    if nvml.nvmlDeviceGetCount_v2(ctypes.byref(count)) != 0:
        return None
    for index in range(count.value):
        handle, major, minor = ctypes.c_void_p(), ctypes.c_int(), ctypes.c_int()
        if nvml.nvmlDeviceGetHandleByIndex_v2(index, ctypes.byref(handle)) != 0:
            return None
        if nvml.nvmlDeviceGetCudaComputeCapability(handle, ctypes.byref(major), ctypes.byref(minor)) != 0:
            return None
        found.append((major.value, minor.value))
    return found


MISSING: str | None = _load("_C.so")
"""Why the CPU library is missing; None if it is there."""

CUDA_MISSING: str | None = _load_cuda()
"""Why the CUDA kernels cannot run here; None where they can."""


def show_config(*, verbose: bool = True) -> dict[str, str]:
    """What the native libraries of this installation are: compilers, architectures, source hash, and whether they run here.

    Args:
        verbose: print it too.

    Returns:
        the same as a dictionary.
    """
    report, archs = build_report(), build_report().get("cuda_archs")
    built_cuda = archs is not None and (_PACKAGE / "_C_cuda.so").exists()
    toolkit = report.get("toolkit", "")
    found = {
        "sources": report.get("sources", "unknown"),
        "built with": f"torch {report['torch']}; loads in torch 2.10 and newer" if "torch" in report else "nothing",
        "cpu": f"built by {report['compiler']}" if "compiler" in report else "not built",
        "cpu runs": MISSING or "yes",
        "cuda": f"built by nvcc {report.get('nvcc')} for {archs}" if built_cuda else "not built",
        "cuda runs": _reason(CUDA_MISSING) if CUDA_MISSING else "yes",
    }
    if built_cuda:
        floor = DRIVER_FLOOR.get(toolkit.split(".")[0])
        found["cuda needs"] = f"a driver for CUDA {toolkit}" + (f", {floor} or newer" if floor else "")
    if verbose:
        for name, value in found.items():
            print(f"{name:<12} {value}")
    return found


def _reason(missing: str) -> str:
    """Triton compiles for the GPU and driver that it finds, so it serves where ready-made kernels cannot."""
    takes_over = torch.version.cuda is not None and driver_version() is not None
    return f"no: {missing}" + ("; Triton takes over" if takes_over else "")
