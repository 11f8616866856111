"""Torch, the C++ compiler and nvcc, looked up when they are first needed."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from .errors import BuildError

ROOT = Path(__file__).resolve().parents[2]

# Every GPU from Turing on: code runs within its major version (8.0 on 8.6 and 8.9), and PTX of the last serves what comes after
# it. Code of their own for 8.6 and 8.9 would make the wheel a megabyte larger, and these kernels wait for memory.
CUDA_ARCHS = ("7.5", "8.0", "9.0", "10.0", "12.0+PTX")


@dataclass
class Toolchain:
    """What compiles and links.

    Args:
        forced_cuda: build the CUDA kernels for all of `CUDA_ARCHS`, and not only for the GPUs that torch sees.
    """

    forced_cuda: bool = False

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
        """Where torch is installed."""
        return Path(self.torch.__file__).parent

    @cached_property
    def cxx(self) -> list[str]:
        compiler = os.environ.get("CXX") or shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")
        if not compiler or not shutil.which(compiler.split()[0]):
            raise BuildError("no C++ compiler was found; install g++ and reinstall with pip install --no-build-isolation")
        return compiler.split()

    @cached_property
    def cxx_version(self) -> str:
        said = subprocess.run([*self.cxx, "--version"], capture_output=True, text=True).stdout.splitlines()
        return said[0] if said else self.cxx[0]

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
        """Like ``["8.6", "9.0+PTX"]``."""
        asked = os.environ.get("LDEQ_CUDA_ARCHS") or os.environ.get("TORCH_CUDA_ARCH_LIST")
        said = subprocess.run([self.nvcc, "--list-gpu-arch"], capture_output=True, text=True).stdout
        known = {name.removeprefix("compute_") for name in said.split()}
        if asked:
            archs = asked.replace(";", " ").replace(",", " ").split()
            for arch in archs:
                if not re.fullmatch(r"\d+\.\d[af]?(\+PTX)?", arch) or number_of(arch) not in known:
                    raise BuildError(
                        f'LDEQ_CUDA_ARCHS has {arch!r}, which nvcc {self.toolkit} does not know; write it like "8.6 9.0+PTX"'
                    )
            return archs
        if not self.forced_cuda:
            count = self.torch.cuda.device_count()
            return sorted({"{}.{}".format(*self.torch.cuda.get_device_capability(i)) for i in range(count)})
        archs = [arch for arch in CUDA_ARCHS if number_of(arch) in known]
        return [*archs[:-1], archs[-1].removesuffix("+PTX") + "+PTX"]

    @property
    def torch_headers(self) -> list[str]:
        return [f"-I{self.home / 'include'}"]

    @property
    def prefix_map(self) -> str:
        # Error messages and asserts quote file names: those of this machine must not travel.
        return f"-fmacro-prefix-map={self.home / 'include'}=."

    @property
    def torch_libraries(self) -> list[str]:
        return [f"-L{self.home / 'lib'}", "-Wl,--no-as-needed", "-ltorch", "-ltorch_cpu", "-Wl,--as-needed"]


def number_of(arch: str) -> str:
    """``"90"`` for ``"9.0+PTX"``."""
    return arch.removesuffix("+PTX").replace(".", "")
