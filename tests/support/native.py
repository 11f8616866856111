"""Shared by the tests of compiled operators."""

from __future__ import annotations

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from ldeq.ops import library
from ldeq.ops.solve_step import SolveState

needs_library = pytest.mark.skipif(library.MISSING is not None, reason=f"native library: {library.MISSING}")


class Calls(TorchDispatchMode):
    """Names of the operators of this library that ran inside the block, in `names`; with `every`, those of torch too."""

    def __init__(self, every: bool = False):
        super().__init__()
        self.every = every

    def __enter__(self):
        self.names = []
        return super().__enter__()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if self.every or func.namespace in ("ldeq", "ldeq_host"):
            self.names.append(func._opname)
        return func(*args, **(kwargs or {}))


def step_arguments(device: str = "cpu", **changes):
    """Arguments of anderson_step, in their order and all memory defined, but for the `changes` by name."""
    x = torch.randn(2, 9, generator=torch.Generator().manual_seed(0))
    state = SolveState.new(x, 3, torch.zeros(3, 2, 9))
    given = {
        "x": x,
        "f_ring": [0.5 * x],
        "evicted": None,
        "g_ring": state.g_ring,
        "gram": state.gram,
        "measurements": state.measurements,
        "flags": state.flags,
        "saved_best": state.saved_best.zero_(),
        "x_next": torch.zeros_like(x),
        "x_cast": None,
        "slot": 0,
    } | changes

    def moved(value):
        if isinstance(value, list):
            return [v.to(device) for v in value]
        return value.to(device) if isinstance(value, torch.Tensor) else value

    return (*map(moved, given.values()), 1.0, 1e-8, 1e-4, True, False, True)
