"""Builds native code by ninja, for setup.py and for the tests.

`toolchain` finds torch and the compilers, `libraries` is the table of what is compiled and how, `ninja` compiles it.
"""

from .errors import BuildError
from .libraries import STABLE_ABI, cpu_library, cuda_library, interface_hash, source_hash
from .ninja import Target, Unit, build, compile_commands
from .toolchain import ROOT, Toolchain

__all__ = [
    "ROOT",
    "STABLE_ABI",
    "BuildError",
    "Target",
    "Toolchain",
    "Unit",
    "build",
    "compile_commands",
    "cpu_library",
    "cuda_library",
    "interface_hash",
    "source_hash",
]
