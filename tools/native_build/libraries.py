"""The table of what setup.py compiles: the libraries, their files, and the flags and instruction set of each file."""

from __future__ import annotations

import hashlib
import os
import platform

from .errors import BuildError
from .ninja import Target, Unit
from .toolchain import ROOT, Toolchain, number_of

CSRC = ROOT / "csrc"
X86 = platform.machine().lower() in ("x86_64", "amd64")

# Torch 2.10 is the oldest that the libraries shall load in.
STABLE_ABI = "-DTORCH_TARGET_VERSION=0x020a000000000000"
DEFINES = [STABLE_ABI, *(["-DLDEQ_X86"] if X86 else [])]
HOST = ["-fPIC", "-fvisibility=hidden", "-Wall", "-Wno-psabi"]

# Host code around the kernels: what takes time there is the compiler.
AROUND_KERNELS = ["-O1"]
ISA_FLAGS = {
    "isa_baseline": [],
    "isa_avx2": ["-mavx2", "-mfma"],
    "isa_avx512": ["-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mfma", "-mprefer-vector-width=512"],
}


def cpu_library(tools: Toolchain) -> Target:
    """`_C.so`: the operators' schemas, and their kernels for the CPU, once per instruction set."""
    sources = [s for s in sorted(CSRC.rglob("*.cpp")) if X86 or s.stem not in ("isa_avx2", "isa_avx512")]
    return Target(
        name="_C.so",
        compile=[*tools.cxx, "-std=c++17", "-O3", *HOST, *DEFINES, tools.prefix_map, *tools.torch_headers],
        units=[Unit(source, ISA_FLAGS.get(source.stem, AROUND_KERNELS)) for source in sources],
        link=[*tools.cxx, "-shared"],
        libraries=[*tools.torch_libraries, "-s"],
    )


def cuda_library(tools: Toolchain) -> Target:
    """`_C_cuda.so`: the kernels for CUDA, each file for every architecture."""
    torch = tools.torch
    if not tools.forced_cuda and not (torch.version.cuda and torch.cuda.is_available()):
        why = "torch sees no GPU" if torch.version.cuda else f"torch {torch.__version__} is a CPU build"
        raise BuildError(f"left out at installation, since {why}; LDEQ_BUILD_CUDA=1 builds them all the same")
    newer = tuple(map(int, tools.toolkit.split(".")[:2])) >= (12, 8)
    compile = [tools.nvcc, "-std=c++17", "-O3", *DEFINES, *tools.torch_headers]
    compile.append(f"-Xcompiler={','.join([*HOST, tools.prefix_map])}")
    compile.append("--compress-mode=size" if newer else "-Xfatbin=-compress-all")
    if "CXX" in os.environ:
        compile.append(f"-ccbin={tools.cxx[-1]}")
    targets = []
    for arch in tools.archs:
        number = number_of(arch)
        targets.append(f"-gencode=arch=compute_{number},code=sm_{number}")
        if arch.endswith("+PTX"):
            targets.append(f"-gencode=arch=compute_{number},code=compute_{number}")
    # float64 is there for checks: as PTX, which the driver compiles when it is first used, it takes 0.3 MB less of the wheel.
    oldest = min((number_of(arch) for arch in tools.archs), key=lambda number: int(number.rstrip("af")))
    float64 = [f"-gencode=arch=compute_{oldest},code=compute_{oldest}"] if tools.forced_cuda else targets
    # The largest first: the last one to finish is then a small one.
    sources = sorted((CSRC / "cuda").glob("*.cu"), key=lambda s: ("f32" not in s.stem, "16" not in s.stem, s.stem))
    return Target(
        name="_C_cuda.so",
        compile=compile,
        units=[Unit(source, float64 if source.stem.endswith("_f64") else targets) for source in sources],
        # The static runtime: torch has one of its own, or none. Its names stay inside.
        link=[tools.nvcc, "-shared", "-cudart=static", "--no-device-link", "-Xlinker=--exclude-libs,ALL"],
        # nvcc would move libraries past the options that go with them.
        libraries=[f"-Xlinker={flag.removeprefix('-Wl,')}" for flag in (*tools.torch_libraries, "-s")],
    )


def source_hash() -> str:
    """Of all kernel sources: measurements and builds name it."""
    digest = hashlib.sha256()
    for path in sorted(p for p in CSRC.rglob("*") if p.suffix in (".cpp", ".h", ".cu", ".cuh")):
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def interface_hash() -> str:
    """As `ldeq.ops.library.interface`, which compares it when a library is loaded."""
    texts = [(ROOT / "ldeq" / "ops" / name).read_bytes() for name in ("schemas.py", "layout.py")]
    return hashlib.sha256(b"".join(texts)).hexdigest()[:16]
