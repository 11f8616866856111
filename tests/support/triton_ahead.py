"""Stands in for Triton's launches: compiles each kernel for a GPU that is not here, as Triton would for the arguments at hand,
and hands over what would be launched.

The process must not have Triton's interpreter on.
"""

from __future__ import annotations

import hashlib
import importlib
import inspect
import re
import struct
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any
from unittest import mock

import ptx_text
import torch
from ptx_text import Kernel

MODULES = ("anderson", "fixed_point", "sample_state", "softargmax")
_FORMATS = {"i1": "<b", "u1": "<b", "i32": "<i", "u32": "<I", "i64": "<q", "u64": "<Q", "fp32": "<f"}


@dataclass(frozen=True)
class Compiled:
    """A kernel, compiled for one set of types, constants and alignments."""

    name: str
    key: str
    """Names this kernel among those of its function."""
    ptx: str
    cubin: bytes
    threads: int
    """Of a block."""
    shared: int

    @cached_property
    def kernel(self) -> Kernel:
        (found,) = ptx_text.kernels(self.ptx)
        return found


@dataclass(frozen=True)
class TritonLaunch:
    compiled: Compiled
    grid: int
    parameters: bytes


Receiver = Callable[[TritonLaunch], None]


@dataclass
class Ahead:
    """Takes the place of the kernels of ldeq.kernels.

    Args:
        capability: of the GPU that they are compiled for, like 90.
        receive: is called with each launch.
    """

    capability: int
    receive: Receiver
    compiled: dict[str, Compiled] = field(default_factory=dict)

    def launch(self, function: Any, grid: Iterable[int], args: tuple[Any, ...], options: dict[str, Any]) -> None:
        from triton.backends.compiler import GPUTarget
        from triton.compiler import ASTSource, compile, make_backend
        from triton.runtime.jit import create_function_from_signature

        target = GPUTarget("cuda", self.capability, 32)
        backend = make_backend(target)
        bound, specialised, rest = create_function_from_signature(function.signature, function.params, backend)(
            *args, **options
        )
        key = f"{function.__name__} {self.capability} {specialised} {rest}"
        if key not in self.compiled:
            parsed, signature, constants, attributes = function._pack_args(backend, rest, bound, specialised, rest)
            source = ASTSource(function, signature, constants, attributes)
            binary = compile(source, target=target, options=parsed.__dict__)
            self.compiled[key] = Compiled(
                function.__name__,
                f"{function.__name__}_{hashlib.sha256(binary.asm['ptx'].encode()).hexdigest()[:16]}",
                binary.asm["ptx"],
                binary.asm["cubin"],
                32 * binary.metadata.num_warps,
                binary.metadata.shared,
            )
        compiled = self.compiled[key]
        (blocks,) = grid
        values = list(_flat(bound.values(), [kind for kind, _ in specialised]))
        self.receive(TritonLaunch(compiled, blocks, _parameters(compiled.kernel, values)))

    @contextmanager
    def installed(self) -> Iterator[None]:
        """While it lasts, launches of ldeq.kernels come here."""
        from ldeq.ops import triton_library

        with (
            mock.patch.object(triton_library, "interpreted", return_value=True),
            mock.patch.object(triton_library, "missing", return_value=None),
        ):
            patches = []
            for name in MODULES:
                module = importlib.import_module(f"ldeq.kernels.{name}")
                patches += [
                    mock.patch.object(module, attribute, _Standin(self, value))
                    for attribute, value in vars(module).items()
                    if type(value).__name__ == "JITFunction" and attribute in _launched(module)
                ]
            for patch in patches:
                patch.start()
            try:
                yield
            finally:
                for patch in patches:
                    patch.stop()


class _Standin:
    def __init__(self, ahead: Ahead, function: Any):
        self.ahead, self.function = ahead, function

    def __getitem__(self, grid: Iterable[int]) -> Callable[..., None]:
        return lambda *args, **options: self.ahead.launch(self.function, grid, args, options)


def _launched(module: Any) -> set[str]:
    """The kernels that Python launches; what kernels call stays as it is."""
    return set(re.findall(r"\b(\w+)\[\(", inspect.getsource(module)))


def _flat(values: Iterable[Any], kinds: Iterable[Any]) -> Iterator[tuple[str, Any]]:
    """(type, value) of each argument that is handed over at run time, tuples taken apart."""
    for value, kind in zip(values, kinds, strict=True):
        if isinstance(kind, tuple):
            yield from _flat(value, kind)
        elif kind != "constexpr":
            yield kind, value


def _parameters(kernel: Kernel, values: list[tuple[str, Any]]) -> bytes:
    """The bytes that a launch hands over; Triton adds pointers of its own at the end, which these kernels do not use."""
    room = bytearray(kernel.parameter_bytes)
    for (kind, value), at in zip(values, kernel.parameters.values(), strict=False):
        if isinstance(value, torch.Tensor):
            struct.pack_into("<Q", room, at, value.data_ptr())
        else:
            struct.pack_into(_FORMATS[kind], room, at, value)
    return bytes(room)
