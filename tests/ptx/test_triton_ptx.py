"""The PTX that Triton compiles for GPUs, run without one: the operators on it against float64 formulas and the reference.

Triton orders accesses of shared memory by itself, those of global memory by `tl.debug_barrier` alone: the machine says where
one is missing. The kernels are for float32 and half types, so that float64 is not here.
"""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import budgets
import launch_counts
import ptx_build
import pytest
import solve_step_suite as suite
import torch
from targets import Target, uninitialised_memory_is_nan
from triton_ahead import Ahead, TritonLaunch

from ldeq.ops import heatmap_readout, softargmax, use_backend
from ldeq.solvers import Anderson

pytest.importorskip("triton", reason="the Triton kernels need triton; pip install triton")

CAPABILITIES = (80, 90) if budgets.FULL else (90,)
DTYPES = (torch.float32, torch.bfloat16, torch.float16) if budgets.FULL else (torch.float32,)
HISTORIES = [(dtype, g) for dtype in DTYPES for g in (None, torch.bfloat16)][: None if budgets.FULL else 1]
# Relative to the largest entry: a few hundred roundings, or the rounding of the output.
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 1e-2, torch.float16: 2e-3}


@dataclass(frozen=True)
class Fault:
    """An edit of the PTX of a kernel, at every place that matches."""

    kernel: str
    at: str
    becomes: str
    found_by: str = ""
    """What the machine says; empty if a wrong result shows the fault."""

    def edited(self, body: str) -> str:
        edited, places = re.subn(self.at, self.becomes, body)
        assert places, f"nothing to edit in {self.kernel}"
        return edited


@dataclass
class Runner:
    """Runs what Triton would launch."""

    launched: Counter[str] = field(default_factory=Counter)
    libraries: dict[str, Any] = field(default_factory=dict)
    fault: Fault | None = None

    def __call__(self, launch: TritonLaunch) -> None:
        compiled = launch.compiled
        self.launched[compiled.name] += 1
        kernel, key = compiled.kernel, compiled.key
        if self.fault is not None and self.fault.kernel == compiled.name:
            kernel = dataclasses.replace(kernel, body=self.fault.edited(kernel.body))
            key = f"fault_{FAULTS.index(self.fault)}_{key}"
        if key not in self.libraries:
            self.libraries[key] = ptx_build.machine().Library(str(ptx_build.library(f"triton_{key}", [kernel])))
        self.libraries[key].launch(kernel.name, (launch.grid, 1, 1), compiled.threads, launch.parameters, compiled.shared)


@pytest.fixture(scope="module", params=CAPABILITIES, ids=lambda c: f"sm_{c}")
def ahead(request: pytest.FixtureRequest) -> Iterator[Ahead]:
    ptx_build.machine().watch_memory()
    runner = Runner()
    yield Ahead(request.param, runner)
    launch_counts.note("Triton", f"sm_{request.param}", runner.launched)


@pytest.fixture
def target(ahead: Ahead) -> Iterator[Target]:
    with ahead.installed(), use_backend("triton"), uninitialised_memory_is_nan():
        yield Target("cpu", "triton")


def anderson(target: Target) -> None:
    suite.test_every_anderson_step_equals_the_float64_formula(target, 2064, 3, 0.7, torch.float32, None)


def batch_stop(target: Target) -> None:
    stop = {"batch": True, "tol": 5.0}
    suite.test_each_step_leaves_what_the_reference_leaves(target, Anderson(m=3, beta=0.9), torch.float32, 2064, stop)


def fixed_point(target: Target) -> None:
    suite.test_one_fixed_point_step_writes_every_element(target, torch.float32, 2064, 0.3)


