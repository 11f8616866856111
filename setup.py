"""What pyproject.toml cannot say: the native libraries, and that top-level ``kernels/`` is installed as ``ldeq.kernels``.

`ldeq/_C.so` (schemas and CPU kernels) and `ldeq/_C_cuda.so` (CUDA kernels) use torch's stable ABI and nothing of Python's, so
that one file serves every torch >= 2.10 and every Python 3. They are built by the compilers directly: some files are compiled
once per instruction set, and nvcc works with a CPU build of torch and without a GPU. Without a compiler or without torch at
hand ldeq installs all the same, and `ldeq doctor` quotes the reason; build with ``pip install --no-build-isolation``, or the
build sees no torch.

Environment:
    LDEQ_BUILD_CPU: 0 leaves the native libraries out; 1 makes it an error where the CPU kernels cannot be built.
    LDEQ_BUILD_CUDA: 0 leaves the CUDA kernels out; 1 builds them for all architectures, and makes it an error where they
        cannot be built. Otherwise they are built where torch sees a GPU, for that GPU.
    LDEQ_CUDA_ARCHS, TORCH_CUDA_ARCH_LIST: which architectures instead, like "8.6 9.0+PTX".
    CXX, CUDA_HOME, MAX_JOBS: the C++ compiler (c++), where CUDA is (nvcc on PATH), and how many files to compile at once
        (all cores).
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import shlex
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from setuptools import Extension, find_packages, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent
CSRC = ROOT / "csrc"
LIBRARIES = ("_C.so", "_C_cuda.so")
X86 = platform.machine().lower() in ("x86_64", "amd64")

# Torch 2.10 is the oldest that the libraries shall load in.
DEFINES = ["-DTORCH_TARGET_VERSION=0x020a000000000000", *(["-DLDEQ_X86"] if X86 else [])]
HOST = ["-fPIC", "-fvisibility=hidden", "-Wall", "-Wno-psabi"]
# Host code around the kernels: what takes time there is the compiler.
HOST_FLAGS = ["-O1"]
ISA_FLAGS = {
    "isa_baseline": [],
    "isa_avx2": ["-mavx2", "-mfma"],
    "isa_avx512": ["-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mfma", "-mprefer-vector-width=512"],
}
# Every GPU from Turing on: code runs within its major version (8.0 on 8.6 and 8.9), and PTX of the last serves what comes after
# it. Code of their own for 8.6 and 8.9 would make the wheel a megabyte larger, and these kernels wait for memory.
CUDA_ARCHS = ("7.5", "8.0", "9.0", "10.0", "12.0+PTX")


class BuildError(RuntimeError):
    """A native library cannot be built here; the message says why and what to do."""


@dataclass
class Toolchain:
    """Torch and the compilers, looked up when they are first needed."""

    forced_cuda: bool

    @cached_property
    def torch(self) -> Any:
        try:
            import torch
        except ImportError:
            raise BuildError("the build saw no torch; install torch first, then use pip install --no-build-isolation") from None
        if tuple(int(part) for part in torch.__version__.split(".")[:2]) < (2, 10):
            raise BuildError(f"torch {torch.__version__} is too old; install torch >= 2.10")
        return torch

    @cached_property
    def home(self) -> Path:
        return Path(self.torch.__file__).parent

    @cached_property
    def cxx(self) -> list[str]:
        compiler = os.environ.get("CXX") or shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")
        if not compiler or not shutil.which(compiler.split()[0]):
            raise BuildError("no C++ compiler was found; install g++ and reinstall with pip install --no-build-isolation")
        return compiler.split()

    @cached_property
    def nvcc(self) -> str:
        home = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH")
        found = shutil.which("nvcc", path=str(Path(home) / "bin") if home else None)
        if found is None:
            raise BuildError(
                "there is no nvcc: install the CUDA toolkit (13.0 or newer) and put its bin folder on PATH, or set CUDA_HOME"
            )
        return found

    @cached_property
    def toolkit(self) -> str:
        """Like ``"13.0.88"``."""
        said = subprocess.run([self.nvcc, "--version"], capture_output=True, text=True).stdout
        return said.rsplit(" V", 1)[-1].split()[0]

    @cached_property
    def archs(self) -> list[str]:
        asked = os.environ.get("LDEQ_CUDA_ARCHS") or os.environ.get("TORCH_CUDA_ARCH_LIST")
        said = subprocess.run([self.nvcc, "--list-gpu-arch"], capture_output=True, text=True).stdout
        known = {name.removeprefix("compute_") for name in said.split()}
        if asked:
            archs = asked.replace(";", " ").replace(",", " ").split()
            for arch in archs:
                if not re.fullmatch(r"\d+\.\d[af]?(\+PTX)?", arch) or _number(arch) not in known:
                    raise BuildError(
                        f'LDEQ_CUDA_ARCHS has {arch!r}, which nvcc {self.toolkit} does not know; write it like "8.6 9.0+PTX"'
                    )
            return archs
        if not self.forced_cuda:
            count = self.torch.cuda.device_count()
            return sorted({"{}.{}".format(*self.torch.cuda.get_device_capability(i)) for i in range(count)})
        archs = [arch for arch in CUDA_ARCHS if _number(arch) in known]
        return [*archs[:-1], archs[-1].removesuffix("+PTX") + "+PTX"]

    @property
    def include(self) -> list[str]:
        # Error messages and asserts quote file names: those of this machine must not travel.
        return [f"-I{self.home / 'include'}"]

    @property
    def prefix_map(self) -> str:
        return f"-fmacro-prefix-map={self.home / 'include'}=."

    @property
    def torch_libraries(self) -> list[str]:
        return [f"-L{self.home / 'lib'}", "-Wl,--no-as-needed", "-ltorch", "-ltorch_cpu", "-Wl,--as-needed", "-s"]


def _number(arch: str) -> str:
    return arch.removesuffix("+PTX").replace(".", "")


@dataclass
class Unit:
    """One source file and how it is compiled; compiled anew if the command or any file it read has changed."""

    source: Path
    command: list[str]
    target: Path

    def compile(self) -> Path:
        depends, stamp = self.target.with_suffix(".d"), self.target.with_suffix(".command")
        command = [*self.command, "-MMD", "-MF", str(depends), "-c", str(self.source.relative_to(ROOT)), "-o", str(self.target)]
        line = shlex.join(command)
        if not self._fresh(depends, stamp, line):
            stamp.unlink(missing_ok=True)
            run(command)
            stamp.write_text(line)
        return self.target

    def _fresh(self, depends: Path, stamp: Path, line: str) -> bool:
        if not (self.target.exists() and depends.exists() and stamp.exists()) or stamp.read_text() != line:
            return False
        made = self.target.stat().st_mtime
        names = depends.read_text().replace("\\\n", " ").split(":", 1)[1].replace("\\ ", "\0").split()
        files = [ROOT / name.replace("\0", " ") for name in names]
        return all(file.exists() and file.stat().st_mtime < made for file in files)


class BuildNative(build_ext):
    """Compiles csrc/ into the libraries in ldeq/ and writes `ldeq/_build.json`, which says how, or why not."""

    def run(self) -> None:
        self.package = ROOT / "ldeq" if self.inplace or self.editable_mode else Path(self.build_lib).resolve() / "ldeq"
        self.package.mkdir(parents=True, exist_ok=True)
        # Not setuptools' own folder, which pip makes anew for every build.
        self.objects = ROOT / "build" / "native"
        self.tools = Toolchain(os.environ.get("LDEQ_BUILD_CUDA") == "1")
        if self.tools.forced_cuda:  # before minutes of compiling
            self.attempt("LDEQ_BUILD_CUDA", "cuda", "_C_cuda.so", lambda: {"cuda_archs": " ".join(self.tools.archs)})
        report = {"sources": source_hash()}
        report |= self.attempt("LDEQ_BUILD_CPU", "cpu", "_C.so", self.build_cpu)
        if report["cpu"] != "built":
            self.build_cuda = lambda: self.give_up(f"the operators' schemas are in the CPU library: {report['cpu']}")
        report |= self.attempt("LDEQ_BUILD_CUDA", "cuda", "_C_cuda.so", self.build_cuda)
        (self.package / "_build.json").write_text(json.dumps(report, indent=1) + "\n")

    def attempt(self, variable: str, kind: str, name: str, build: Any) -> dict[str, str]:
        """Builds one library; what there is to report of it."""
        choice = os.environ.get(variable, "")
        try:
            if choice == "0":
                raise BuildError(f"left out at installation ({variable}=0)")
            return {kind: "built", **build()}
        except BuildError as error:
            if choice == "1":
                raise SystemExit(f"error: {variable}=1, but {error}") from None
            # An earlier build may have left one.
            (self.package / name).unlink(missing_ok=True)
            if kind == "cpu":
                self.warn(f"ldeq: the CPU kernels are not built: {error}; operators will run on plain PyTorch")
            return {kind: str(error)}

    @staticmethod
    def give_up(reason: str) -> dict[str, str]:
        raise BuildError(reason)

    def build_cpu(self) -> dict[str, str]:
        tools = self.tools
        sources = [s for s in sorted(CSRC.rglob("*.cpp")) if X86 or s.stem not in ("isa_avx2", "isa_avx512")]
        common = [*tools.cxx, "-std=c++17", "-O3", *HOST, *DEFINES, tools.prefix_map, *tools.include]
        units = [self.unit(s, [*common, *ISA_FLAGS.get(s.stem, HOST_FLAGS)]) for s in sources]
        self.link("_C.so", [*tools.cxx, "-shared", *self.compile(units), *tools.torch_libraries])
        said = subprocess.run([*tools.cxx, "--version"], capture_output=True, text=True).stdout.splitlines()
        return {"torch": tools.torch.__version__, "compiler": said[0] if said else tools.cxx[0]}

    def build_cuda(self) -> dict[str, str]:
        tools, torch = self.tools, self.tools.torch
        if not tools.forced_cuda and not (torch.version.cuda and torch.cuda.is_available()):
            why = "torch sees no GPU" if torch.version.cuda else f"torch {torch.__version__} is a CPU build"
            raise BuildError(f"left out at installation, since {why}; LDEQ_BUILD_CUDA=1 builds them all the same")
        host = ",".join([*HOST, tools.prefix_map])
        size = (
            ["--compress-mode=size"] if tuple(map(int, tools.toolkit.split(".")[:2])) >= (12, 8) else ["-Xfatbin=-compress-all"]
        )
        common = [tools.nvcc, "-std=c++17", "-O3", *DEFINES, *tools.include, f"-Xcompiler={host}", *size]
        if "CXX" in os.environ:
            common.append(f"-ccbin={tools.cxx[-1]}")
        for arch in tools.archs:
            number = _number(arch)
            common.append(f"-gencode=arch=compute_{number},code=sm_{number}")
            if arch.endswith("+PTX"):
                common.append(f"-gencode=arch=compute_{number},code=compute_{number}")
        # The largest first: the last one to finish is then a small one.
        sources = sorted((CSRC / "cuda").glob("*.cu"), key=lambda s: ("f32" not in s.stem, "16" not in s.stem, s.stem))
        compiled = self.compile([self.unit(s, common) for s in sources])
        # The static runtime: torch has one of its own, or none. Its names stay inside.
        hidden = ["-Xlinker=--exclude-libs,ALL"]
        # nvcc would move libraries past the options that go with them.
        libraries = [f"-Xlinker={flag.removeprefix('-Wl,')}" for flag in tools.torch_libraries]
        self.link("_C_cuda.so", [tools.nvcc, "-shared", "-cudart=static", "--no-device-link", *hidden, *compiled, *libraries])
        major, minor = tools.toolkit.split(".")[:2]
        return {"cuda_archs": " ".join(tools.archs), "nvcc": tools.toolkit, "toolkit": f"{major}.{minor}"}

    def unit(self, source: Path, command: list[str]) -> Unit:
        return Unit(source, command, self.objects / source.relative_to(CSRC).with_suffix(".o"))

    def compile(self, units: list[Unit]) -> list[str]:
        for folder in {unit.target.parent for unit in units}:
            folder.mkdir(parents=True, exist_ok=True)
        with ThreadPoolExecutor(int(os.environ.get("MAX_JOBS") or os.cpu_count() or 1)) as pool:
            return [str(target) for target in pool.map(Unit.compile, units)]

    def link(self, name: str, command: list[str]) -> None:
        # A new file instead of new contents: a process that has the old library loaded keeps it whole.
        fresh = (self.package / name).with_suffix(".new")
        run([*command, "-o", str(fresh)])
        fresh.replace(self.package / name)

    def get_outputs(self) -> list[str]:
        package = Path(self.build_lib) / "ldeq"
        return [str(package / name) for name in (*LIBRARIES, "_build.json") if (package / name).exists()]

    def get_output_mapping(self) -> dict[str, str]:
        return {}


class Wheel(bdist_wheel):
    """py3-none-<platform>: the libraries have no Python in them. Without them, the wheel serves any platform."""

    def get_tag(self) -> tuple[str, str, str]:
        tag = super().get_tag()
        built = (Path(self.bdist_dir) / "ldeq" / "_C.so").exists() or (Path("build") / "lib" / "ldeq" / "_C.so").exists()
        built = built or any(Path("build").glob("lib*/ldeq/_C.so"))
        return ("py3", "none", tag[2]) if built else ("py3", "none", "any")


def source_hash() -> str:
    """Of all kernel sources: measurements and builds name it."""
    digest = hashlib.sha256()
    for path in sorted(p for p in CSRC.rglob("*") if p.suffix in (".cpp", ".h", ".cu", ".cuh")):
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def run(command: list[str]) -> None:
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        first = next((line for line in done.stderr.splitlines() if "error" in line), done.stderr[:300])
        raise BuildError(f"the compiler failed ({Path(command[0]).name}): {first}")


setup(
    packages=[*find_packages(include=["ldeq", "ldeq.*"]), "ldeq.kernels"],
    package_dir={"ldeq": "ldeq", "ldeq.kernels": "kernels"},
    package_data={"ldeq": ["py.typed", "weights/*.safetensors", "weights/*.md"]},
    # Named so that setuptools runs build_ext; `BuildNative` knows the sources.
    ext_modules=[Extension("ldeq._C", sources=[])],
    cmdclass={"build_ext": BuildNative, "bdist_wheel": Wheel},
)
