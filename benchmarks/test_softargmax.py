"""Soft-argmax of 16 x 98 maps of 64 x 64, float32: LDEQ's readout at batch 16."""

from __future__ import annotations

import torch
from operators import ours, softargmax_backward, softargmax_forward
from record import save

SHAPE = (16, 98, 64, 64)
SIZE = " x ".join(map(str, SHAPE))


def test_forward(device, benchmark):
    save("softargmax_forward", f"soft-argmax forward, {SIZE}, fp32", softargmax_forward(SHAPE, device), device)
    h = torch.randn(SHAPE, device=device)
    benchmark.pedantic(lambda: ours(h), rounds=10, warmup_rounds=2)


def test_backward(device, benchmark):
    save("softargmax_backward", f"soft-argmax backward, {SIZE}, fp32", softargmax_backward(SHAPE, device), device)
    h = torch.randn(SHAPE, device=device).requires_grad_()
    xy = ours(h)
    benchmark.pedantic(lambda: torch.autograd.grad(xy.sum(), h, retain_graph=True), rounds=10, warmup_rounds=2)