def against_float64(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    maps = (4 * torch.randn(shape, generator=generator)).to(dtype)
    beta = torch.tensor(0.4, dtype=torch.float64)
    weights = [torch.randn(s, generator=generator).to(dtype).double() for s in (shape, (*shape[:2], 2), shape[:2])]
    results = []
    for backend, kind in (("triton", dtype), ("torch", torch.float64)):
        inputs = maps.to(kind).requires_grad_(), beta.clone().requires_grad_()
        out = softargmax(*inputs, coords="cell_center", eps=1e-2, backend=backend)
        loss = torch.stack([(o.double() * w).sum() for o, w in zip(out, weights, strict=True)]).sum()
        results.append((*(o.detach() for o in out), *torch.autograd.grad(loss, inputs)))
    for found, expected in zip(*results, strict=True):
        size = float(expected.abs().max())
        torch.testing.assert_close(found.double(), expected, rtol=0, atol=TOLERANCE[dtype] * max(size, 1.0))


def maps(target: Target) -> None:
    against_float64((1, 2, 64, 64), torch.float32)


MISSING_BARRIER = (r"bar\.sync\s+0;", "")
MISALIGNED = (r"(st\.global\.v4\.b32 \[ %rd\d+ \+ )0", r"\g<1>4")
FLIPPED_MASK = (r"@(%p\d+ ld\.global\.v4)", r"@!\1")
SWAPPED = (r"sub\.(?:rn\.)?f32\s+(\S+), (\S+), (\S+);", r"sub.f32 \1, \3, \2;")
PAST_THE_END = (r"(ld\.global\.v4\.b32 \{[^}]*\}, \[ %rd\d+ \+ )0", r"\g<1>1048576")
# By kernel: what is run, and the faults that are sown one at a time.
CHECKS: dict[str, tuple[Callable[[Target], None], list[tuple[str, str, str]]]] = {
    "anderson_measure": (anderson, [(*MISSING_BARRIER, "without a barrier"), (*SWAPPED, "")]),
    "anderson_decide": (batch_stop, [(*MISSING_BARRIER, "without a barrier")]),
    "anderson_mix": (anderson, [(*MISALIGNED, "misaligned"), (*FLIPPED_MASK, "")]),
    "fixed_point_measure": (fixed_point, [(*MISSING_BARRIER, "without a barrier"), (*SWAPPED, "")]),
    "fixed_point_decide": (fixed_point, [(*MISSING_BARRIER, "without a barrier")]),
    "softargmax_forward": (
        maps,
        [(*MISSING_BARRIER, "without a barrier"), (*FLIPPED_MASK, ""), (*PAST_THE_END, "no tensor is")],
    ),
    "softargmax_backward": (maps, [(*MISALIGNED, "misaligned"), (*FLIPPED_MASK, ""), (*PAST_THE_END, "no tensor is")]),
}
FAULTS = [Fault(kernel, *edit) for kernel, (_, edits) in CHECKS.items() for edit in edits]


@pytest.mark.parametrize(("dtype", "history"), HISTORIES, ids=str)
@pytest.mark.parametrize(("size", "m", "beta"), [(2064, 3, 0.7), (1025, 5, 1.0)])
def test_every_anderson_step_equals_the_float64_formula(target, size, m, beta, dtype, history):
    suite.test_every_anderson_step_equals_the_float64_formula(target, size, m, beta, dtype, history)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("size", [2064, 1025])
def test_one_fixed_point_step_writes_every_element(target, dtype, size):
    suite.test_one_fixed_point_step_writes_every_element(target, dtype, size, 0.3)


def test_a_batch_that_stops_together_leaves_what_the_reference_leaves(target):
    batch_stop(target)


def test_best_so_far_takes_each_value_from_its_place(target):
    suite.test_best_so_far_takes_each_value_from_its_place(target, torch.float32, 9)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
# A held map of whole vectors, one that is not, and one that is read several times.
@pytest.mark.parametrize("shape", [(1, 2, 64, 64), (1, 2, 7, 5), (1, 1, 96, 88)], ids=str)
def test_soft_argmax_and_its_gradients_equal_those_in_float64(target, shape, dtype):
    against_float64(shape, dtype)


def test_readout_of_normalised_maps(target):
    maps = torch.rand(1, 2, 64, 64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    found, expected = heatmap_readout(maps), heatmap_readout(maps.double(), backend="torch")
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a.double(), b, rtol=1e-5, atol=1e-5)
    (gradient,) = torch.autograd.grad(found.xy.sum(), maps)
    assert gradient.isfinite().all()


def test_every_kernel_was_launched(ahead):
    """After the others: kernels that no test above reaches would not have been checked."""
    launches = {"softargmax_forward", "softargmax_backward", "anderson_measure", "anderson_decide", "anderson_mix",
                "fixed_point_measure", "fixed_point_decide", "fixed_point_undo", "measure_batch", "best_so_far"}  # fmt: skip
    assert set(ahead.receive.launched) == launches


def sown(fault: Fault) -> str:
    kind = next(name for name, edit in globals().items() if name.isupper() and edit == (fault.at, fault.becomes))
    return f"{fault.kernel}-{kind.lower()}"


@pytest.mark.parametrize("fault", FAULTS if budgets.FULL else [f for f in FAULTS if f.kernel == "anderson_decide"], ids=sown)
def test_a_fault_in_a_kernel_is_found(ahead, target, fault, monkeypatch):
    """The proof that the tests above can fail."""
    monkeypatch.setattr(ahead.receive, "fault", fault)
    before = ahead.receive.launched[fault.kernel]
    with pytest.raises((AssertionError, RuntimeError), match=fault.found_by or None):
        CHECKS[fault.kernel][0](target)
    assert ahead.receive.launched[fault.kernel] > before
