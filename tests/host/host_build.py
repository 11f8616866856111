"""Builds the device code for the CPU, once per state of its sources: operators for torch, a program for the sanitizers."""

from __future__ import annotations

import hashlib
import os
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

HERE = Path(__file__).parent
SOURCES = HERE.parents[1] / "csrc"
DEVICE_CODE = SOURCES / "cuda"
COMPILER = os.environ.get("CXX", "g++")
FLAGS = ["-std=c++20", "-pthread", "-Wall", "-Wextra", "-Wno-unknown-pragmas", f"-I{DEVICE_CODE}", f"-I{HERE}"]


def compile_once(source: Path, output: str, flags: list[str]) -> Path:
    """Compiles ``source`` unless the same sources were compiled with the same flags before."""
    key = hashlib.sha256(repr((COMPILER, str(source), flags)).encode())
    read = [*SOURCES.glob("*.h"), *DEVICE_CODE.glob("*.*h"), *HERE.glob("*.h"), source]
    # The program for the sanitizers includes the files that hold the kernels.
    for path in sorted([*read, *(DEVICE_CODE.glob("*_*.cu") if source.parent == HERE else [])]):
        key.update(path.read_bytes())
    return once(key, output, [*FLAGS, *flags, "-x", "c++", str(source)])


def once(key: hashlib._Hash, output: str, arguments: list[str]) -> Path:
    folder = Path(tempfile.gettempdir()) / f"ldeq-host-kernels-{os.getuid()}"
    folder.mkdir(exist_ok=True)
    target = folder / f"{key.hexdigest()[:16]}-{output}"
    if not target.exists():
        # Renamed when whole: a second test process may be waiting for the same file.
        part = target.with_suffix(f".{os.getpid()}")
        run = subprocess.run([COMPILER, *arguments, "-o", str(part)], capture_output=True, text=True, check=False)
        if run.returncode:
            raise RuntimeError(f"{output} did not compile:\n{run.stderr}")
        part.rename(target)
    return target


def host_operators() -> Path:
    """A library that registers the CUDA operators' own code for CPU tensors, as ``torch.ops.ldeq_host``."""
    import torch

    home = Path(torch.__file__).parent
    flags = [
        "-c",
        "-O1",
        "-fPIC",
        "-fvisibility=hidden",
        "-Wno-unused-parameter",
        "-DLDEQ_NAMESPACE=ldeq_host",
        "-DTORCH_TARGET_VERSION=0x020a000000000000",
        f"-isystem{home / 'include'}",
    ]
    sources = sorted(DEVICE_CODE.glob("*.cu"))
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        objects = list(pool.map(lambda source: compile_once(source, f"{source.stem}.o", flags), sources))
    key = hashlib.sha256(repr([COMPILER, *map(str, objects)]).encode())
    link = [f"-L{home / 'lib'}", "-Wl,--no-as-needed", "-ltorch", "-ltorch_cpu"]
    return once(key, "operators.so", ["-shared", "-pthread", *map(str, objects), *link])
