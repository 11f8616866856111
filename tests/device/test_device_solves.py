"""The suite of solve steps on the target of this run, and what only some targets have."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from native import step_arguments
from solve_step_suite import *  # noqa: F403
from solve_step_suite import FOREVER, begin, take
from targets import TARGETS, Target, running_on

import ldeq
from ldeq.ops import BackendError, triton_library
from ldeq.solvers import Anderson, Status, anderson

# The reference in plain PyTorch, too, but not once more beside the interpreter.
REFERENCE = [] if triton_library.interpreted() else [Target("cpu", "torch")]


@pytest.fixture(params=[*REFERENCE, *TARGETS], ids=lambda t: f"{t.device}-{t.backend}")
def target(request: pytest.FixtureRequest) -> Iterator[Target]:
    with running_on(request.param):
        yield request.param


def test_mixed_devices_are_refused(target):
    if target.device == "cpu":
        pytest.skip("a second device that holds data is needed")
    arguments = list(step_arguments(target.device))
    arguments[8] = arguments[8].cpu()
    with pytest.raises(RuntimeError, match="x_next"):
        target.operator("anderson_step")(*arguments)


def test_what_the_backend_does_not_serve(target):
    if target.backend != "triton":
        pytest.skip("the other backends serve every floating-point type")
    z0 = torch.zeros(1, 4, dtype=torch.float64, device=target.device)
    with pytest.raises(BackendError, match=r"'triton' cannot run 'anderson_step': it does not serve torch.float64"):
        anderson(lambda z: 0.5 * z + 1, z0)
    with ldeq.ops.use_backend("auto"):
        assert anderson(lambda z: 0.5 * z + 1, z0).status.item() == Status.CONVERGED


def test_same_bits_for_any_number_of_threads(target):
    if target.backend not in ("cpu", "torch"):
        pytest.skip("the threads of a CPU")

    def run() -> torch.Tensor:
        generator = torch.Generator().manual_seed(0)
        x = torch.randn(3, 30_000, generator=generator)
        step, state = begin(Anderson(m=4), x, x.dtype)
        nexts = []
        for _ in range(6):
            f = torch.randn(3, 30_000, generator=generator)
            nexts.append(take(step, state, x, f, FOREVER).x)
            x = torch.randn(3, 30_000, generator=generator)
        return torch.stack(nexts)

    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            results.append(run())
    finally:
        torch.set_num_threads(before)
    if target.backend == "cpu":
        assert all(torch.equal(results[0], other) for other in results[1:])
    else:  # the sums of PyTorch depend on its threads
        for other in results[1:]:
            torch.testing.assert_close(results[0], other, rtol=1e-4, atol=1e-4)


def test_more_samples_than_a_grid_has_rows(target):
    if target.device == "cpu":
        pytest.skip("the limit of 65,535 is that of a GPU's grid")
    z0 = torch.zeros(70_000, 3, device=target.device)
    assert (anderson(lambda z: 0.5 * z + 1, z0, max_iter=9).status == Status.CONVERGED).all()


def test_more_than_two_to_the_31_elements(target):
    if target.device == "cpu" or torch.cuda.mem_get_info()[0] < 60 * 2**30:
        pytest.skip("needs 60 GiB of GPU memory")
    b, d, m = 2, 2**28 + 3, 5
    x = torch.rand(b, d, device=target.device)
    step, state = begin(Anderson(m=m, ridge=1e-6, history_dtype=torch.bfloat16), x, x.dtype)
    for _ in range(m + 1):
        x_next = take(step, state, x, torch.rand(b, d, device=target.device), FOREVER).x
        assert x_next is not None and torch.isfinite(x_next).all()
        x = x_next
