"""Every CUDA kernel that is compiled gives the right answer: each type, width of access and length of history.

The suites choose sizes for what may go wrong in an operator. These sizes leave no kernel of the library out.
"""

from __future__ import annotations

import re
from types import ModuleType

import budgets
import nvcc
import pytest
import softargmax_suite
import solve_step_suite as suite
import torch
from targets import Target

from ldeq.ops.layout import BEST

NARROW, WIDE = 1025, 2056
ELEMENT = {torch.float32: "float", torch.float64: "double", torch.bfloat16: "bf16", torch.float16: "half"}


def every_solver_step(target: Target, dtype: torch.dtype) -> None:
    for size in (NARROW, WIDE):
        # Nine pairs: the kernels for up to eight run first, those for up to sixteen last.
        for history in (None, torch.bfloat16) if dtype != torch.float64 else (None,):
            suite.test_every_anderson_step_equals_the_float64_formula(target, size, 9, 1.0, dtype, history)
        suite.test_one_fixed_point_step_writes_every_element(target, dtype, size, 0.3)


def launched_since(before: dict[str, int], host_library: ModuleType) -> set[str]:
    return {nvcc.readable(name) for name, count in host_library.launches().items() if count > before.get(name, 0)}


def kernels_of(dtype: torch.dtype) -> set[str]:
    """The kernels for this type of elements that nvcc finds in the library; half types are decided in float."""
    _, registers = budgets.read(nvcc.DEVICE_CODE.parents[1] / "tests" / "host" / "budgets.json")
    own = {name for name in registers["sm_90"] if re.search(rf"<{ELEMENT[dtype]}\b", name)}
    return own | ({"decide<float>"} if dtype.itemsize == 2 else set())


@pytest.mark.parametrize("dtype", list(ELEMENT), ids=str)
def test_every_kernel_is_launched_and_right(
    target: Target, host_library: ModuleType, device_code: None, dtype: torch.dtype
) -> None:
    before = host_library.launches()
    every_solver_step(target, dtype)
    for shape in softargmax_suite.SHAPES:
        softargmax_suite.test_forward_and_backward_against_float64(shape, dtype)
        softargmax_suite.test_readout_of_normalised_maps(shape, dtype)
    launched, known = launched_since(before, host_library), kernels_of(dtype)
    assert launched == known, f"launched and not known: {launched - known}; known and not launched: {known - launched}"


@pytest.mark.parametrize(
    ("word", "kind", "size"),
    [
        ("unsigned short", "float16", NARROW),
        ("unsigned int", "float32", NARROW),
        ("uint2", "float64", NARROW),
        ("uint4", "float32", WIDE),
    ],
)
def test_the_best_values_are_gathered_in_words_of_every_width(
    target: Target, host_library: ModuleType, device_code: None, word: str, kind: str, size: int
) -> None:
    """These kernels know no types, so that those of one type serve all."""
    before = host_library.launches()
    ring = [torch.randn(2, size).to(getattr(torch, kind)) for _ in range(3)]
    flags = torch.zeros(2, 5 + len(ring), dtype=torch.int64)
    flags[:, BEST] = torch.tensor([2, 0])
    nan = torch.full_like(ring[0], torch.nan)
    found = target.operator("best_so_far")(ring, nan, nan, flags)
    assert torch.equal(found, torch.stack([ring[2][0], ring[0][1]]))
    assert launched_since(before, host_library) == {f"gather_best<{word}>"}
