"""Options of the solve loops in the model's configuration: the same answers, another way to them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from ldeq import LDEQ, LDEQConfig
from ldeq.data import normalise
from ldeq.data.synthetic import SyntheticFaces
from ldeq.engine import load_pretrained


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"check_every": -1}, "check_every must be >= 0, got -1"),
        ({"compact": 1.0}, "compact must lie in [0, 1), got 1.0"),
        ({"compact": 0.5, "check_every": 0}, "compact=0.5 needs check_every >= 1"),
        ({"compact": 0.5, "stop_scope": "batch"}, "compact=0.5 needs stop_scope='sample'"),
        ({"cuda_graphs": True}, "cuda_graphs needs check_every = 0, got 1"),
        ({"history_dtype": "float16", "solver": "anderson"}, "unknown history_dtype 'float16'"),
        ({"history_dtype": "bfloat16"}, "history_dtype = bfloat16 has no effect with solver 'fixed_point'"),
    ],
)
def test_what_cannot_be_is_said(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError) as error:
        LDEQConfig.tiny(**options)
    assert sentence in str(error.value)


def step(model: LDEQ, images: Tensor) -> tuple[Tensor, list[Tensor]]:
    landmarks = model(images).landmarks
    model.zero_grad()
    landmarks.square().mean().backward()
    return landmarks.detach(), [p.grad.clone() for p in model.parameters() if p.grad is not None]


@pytest.mark.parametrize("solver", ["anderson", "fixed_point"])
@pytest.mark.parametrize("options", [{"check_every": 0}, {"check_every": 2}, {"compact": 0.75}], ids=str)
def test_the_answer_does_not_depend_on_how_the_loop_runs(options: dict[str, Any], solver: str) -> None:
    budget = {"solver": solver, "max_iter": 9, "backward_max_iter": 9, "tol": 3e-3, "landmarks": 5, "gradient": "implicit"}
    images = torch.randn(5, 3, 64, 64, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    results = []
    for given in ({}, options):
        torch.manual_seed(0)
        results.append(step(LDEQ.tiny(**budget, **given).double(), images))
    torch.testing.assert_close(results[1], results[0], rtol=0, atol=1e-9)


def test_graphs_are_asked_for_by_the_configuration_and_explained_where_there_are_none() -> None:
    torch.manual_seed(0)
    model = LDEQ.tiny(landmarks=5, check_every=0, cuda_graphs=True)
    twin = LDEQ.tiny(landmarks=5, check_every=0)
    twin.load_state_dict(model.state_dict())
    images = torch.randn(2, 3, 64, 64)
    with pytest.warns(RuntimeWarning, match="cuda_graphs: this solve runs without a graph: the state is on cpu"):
        found = step(model, images)
    torch.testing.assert_close(found, step(twin, images), rtol=0, atol=0)


def test_a_history_in_bfloat16_ends_at_the_same_point() -> None:
    """With trained weights: the cell of fresh ones expands."""
    pretrained = load_pretrained("small-68")
    faces = SyntheticFaces(2, seed=5, size=128)
    images = normalise(torch.stack([torch.from_numpy(faces.read(i)).permute(2, 0, 1) for i in range(2)]))
    found = []
    for history in ("float32", "bfloat16"):
        config = replace(pretrained.model.config, solver="anderson", max_iter=25, tol=1e-4, history_dtype=history)
        model = LDEQ(config).eval()
        model.load_state_dict(pretrained.model.state_dict())
        with torch.no_grad():
            found.append(model(images))
    assert all(bool(out.solution.converged.all()) for out in found)
    torch.testing.assert_close(found[0].landmarks, found[1].landmarks, rtol=0, atol=1e-4)
