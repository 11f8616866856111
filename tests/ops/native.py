"""Shared by the tests of compiled operators."""

from __future__ import annotations

import pytest
from torch.utils._python_dispatch import TorchDispatchMode

from ldeq.ops import library

needs_library = pytest.mark.skipif(library.MISSING is not None, reason=f"native library: {library.MISSING}")


class Calls(TorchDispatchMode):
    """Names of the operators of this library that ran inside the block, in `names`."""

    def __enter__(self):
        self.names = []
        return super().__enter__()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.namespace == "ldeq":
            self.names.append(func._opname)
        return func(*args, **(kwargs or {}))
