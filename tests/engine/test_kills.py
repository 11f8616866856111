"""kill -9 at random moments: the resumed run equals one that was left alone, bit for bit."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from kill_training import differences, kill_and_compare

from ldeq.engine import checkpoint


def test_a_training_that_is_killed_again_and_again_comes_to_the_same_end(tmp_path: Path) -> None:
    counts = kill_and_compare(kills=5, seed=3, base=tmp_path, epochs=4)
    assert counts["kills"] == 5
    assert counts["runs"] >= 1


def test_a_single_other_bit_in_weights_or_log_is_a_difference(tmp_path: Path) -> None:
    for name, value in (("a", 1.0), ("b", 1.0), ("c", 1.0000001)):
        folder = tmp_path / name
        folder.mkdir()
        checkpoint.save(folder / "step-00000001.safetensors", {"model": {"w": torch.tensor([value])}}, {"saved": 1})
        checkpoint.save(folder / "best.safetensors", {"model": {"w": torch.ones(1)}}, {})
        (folder / "log.jsonl").write_text(json.dumps({"step": 1, "loss": 2.0, "memory_mb": value}) + "\n")
    assert differences(tmp_path / "a", tmp_path / "b") == []
    assert differences(tmp_path / "a", tmp_path / "c") == ["model/w"]
    (tmp_path / "b" / "log.jsonl").write_text("")
    assert differences(tmp_path / "a", tmp_path / "b") == ["log.jsonl"]
    with pytest.raises(AssertionError):
        (tmp_path / "b" / "step-00000001.safetensors").unlink()
        differences(tmp_path / "a", tmp_path / "b")
