from __future__ import annotations

import torch
from seeded_models import images, seeded

from ldeq.models.sequence import WarmStarts
from ldeq.ops import heatmap_readout


def test_every_frame_is_what_rwr_answers_on_a_video() -> None:
    model = seeded("tiny")
    frames = images(6, 64).view(2, 3, 3, 64, 64)
    with torch.no_grad():
        out = WarmStarts(model)(frames)
        assert out.landmarks.shape == (2, 3, 98, 2)
        first = model(frames[:, 0])
        assert torch.allclose(out.landmarks[:, 0], first.landmarks, atol=1e-6)
        assert torch.equal(out.solution.iterations, first.solution.iterations)
        z = first.z
        for t in (1, 2):
            step = model(frames[:, t], z, 0)
            assert torch.allclose(out.landmarks[:, t], step.landmarks, atol=1e-6)
            z = step.z


def test_gradients_flow_through_the_whole_sequence() -> None:
    """Against the chain of evaluations written out, in float64, from a first state that is given."""
    model = seeded("tiny", landmarks=5).double().train()
    frames = images(4, 64, seed=1).double().view(2, 2, 3, 64, 64)
    weight = torch.randn(2, 2, 5, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    (WarmStarts(model)(frames).landmarks * weight).sum().backward()
    found = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    model.zero_grad()

    features = model.stem(frames.transpose(0, 1).flatten(0, 1))
    z, _ = model.deq(model.initial_state(2), features[:2])
    states = [z, model.cell(z, features[2:])]
    xy = torch.stack([heatmap_readout(s, coords="unit", eps=model.config.eps).xy for s in states], 1)
    (xy * weight).sum().backward()
    expected = [p.grad for p in model.parameters() if p.grad is not None]
    assert len(found) == len(expected) == len(list(model.parameters()))
    for a, b in zip(found, expected, strict=True):
        assert torch.allclose(a, b, rtol=1e-9, atol=1e-12)
    # The second frame alone reaches the weights through the first one's state, too.
    model.zero_grad()
    out = WarmStarts(model)(frames).landmarks
    (out[:, 1] * weight[:, 1]).sum().backward()
    through = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    model.zero_grad()
    features = model.stem(frames.transpose(0, 1).flatten(0, 1))
    z, _ = model.deq(model.initial_state(2), features[:2])
    (heatmap_readout(model.cell(z.detach(), features[2:]), eps=model.config.eps).xy * weight[:, 1]).sum().backward()
    cut = [p.grad for p in model.parameters() if p.grad is not None]
    assert any(not torch.allclose(a, b, rtol=1e-6) for a, b in zip(through, cut, strict=True))
