"""Builds the device code for the CPU, once per state of its sources."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import subprocess
import sysconfig
import tempfile
from pathlib import Path
from types import ModuleType

HERE = Path(__file__).parent
DEVICE_CODE = HERE.parents[1] / "csrc" / "cuda"
COMPILER = os.environ.get("CXX", "g++")
FLAGS = ["-std=c++20", "-pthread", "-Wall", "-Wextra", "-Wno-unknown-pragmas", f"-I{DEVICE_CODE}", f"-I{HERE}"]


def compile_once(source: str, output: str, flags: list[str]) -> Path:
    """Compiles tests/host/``source`` unless the same sources were compiled with the same flags before."""
    key = hashlib.sha256(repr((COMPILER, source, flags)).encode())
    for path in sorted([*DEVICE_CODE.glob("*.cuh"), *HERE.glob("*.h"), HERE / source]):
        key.update(path.read_bytes())
    folder = Path(tempfile.gettempdir()) / f"ldeq-host-kernels-{os.getuid()}"
    folder.mkdir(exist_ok=True)
    target = folder / f"{key.hexdigest()[:16]}-{output}"
    if not target.exists():
        # Renamed when whole: a second test process may be waiting for the same file.
        part = target.with_suffix(f".{os.getpid()}")
        run = subprocess.run(
            [COMPILER, *FLAGS, *flags, str(HERE / source), "-o", str(part)], capture_output=True, text=True, check=False
        )
        if run.returncode:
            raise RuntimeError(f"{source} did not compile:\n{run.stderr}")
        part.rename(target)
    return target


def host_kernels() -> ModuleType:
    """The module that tests/host/bindings.cpp defines."""
    import pybind11

    includes = [f"-I{pybind11.get_include()}", f"-I{sysconfig.get_paths()['include']}"]
    library = compile_once("bindings.cpp", "kernels.so", ["-O1", "-fPIC", "-shared", "-fvisibility=hidden", *includes])
    spec = importlib.util.spec_from_file_location("ldeq_host_kernels", library)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
