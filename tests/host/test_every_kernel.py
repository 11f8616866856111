"""Every CUDA kernel that is compiled gives the right answer: each type, width of access and length of history.

The suites choose sizes for what may go wrong in an operator. These sizes leave no kernel of the library out.
"""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import budgets
import nvcc
import pytest
import solve_step_suite as suite
import test_host_softargmax as softargmax_suite  # type: ignore[import-not-found]
import torch
from targets import Target

from ldeq.ops.layout import BEST

DTYPES = tuple(suite.TOLERANCE)
NARROW, WIDE = 1025, 2056


def every_solver_step(target: Target) -> None:
    for dtype in DTYPES:
        for size in (NARROW, WIDE):
            # Nine pairs: the kernels for up to eight run first, those for up to sixteen last.
            for history in (None, torch.bfloat16) if dtype != torch.float64 else (None,):
                suite.test_every_anderson_step_equals_the_float64_formula(target, size, 9, 1.0, dtype, history)
            suite.test_one_fixed_point_step_writes_every_element(target, dtype, size, 0.3)
            best_value(target, dtype, size)


def best_value(target: Target, dtype: torch.dtype, size: int) -> None:
    ring = [torch.randn(2, size).to(dtype) for _ in range(3)]
    flags = torch.zeros(2, 5 + len(ring), dtype=torch.int64)
    flags[:, BEST] = torch.tensor([2, 0])
    nan = torch.full_like(ring[0], torch.nan)
    found = target.operator("best_so_far")(ring, nan, nan, flags)
    assert torch.equal(found, torch.stack([ring[2][0], ring[0][1]]))


@pytest.fixture
def expected() -> set[str]:
    """The kernels that nvcc finds in the library."""
    _, registers = budgets.read(Path(__file__).with_name("budgets.json"))
    return set(registers["sm_90"])


def test_every_kernel_is_launched_and_right(
    target: Target, host_library: ModuleType, device_code: None, expected: set[str]
) -> None:
    before = host_library.launches()
    every_solver_step(target)
    for dtype in DTYPES:
        for shape in softargmax_suite.SHAPES:
            softargmax_suite.test_forward_and_backward_against_float64(shape, dtype)
            softargmax_suite.test_readout_of_normalised_maps(shape, dtype)
    launched = {nvcc.readable(name) for name, count in host_library.launches().items() if count > before.get(name, 0)}
    assert launched == expected
