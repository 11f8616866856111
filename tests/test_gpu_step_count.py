"""The count of a training step's launches and bytes: what it rests on, at a small size."""

from __future__ import annotations

import pytest
import torch
from gpu_model import training_step as model
from torch.nn import functional as F

from ldeq.models import LDEQConfig

TINY = LDEQConfig.tiny(check_every=0, tol=0.0)
# mix, five blocks at each of two levels, and the innermost one.
BLOCKS = 1 + 5 * TINY.depth + 1
FORWARD = TINY.max_iter + 1
# The first evaluation of the backward solve is free, the product for the weights is one more.
BACKWARD = 3


def works(run) -> list[tuple[str, model.Work]]:
    watch = model.Watch()
    with watch:
        run()
    return watch.seen


@pytest.fixture(scope="module")
def step() -> model.Step:
    return model.counted(TINY, (3,), amp=False)[3]


def test_a_batch_is_what_one_and_two_faces_say_of_it(step):
    found = model.watched(TINY, 3, amp=False)
    assert [name for name, _ in found] == [name for name, _ in step]
    for (name, ours), (_, expected) in zip(step, found, strict=True):
        assert (ours.launches, ours.bytes, ours.flops, ours.bias) == (
            expected.launches, expected.bytes, expected.flops, expected.bias
        ), name  # fmt: skip


def test_every_evaluation_is_counted_forward_and_backward(step):
    names = [name for name, _ in step]
    assert names.count("aten::native_group_norm") == BLOCKS * FORWARD
    assert names.count("aten::native_group_norm_backward") == BLOCKS * BACKWARD
    assert names.count("ldeq::fixed_point_step") == 2 * TINY.max_iter
    # What graphs replay is most of it, but never the optimizer.
    replayed = [work for _, work in step if work.replayed]
    assert len(replayed) > len(step) / 3
    assert not any(work.what == "optimizer" for work in replayed)


def test_fusion_leaves_three_passes_forward_and_five_backward():
    """By hand: a block of 8 channels at 16 x 16, whose map is of N bytes."""
    v = torch.randn(2, 4, 16, 16)
    kernel, bias = torch.randn(8, 4, 3, 3).requires_grad_(), torch.zeros(8).requires_grad_()
    scale, shift = torch.ones(8).requires_grad_(), torch.zeros(8).requires_grad_()
    n = 2 * 8 * 16 * 16 * 4

    def block() -> None:
        out = F.leaky_relu(F.conv2d(v, kernel, bias, padding=1), 0.01, inplace=True)
        F.group_norm(out, 2, scale, shift).sum().backward()

    before = works(block)
    after = model.fused(before)
    of = {
        which: {name: (work.launches, work.bytes) for name, work in step if "norm" in name or "leaky" in name or "conv" in name}
        for which, step in (("before", before), ("after", after))
    }
    convolved, gradients = v.nbytes + kernel.nbytes + n, n + v.nbytes + kernel.nbytes
    assert of["before"] == {
        "aten::convolution": (2, convolved + 2 * n),
        "aten::leaky_relu_": (1, 2 * n),
        "aten::native_group_norm": (3, 3 * n),
        "aten::native_group_norm_backward": (4, 5 * n),
        "aten::leaky_relu_backward": (1, 3 * n),
        "aten::convolution_backward": (2, gradients + n),
    }
    assert of["after"] == {
        "aten::convolution": (1, convolved),
        "aten::native_group_norm": (2, 3 * n),
        "aten::native_group_norm_backward": (3, 5 * n),
        "aten::convolution_backward": (1, gradients),
    }


def test_a_view_costs_nothing_and_an_expanded_tensor_is_read_once():
    v = torch.randn(4, 1).expand(4, 1000)
    (found,) = works(lambda: v.t() + 1.0)
    assert found[1].launches == 1 and found[1].bytes == 4 * 4 + 4 * 4000


def test_python_is_not_waited_for_where_graphs_replay(step):
    eager, graphs = (model.row(step, "float32", replays) for replays in (False, True))
    assert graphs["host_ms"] < eager["host_ms"] and graphs["gpu_ms"] == eager["gpu_ms"]
    assert eager["step_ms"] == max(eager["host_ms"], eager["gpu_ms"])
    assert eager["launches"] == sum(group["launches"] for group in eager["groups"].values())
