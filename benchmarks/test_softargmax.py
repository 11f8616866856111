"""Soft-argmax of 16 x 98 maps of 64 x 64, float32: LDEQ's readout at batch 16."""

from __future__ import annotations

import kornia
import pytest
import torch
from paired import paired, save

from ldeq.ops.softargmax import softargmax, softargmax_reference

BETA = 0.4
INPUTS = 3  # rotated: no cache serves one of them twice


def kornia_readout(h: torch.Tensor) -> torch.Tensor:
    return kornia.geometry.subpix.spatial_soft_argmax2d(h, temperature=torch.tensor(1 / BETA))


def eager(h: torch.Tensor) -> torch.Tensor:
    return softargmax_reference(h, BETA, "unit", 1e-4, False).xy


def ours(h: torch.Tensor) -> torch.Tensor:
    return softargmax(h, BETA, coords="unit", eps=1e-4, heatmap=False, backend="cpu").xy


PEERS = {
    "ours": ours,
    "eager": eager,
    "torch.compile of eager": torch.compile(eager),
    "kornia": kornia_readout,
    "torch.compile of kornia": torch.compile(kornia_readout),
}


@pytest.fixture(scope="module")
def maps() -> list[torch.Tensor]:
    torch.manual_seed(0)
    return [torch.randn(16, 98, 64, 64).requires_grad_() for _ in range(INPUTS)]


def test_forward(maps, benchmark):
    with torch.no_grad():
        candidates = {name: (lambda i, f=f: f(maps[i % INPUTS])) for name, f in PEERS.items()}
        candidates["floor: read 1 N"] = lambda i: maps[i % INPUTS].sum()
        save("softargmax_forward", "soft-argmax forward, 16 x 98 x 64 x 64, fp32", paired(candidates))
        benchmark.pedantic(lambda: ours(maps[0]), rounds=10, warmup_rounds=2)


def test_backward(maps, benchmark):
    def backward(f):
        outputs = [f(h) for h in maps]
        return lambda i: torch.autograd.grad(
            outputs[i % INPUTS], maps[i % INPUTS], torch.ones_like(outputs[0]), retain_graph=True
        )

    candidates = {name: backward(f) for name, f in PEERS.items()}
    target = torch.empty_like(maps[0])
    candidates["floor: copy 2 N"] = lambda i: target.detach().copy_(maps[i % INPUTS].detach())
    save("softargmax_backward", "soft-argmax backward, 16 x 98 x 64 x 64, fp32", paired(candidates))
    benchmark.pedantic(lambda: candidates["ours"](0), rounds=10, warmup_rounds=2)
