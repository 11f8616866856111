"""What pyproject.toml cannot say: the native libraries, and that top-level ``kernels/`` is installed as ``ldeq.kernels``.

`ldeq/_C.so` (CPU kernels) and `ldeq/_C_cuda.so` (CUDA kernels) use torch's stable ABI and nothing of Python's, so
that one file serves every torch >= 2.10 and every Python 3. `tools/native_build` compiles them by ninja: some files once per
instruction set, and nvcc works with a CPU build of torch and without a GPU. Without a compiler, ninja or torch ldeq installs
all the same, and `ldeq doctor` quotes the reason; build with ``pip install --no-build-isolation``, or the build sees no torch.

Environment:
    LDEQ_BUILD_CPU: 0 leaves the native libraries out; 1 makes it an error where the CPU kernels cannot be built.
    LDEQ_BUILD_CUDA: 0 leaves the CUDA kernels out; 1 builds them for all architectures, and makes it an error where they
        cannot be built. Otherwise they are built where torch sees a GPU, for that GPU.
    LDEQ_CUDA_ARCHS, TORCH_CUDA_ARCH_LIST: which architectures instead, like "8.6 9.0+PTX".
    CXX, CUDA_HOME, MAX_JOBS: the C++ compiler (c++), where CUDA is (nvcc on PATH), and how many files to compile at once
        (all cores).
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

from setuptools import Extension, find_packages, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

# A build backend does not have the source tree on its path.
sys.path.insert(0, str(Path(__file__).resolve().parent / "tools"))

from native_build import (
    ROOT,
    BuildError,
    Target,
    Toolchain,
    build,
    compile_commands,
    cpu_library,
    cuda_library,
    interface_hash,
    source_hash,
)

LIBRARIES = ("_C.so", "_C_cuda.so")
# Not setuptools' own folder, which pip makes anew for every build.
OBJECTS = ROOT / "build" / "native"


class BuildNative(build_ext):
    """Builds csrc/ into the libraries in ldeq/ and writes `ldeq/_build.json`, which says how, or why not."""

    def run(self) -> None:
        self.package = ROOT / "ldeq" if self.inplace or self.editable_mode else Path(self.build_lib).resolve() / "ldeq"
        self.package.mkdir(parents=True, exist_ok=True)
        self.tools = Toolchain(os.environ.get("LDEQ_BUILD_CUDA") == "1")
        self.built: list[Target] = []
        if self.tools.forced_cuda:  # before minutes of compiling
            self.attempt("LDEQ_BUILD_CUDA", "cuda", "_C_cuda.so", lambda: {"cuda_archs": " ".join(self.tools.archs)})
        report = {"sources": source_hash(), "interface": interface_hash()}
        report |= self.attempt("LDEQ_BUILD_CPU", "cpu", "_C.so", self.build_cpu)
        report |= self.attempt("LDEQ_BUILD_CUDA", "cuda", "_C_cuda.so", self.build_cuda)
        (self.package / "_build.json").write_text(json.dumps(report, indent=1) + "\n")

    def attempt(self, variable: str, kind: str, name: str, build: Callable[[], dict[str, str]]) -> dict[str, str]:
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

    def build_cpu(self) -> dict[str, str]:
        self.build_library(cpu_library(self.tools))
        return {"torch": self.tools.torch.__version__, "compiler": self.tools.cxx_version}

    def build_cuda(self) -> dict[str, str]:
        self.build_library(cuda_library(self.tools))
        major, minor = self.tools.toolkit.split(".")[:2]
        return {"cuda_archs": " ".join(self.tools.archs), "nvcc": self.tools.toolkit, "toolkit": f"{major}.{minor}"}

    def build_library(self, library: Target) -> None:
        # Those that are built already stay in the file: their objects would otherwise be forgotten.
        build([*self.built, library], OBJECTS)
        self.built.append(library)
        (ROOT / "compile_commands.json").write_text(compile_commands(self.built, OBJECTS))
        # A new file instead of new contents: a process that has the old library loaded keeps it whole.
        fresh = (self.package / library.name).with_suffix(".new")
        shutil.copy(OBJECTS / library.name, fresh)
        fresh.replace(self.package / library.name)

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


setup(
    packages=[*find_packages(include=["ldeq", "ldeq.*"]), "ldeq.kernels"],
    package_dir={"ldeq": "ldeq", "ldeq.kernels": "kernels"},
    package_data={"ldeq": ["py.typed", "weights/*.safetensors", "weights/*.md", "web/static/*"]},
    # Named so that setuptools runs build_ext; `BuildNative` knows the sources.
    ext_modules=[Extension("ldeq._C", sources=[])],
    cmdclass={"build_ext": BuildNative, "bdist_wheel": Wheel},
)
