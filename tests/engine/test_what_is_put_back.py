"""What a resume, a start from other weights and a lock put into place is what they say."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch

from ldeq.data import LandmarkDataset, Layout, crop_box, crop_matrix, open_faces, warp
from ldeq.data.layouts import IBUG68, WFLW98, shared_indices
from ldeq.engine import report
from ldeq.engine.optimization import optimizer_tensors
from ldeq.engine.run_lock import FolderInUse, RunLock
from ldeq.engine.train import Trainer
from ldeq.engine.transfer import transfer
from ldeq.models import LDEQ, LDEQConfig


def test_a_resume_goes_on_with_the_random_numbers_of_the_run() -> None:
    """Weights, optimizer and the global generator; without it, a cell with dropout would draw other masks after a resume."""
    torch.manual_seed(3)
    model = torch.nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    groups: dict[str, dict[str, torch.Tensor]] = {
        "model": {k: v.clone() for k, v in model.state_dict().items()},
        "optimizer": {k: v.clone() for k, v in optimizer_tensors(optimizer).items()},
        "rng": {"torch": torch.get_rng_state()},
    }
    expected = torch.rand(5)
    optimizer.step()
    run = SimpleNamespace(model=model, optimizer=optimizer, ema=None, device=torch.device("cpu"))
    Trainer._restore(cast(Trainer, run), Path("x"), groups)
    torch.testing.assert_close(torch.rand(5), expected, rtol=0, atol=0)
    torch.testing.assert_close(model.weight, groups["model"]["weight"], rtol=0, atol=0)
    now = optimizer_tensors(optimizer)
    assert all(torch.equal(now[name], tensor) for name, tensor in groups["optimizer"].items())


def test_a_lock_names_its_holder_alone_whatever_was_left_in_its_file(tmp_path: Path) -> None:
    (tmp_path / ".lock").write_text("99999999 another-machine-with-a-long-name\n" * 3)
    with RunLock(tmp_path):
        assert (tmp_path / ".lock").read_text() == f"{os.getpid()} {socket.gethostname()}\n"
    assert (tmp_path / ".lock").read_text() == ""


def test_a_folder_is_held_by_one_training_at_a_time(tmp_path: Path) -> None:
    with RunLock(tmp_path), pytest.raises(FolderInUse, match=f"process {os.getpid()} on .* trains in"):
        RunLock(tmp_path).__enter__()
    with RunLock(tmp_path):
        pass


OWN = Layout("own", 5, (1, 0, 2, 4, 3), (0, 1), {})


PAIRS = [(WFLW98, WFLW98), (WFLW98, IBUG68), (IBUG68, WFLW98), (IBUG68, OWN), (OWN, WFLW98)]


@pytest.mark.parametrize(("first", "second"), PAIRS)
def test_a_start_from_other_weights_takes_what_means_the_same(first: Layout, second: Layout) -> None:
    small = {"image_size": 32, "width": 16, "depth": 1, "groups": 4}
    torch.manual_seed(0)
    begin = LDEQ(LDEQConfig.tiny(landmarks=first.count, **small))
    model = LDEQ(LDEQConfig.tiny(landmarks=second.count, **small))
    for tensor in (*begin.parameters(), *model.parameters()):
        tensor.data.normal_()  # no bias of both is zero
    before = {k: v.clone() for k, v in model.state_dict().items()}
    said, left = transfer(cast(Any, SimpleNamespace(model=begin, layout=first, name="begin")), model, second)
    state, given = model.state_dict(), begin.state_dict()
    head, bias, mix = "deq.cell.head.weight", "deq.cell.head.bias", "deq.cell.mix.0.weight"
    by_landmark = {head, bias, mix}
    counted = {k: v for k, v in state.items() if not k.endswith("num_batches_tracked")}
    copied = 0
    for name, tensor in counted.items():
        if name not in by_landmark:
            assert torch.equal(tensor, given[name])
            copied += tensor.numel()
    assert torch.equal(state[mix][:, second.count :], given[mix][:, first.count :])
    copied += state[mix][:, second.count :].numel()
    ours, theirs = shared_indices(second, first) or ((), ())
    for k in range(second.count):
        if k in ours:
            of = theirs[ours.index(k)]
            assert torch.equal(state[head][k], given[head][of]) and state[bias][k] == given[bias][of]
            assert torch.equal(state[mix][:, k], given[mix][:, of])
            copied += state[head][k].numel() + 1 + state[mix][:, k].numel()
        else:
            assert torch.equal(state[head][k], before[head][k]) and state[bias][k] == before[bias][k]
            assert torch.equal(state[mix][:, k], before[mix][:, k])
    assert said == f"{copied} of {sum(v.numel() for v in counted.values())}"
    assert len(left) == (0 if len(ours) == second.count else 3)


def test_the_worst_faces_come_first_each_with_half_of_its_size_about_it(monkeypatch: pytest.MonkeyPatch) -> None:
    data = LandmarkDataset(open_faces("synthetic:5#size=64", "test"), 32)
    points = np.stack([data.faces.record(i).points for i in range(5)]).astype(np.float64)
    errors = np.array([0.02, 0.3, 0.1, 0.5, 0.05])
    shown: dict[str, Any] = {}

    def sheet(crops: Any, landmarks: Any, layout: Any, **options: Any) -> np.ndarray:
        shown.update(crops=crops, landmarks=landmarks, **options)
        return np.zeros((1, 1, 3), np.uint8)

    monkeypatch.setattr(report, "contact_sheet", sheet)
    result = SimpleNamespace(errors=errors, indices=np.arange(5), predicted=points)
    report.worst_faces(cast(Any, result), data, count=3)
    assert shown["titles"] == ["50.0 %  #3", "30.0 %  #1", "10.0 %  #2"]
    assert shown["columns"] == 6 and shown["tile"] == 192
    for crop, marks, index in zip(shown["crops"], shown["landmarks"], (3, 1, 2), strict=True):
        matrix = crop_matrix(crop_box("landmarks", points=points[index], scale=1.5), 192)
        np.testing.assert_array_equal(crop, warp(data.faces.read(index), matrix, 192))
        # The longer side of the face is two thirds of the tile.
        assert np.ptp(marks, axis=0).max() == pytest.approx(128, abs=0.01)
