"""Faults that are sown into the PTX of a kernel are found, by a check of the machine or by the suite.

This is the proof that the tests beside this one can fail. Each fault is one edit of the text that nvcc wrote.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from dataclasses import dataclass

import budgets
import ptx_build
import pytest
import softargmax_suite
import solve_step_suite
import torch
from ptx_launcher import Launcher
from targets import Target

pytestmark = pytest.mark.skipif(not budgets.FULL, reason="compiles a kernel for each fault; LDEQ_FULL_MATRIX=1 runs it")


def anderson(target: Target) -> None:
    solve_step_suite.test_every_anderson_step_equals_the_float64_formula(target, 2056, 3, 0.7, torch.float32, None)


def fixed_point(target: Target) -> None:
    solve_step_suite.test_one_fixed_point_step_writes_every_element(target, torch.float32, 2049, 0.3)


def softargmax(target: Target) -> None:
    softargmax_suite.test_forward_and_backward_against_float64((1, 2, 64, 64), torch.float32)


CHECKS: dict[str, Callable[[Target], None]] = {
    "decide<float>": anderson,
    "anderson_measure<float, float, 8, 4>": anderson,
    "anderson_mix<float, float, 8, 4>": anderson,
    "fixed_point_measure<float, 1>": fixed_point,
    "softargmax_forward<float, 128, 32, 4, true, true>": softargmax,
    "softargmax_backward<float, 128, 32, 4, true>": softargmax,
}
DECIDE, MEASURE, _, FIXED_POINT, FORWARD, BACKWARD = CHECKS


@dataclass(frozen=True)
class Fault:
    kernel: str
    at: str
    """What is edited, a regular expression."""
    becomes: str
    which: int = 0
    """Of the places that match."""
    found_by: str = ""
    """What the machine says; empty if a wrong result shows the fault."""

    def __str__(self) -> str:
        return f"{self.kernel.partition('<')[0]}-{self.at}-{self.which}".replace("\\", "")

    def edited(self, body: str) -> str:
        place = list(re.finditer(self.at, body))[self.which]
        return body[: place.start()] + place.expand(self.becomes) + body[place.end() :]


def missing_barrier(kernel: str, which: int = 0) -> Fault:
    return Fault(kernel, r"bar\.sync 0;", "", which, "without a barrier between them")


FAULTS = [
    *(missing_barrier(FORWARD, which) for which in range(3)),
    *(missing_barrier(kernel) for kernel in (BACKWARD, MEASURE, FIXED_POINT, DECIDE)),
    # A thread that does not come to a barrier.
    *(
        Fault(kernel, r"bar\.sync 0;", r"setp.eq.u32 %p1, %tid.x, 7; @!%p1 bar.sync 0;", 0, "barrier|waits for threads")
        for kernel in (FORWARD, MEASURE, DECIDE)
    ),
    # A predicate the wrong way round.
    *(Fault(kernel, r"@%(p\d+) bra", r"@!%\1 bra") for kernel in (MEASURE, FIXED_POINT, FORWARD, BACKWARD)),
    # Operands in the wrong order.
    *(Fault(kernel, r"sub\.f32 (\S+), (\S+), (\S+);", r"sub.f32 \1, \3, \2;") for kernel in (MEASURE, FIXED_POINT, FORWARD)),
    # Addresses that are off by one element, by one access, and past the end of shared memory.
    *(
        Fault(kernel, r"st\.global\.v4\.u32 \[(%rd\d+)\]", r"st.global.v4.u32 [\1+4]", 0, "misaligned")
        for kernel in (MEASURE, FORWARD, BACKWARD)
    ),
    *(Fault(kernel, r"st\.global\.v4\.u32 \[(%rd\d+)\]", r"st.global.v4.u32 [\1+16]") for kernel in (FORWARD, BACKWARD)),
    Fault(FIXED_POINT, r"ld\.global\.f32 (%f\d+), \[(%rd\d+)\]", r"ld.global.f32 \1, [\2+4]"),
    Fault(
        FORWARD,
        r"ld\.global\.v4\.f32 (\{[^}]*\}), \[(%rd\d+)\]",
        r"ld.global.v4.f32 \1, [\2+1048576]",
        0,
        "reads where no tensor",
    ),
    Fault(BACKWARD, r"ld\.shared\.f32 (%f\d+), \[(\w+)\+4\]", r"ld.shared.f32 \1, [\2+4096]", 0, "past its end"),
]


def symbol(number: int) -> str:
    return f"fault_{number}"


@pytest.fixture(scope="session")
def faulty(launcher: Launcher) -> object:
    """One library with a kernel for each fault."""
    if launcher.architecture != "90":
        pytest.skip("the faults are written for the PTX of sm_90")
    kernels = []
    for number, fault in enumerate(FAULTS):
        kernel = launcher.kernels[fault.kernel]
        edited = fault.edited(kernel.body)
        assert edited != kernel.body
        kernels.append(dataclasses.replace(kernel, name=symbol(number), body=edited))
    return ptx_build.machine().Library(str(ptx_build.library("faults", kernels)))


@pytest.mark.parametrize("number", range(len(FAULTS)), ids=[str(fault) for fault in FAULTS])
def test_a_fault_in_a_kernel_is_found(
    target: Target, launcher: Launcher, faulty: object, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    fault = FAULTS[number]
    monkeypatch.setitem(launcher.replaced, fault.kernel, (faulty, symbol(number)))
    before = launcher.launched[fault.kernel]
    # Of the machine's checks or of the suite: which of them sees it first depends on the fault.
    with pytest.raises((AssertionError, RuntimeError), match=fault.found_by):
        CHECKS[fault.kernel](target)
    assert launcher.launched[fault.kernel] > before
