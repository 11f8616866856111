"""A result that is printed fits on a screen: its arrays are told by type and shape, and its fields stay what they are."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import ldeq
from ldeq.data import IBUG68, FaceRecord, open_faces
from ldeq.engine.weights import load_pretrained
from ldeq.solvers import Solution, anderson
from ldeq.video.reading import VideoFrame


def halved(z: Tensor) -> Tensor:
    return 0.5 * z + 1


def test_a_solution_tells_shape_steps_residual_and_status() -> None:
    start = torch.stack([torch.zeros(4, 16, 16), torch.full((4, 16, 16), torch.nan)])
    found = anderson(halved, start, tol=1e-6, trace=True)
    text = repr(found)
    assert text.startswith("Solution(value=float32 (2, 4, 16, 16), residual=")
    assert f"iterations={found.iterations.min()} to {found.iterations.max()}, status=1 CONVERGED, 1 " in text
    assert f"trace=float32 {tuple(found.trace.shape)}" in text and len(text) < 220  # type: ignore[union-attr]
    assert [f.name for f in dataclasses.fields(found)][:4] == ["value", "residual", "iterations", "status"]
    assert torch.equal(Solution(*(getattr(found, f.name) for f in dataclasses.fields(found))).value[0], found.value[0])


def test_one_sample_has_no_range() -> None:
    found = anderson(halved, torch.zeros(1, 4), tol=1e-6)
    assert f"iterations={found.iterations.item()}, status=1 CONVERGED)" in repr(found)


def test_a_solution_without_numbers_to_read_is_shown_all_the_same() -> None:
    empty = torch.zeros(0)
    assert repr(Solution(torch.zeros(0, 3), empty, empty.long(), empty.long())).startswith("Solution(value=")
    shown: list[str] = []

    def solve(z: Tensor) -> Tensor:
        shown.append(repr(Solution(z, z.sum(-1), z.sum(-1).long(), z.sum(-1).long())))
        return z

    torch.func.vmap(solve)(torch.zeros(3, 1, 12))
    assert shown[0].startswith("Solution(")
    taken_apart = torch.utils._pytree.tree_map(lambda leaf: "leaf", anderson(halved, torch.zeros(1, 4)))
    assert "residual='leaf'" in repr(taken_apart)


def test_what_a_landmarker_gives_is_a_line() -> None:
    landmarker = ldeq.Landmarker.load("small-68", device="cpu", engine="torch")
    assert repr(landmarker) == "Landmarker('small-68', ibug-68, on cpu by torch)"
    (face,) = landmarker(np.zeros((64, 64, 3), np.uint8), boxes=[[8, 8, 56, 56]])
    text = repr(face)
    assert text.startswith("Face(points=float32 (68, 2), std=float32 (68,), box=(")
    assert "layout=Layout('ibug-68', 68 landmarks)" in text and "id=" not in text and len(text) < 260
    output = landmarker.model(torch.zeros(1, 3, 128, 128))
    assert "landmarks=float32 (1, 68, 2)" in repr(output) and len(repr(output)) < 400


@pytest.mark.parametrize(
    "result",
    [
        load_pretrained("small-68"),
        IBUG68,
        FaceRecord(Path("a.jpg"), np.zeros((68, 2))),
        VideoFrame(3, 0.12, np.zeros((480, 640, 3), np.uint8)),
        ldeq.ops.softargmax(torch.zeros(2, 98, 16, 16)),
        open_faces("synthetic:20"),
    ],
    ids=lambda result: type(result).__name__,
)
def test_other_results_fit_on_a_screen(result: object) -> None:
    assert type(result).__name__ in repr(result) and len(repr(result)) < 500
