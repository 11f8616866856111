"""Tensors of more than 2^31 elements: offsets that a 32-bit integer cannot hold.

Most of their memory is never touched, so that the system has none for it: the last blocks alone are run.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from ptx_launcher import Launcher

from ldeq.ops import softargmax
from ldeq.ops.layout import ACTIVE, FLAGS, MEASUREMENTS

MAPS = 2**19 + 2  # of 64 x 64 pixels
NUMBERS = 2**31 + 4096


@pytest.fixture
def last_block(host_library, launcher: Launcher) -> Iterator[Launcher]:
    # Without `uninitialised_memory_is_nan`, which would write to all of it.
    host_library.launch_by(launcher)
    launcher.blocks = 1
    yield launcher
    launcher.blocks = None
    host_library.launch_by(None)


def test_a_map_beyond_two_billion_pixels_is_found(last_block: Launcher) -> None:
    operators = torch.ops.ldeq_host
    maps = torch.empty(1, MAPS, 64, 64)
    maps[0, -1] = torch.randn(64, 64, generator=torch.Generator().manual_seed(0))
    axes = (1 / 64, 0.0, 1 / 64, 0.0)
    heatmap, xy, _, stats = operators.softargmax_forward(maps, None, 0.4, 1e-4, *axes, True)
    want = softargmax(maps[:, -1:].double(), 0.4, coords="unit", eps=1e-4, backend="torch")
    torch.testing.assert_close(xy[:, -1:].double(), want.xy, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(heatmap[:, -1:].double(), want.heatmap, rtol=1e-5, atol=1e-6)
    del heatmap
    grad_xy, grad_std = torch.ones(1, MAPS, 2), torch.zeros(1, MAPS)
    grad_maps, _ = operators.softargmax_backward(None, grad_xy, grad_std, maps, None, 0.4, stats, *axes)
    one = maps[:, -1:].double().requires_grad_()
    (gradient,) = torch.autograd.grad(softargmax(one, 0.4, coords="unit", eps=1e-4, backend="torch").xy.sum(), one)
    torch.testing.assert_close(grad_maps[:, -1:].double(), gradient, rtol=1e-5, atol=1e-7)


def test_a_state_of_more_than_two_billion_numbers_is_stepped_to_its_end(last_block: Launcher) -> None:
    x, f, x_next = (torch.empty(1, NUMBERS) for _ in range(3))
    tail = slice(NUMBERS - 4096, NUMBERS)
    x[0, tail], f[0, tail] = -torch.arange(4096.0), torch.arange(4096.0)
    flags = torch.zeros(1, FLAGS, dtype=torch.int64)
    flags[:, ACTIVE] = 1
    measurements, saved = torch.zeros(1, MEASUREMENTS, dtype=torch.float64), torch.empty(1, NUMBERS)
    # The decision is made from sums of tiles that were not run: the sample may stop, and is then put back to x.
    torch.ops.ldeq_host.fixed_point_step(x, f, None, measurements, flags, saved, x_next, None, 0, 1.0, 1e-3, False, False)
    moved = f if bool(flags[0, ACTIVE]) else x
    assert torch.equal(x_next[0, tail], moved[0, tail])
