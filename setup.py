"""What pyproject.toml cannot say: the native library, and that ``kernels/`` at the top level is installed as ``ldeq.kernels``.

The library `ldeq/_C.so` uses torch's stable ABI and nothing of Python's, so that one file serves every torch >= 2.10 and every
Python 3. It is built by the C++ compiler directly, since some of its files are compiled once per instruction set. Without a
compiler or without torch at hand ldeq installs all the same, and `ldeq doctor` quotes the reason; build with
``pip install --no-build-isolation``, or the build sees no torch.

Environment:
    LDEQ_BUILD_CPU: 0 leaves the CPU kernels out; 1 makes it an error where they cannot be built.
    LDEQ_BUILD_CUDA: 1 makes it an error where the CUDA kernels cannot be built.
    CXX, MAX_JOBS: the compiler (c++) and how many files to compile at once (all cores).
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from setuptools import Extension, find_packages, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent
X86 = platform.machine().lower() in ("x86_64", "amd64")

# Torch 2.10 is the oldest that the library shall load in.
FLAGS = [
    "-std=c++17",
    "-O3",
    "-fPIC",
    "-fvisibility=hidden",
    "-Wall",
    "-Wno-psabi",
    "-DTORCH_TARGET_VERSION=0x020a000000000000",
]
# Host code around the kernels: what takes time there is the compiler.
HOST_FLAGS = ["-O1"]
ISA_FLAGS = {
    "isa_baseline": [],
    "isa_avx2": ["-mavx2", "-mfma"],
    "isa_avx512": ["-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mfma", "-mprefer-vector-width=512"],
}


class BuildError(RuntimeError):
    """The native library cannot be built here; the message says why and what to do."""


class BuildNative(build_ext):
    """Compiles csrc/ into `ldeq/_C.so` and writes `ldeq/_build.json`, which says how, or why not."""

    def run(self) -> None:
        forced = os.environ.get("LDEQ_BUILD_CPU", "")
        self.check_cuda()
        package = ROOT / "ldeq" if self.inplace or self.editable_mode else Path(self.build_lib).resolve() / "ldeq"
        package.mkdir(parents=True, exist_ok=True)
        library = package / "_C.so"
        report: dict[str, str] = {"sources": source_hash()}
        try:
            if forced == "0":
                raise BuildError("left out at installation (LDEQ_BUILD_CPU=0)")
            report |= self.compile(library)
        except BuildError as error:
            if forced == "1":
                raise SystemExit(f"error: LDEQ_BUILD_CPU=1, but {error}") from None
            library.unlink(missing_ok=True)
            report["cpu"] = str(error)
            self.warn(f"ldeq: the CPU kernels are not built: {error}; operators will run on plain PyTorch")
        (package / "_build.json").write_text(json.dumps(report, indent=1) + "\n")

    def check_cuda(self) -> None:
        if os.environ.get("LDEQ_BUILD_CUDA") != "1":
            return
        if shutil.which("nvcc") is None:
            raise SystemExit(
                "error: LDEQ_BUILD_CUDA=1, but there is no nvcc: install the CUDA toolkit (13.0 or newer) and put its bin "
                "folder on PATH, or unset LDEQ_BUILD_CUDA"
            )
        if not list((ROOT / "csrc" / "cuda").glob("*.cu")):
            raise SystemExit("error: LDEQ_BUILD_CUDA=1, but this version of ldeq has no CUDA kernels; unset LDEQ_BUILD_CUDA")

    def compile(self, library: Path) -> dict[str, str]:
        compiler = os.environ.get("CXX") or shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")
        if not compiler or not shutil.which(compiler.split()[0]):
            raise BuildError("no C++ compiler was found; install g++ and reinstall with pip install --no-build-isolation")
        try:
            import torch
        except ImportError:
            raise BuildError("the build saw no torch; install torch first, then use pip install --no-build-isolation") from None
        if tuple(int(part) for part in torch.__version__.split(".")[:2]) < (2, 10):
            raise BuildError(f"torch {torch.__version__} is too old; install torch >= 2.10")
        home = Path(torch.__file__).parent
        objects = Path(self.build_temp).resolve() / "csrc"
        objects.mkdir(parents=True, exist_ok=True)
        # Error messages and asserts quote file names: those of this machine must not travel.
        include = [f"-I{home / 'include'}", f"-fmacro-prefix-map={home / 'include'}=.", *(["-DLDEQ_X86"] if X86 else [])]
        sources = [s for s in native_sources() if s.suffix == ".cpp" and (X86 or s.stem not in ("isa_avx2", "isa_avx512"))]

        def compile_one(source: Path) -> Path:
            target = objects / f"{source.stem}.o"
            newest = max(p.stat().st_mtime for p in [*native_sources(), ROOT / "setup.py"] if p.suffix == ".h" or p == source)
            if not target.exists() or target.stat().st_mtime < newest:
                extra = ISA_FLAGS.get(source.stem, HOST_FLAGS)
                run([*compiler.split(), *FLAGS, *extra, *include, "-c", str(source.relative_to(ROOT)), "-o", str(target)])
            return target

        jobs = int(os.environ.get("MAX_JOBS") or os.cpu_count() or 1)
        with ThreadPoolExecutor(jobs) as pool:
            compiled = list(pool.map(compile_one, sources))
        link = ["-shared", f"-L{home / 'lib'}", "-Wl,--no-as-needed", "-ltorch", "-ltorch_cpu", "-Wl,--as-needed", "-s"]
        # A new file instead of new contents: a process that has the old library loaded keeps it whole.
        fresh = library.with_suffix(".new")
        run([*compiler.split(), *map(str, compiled), *link, "-o", str(fresh)])
        fresh.replace(library)
        version = subprocess.run([*compiler.split(), "--version"], capture_output=True, text=True).stdout.splitlines()
        return {"cpu": "built", "torch": torch.__version__, "compiler": version[0] if version else compiler}

    def get_outputs(self) -> list[str]:
        package = Path(self.build_lib) / "ldeq"
        return [str(package / name) for name in ("_C.so", "_build.json") if (package / name).exists()]

    def get_output_mapping(self) -> dict[str, str]:
        return {}


class Wheel(bdist_wheel):
    """py3-none-<platform>: the library has no Python in it. Without the library, the wheel serves any platform."""

    def get_tag(self) -> tuple[str, str, str]:
        tag = super().get_tag()
        built = (Path(self.bdist_dir) / "ldeq" / "_C.so").exists() or (Path("build") / "lib" / "ldeq" / "_C.so").exists()
        built = built or any(Path("build").glob("lib*/ldeq/_C.so"))
        return ("py3", "none", tag[2]) if built else ("py3", "none", "any")


def native_sources() -> list[Path]:
    return sorted(p for p in (ROOT / "csrc").rglob("*") if p.suffix in (".cpp", ".h", ".cu", ".cuh"))


def source_hash() -> str:
    """Of all kernel sources: measurements and builds name it."""
    digest = hashlib.sha256()
    for path in native_sources():
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def run(command: list[str]) -> None:
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        first = next((line for line in done.stderr.splitlines() if "error" in line), done.stderr[:300])
        raise BuildError(f"the compiler failed ({' '.join(command[:1])}): {first}")


setup(
    packages=[*find_packages(include=["ldeq", "ldeq.*"]), "ldeq.kernels"],
    package_dir={"ldeq": "ldeq", "ldeq.kernels": "kernels"},
    package_data={"ldeq": ["py.typed", "weights/*.safetensors", "weights/*.md"]},
    # Named so that setuptools runs build_ext; `BuildNative` knows the sources.
    ext_modules=[Extension("ldeq._C", sources=[])],
    cmdclass={"build_ext": BuildNative, "bdist_wheel": Wheel},
)
