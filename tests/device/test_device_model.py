"""The implicit layer and the landmark model, forward and backward, on the target of this run."""

from __future__ import annotations

import pytest
import torch
from native import Calls

import ldeq
from ldeq import DEQ, LDEQ, LDEQConfig
from ldeq.solvers import anderson


def test_an_implicit_layer_and_its_gradients(target):
    def run(device):
        torch.manual_seed(0)
        weight = (0.1 * torch.randn(12, 12)).to(device).requires_grad_()
        x = torch.randn(3, 12).to(device).requires_grad_()
        layer = DEQ(lambda z, x: torch.tanh(z @ weight + x), solver=anderson, backward_solver=anderson)
        z, _ = layer(torch.zeros(3, 12, device=device), x)
        return z, *torch.autograd.grad(z.square().sum(), (weight, x))

    with Calls() as calls:
        actual = run(target.device)
    assert {n for n in calls.names if "step" in n} == {"anderson_step" + target.suffix}
    with ldeq.ops.use_backend("torch"):
        expected = run("cpu")
    for a, e in zip(actual, expected, strict=True):
        torch.testing.assert_close(a.cpu(), e, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_model_and_its_gradients(target, dtype):
    def run(device):
        torch.manual_seed(0)
        model = LDEQ(LDEQConfig.tiny(landmarks=3, max_iter=4, solver="anderson")).to(device)
        images = torch.randn(1, 3, 64, 64).to(device)
        with torch.autocast(device, dtype, enabled=dtype != torch.float32):
            out = model(images)
        (out.landmarks.sum() + out.std.sum()).backward()
        grads = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
        return out.landmarks, out.std, grads

    with Calls() as calls:
        actual = run(target.device)
    kinds = set(calls.names)
    # Every operator that ran is this backend's, and none was left out.
    steps = {name + target.suffix for name in ("anderson_step", "best_so_far")}
    maps = {f"{name}_{way}{target.suffix}" for name in ("softargmax", "heatmap_readout") for way in ("forward", "backward")}
    assert steps <= kinds and maps <= kinds and all(name.endswith("_triton") == bool(target.suffix) for name in kinds), kinds
    with ldeq.ops.use_backend("torch"):
        expected = run(target.device)
    tolerance = 1e-3 if dtype == torch.float32 else 5e-2
    for a, e in zip(actual, expected, strict=True):
        assert (a - e).norm() <= tolerance * e.norm()
