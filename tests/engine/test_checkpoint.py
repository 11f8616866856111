"""What was saved before must load, whatever happens to the writer."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from ldeq.engine import checkpoint
from ldeq.engine.checkpoint import CheckpointError

WRITER = """
import sys, torch
from pathlib import Path
from ldeq.engine import checkpoint
folder = Path(sys.argv[1])
for step in range(1, 100000):
    tensors = {"a": torch.full((2_000_000,), float(step))}
    checkpoint.save(folder / f"step-{step:08d}.safetensors", {"model": tensors}, {"step": step})
    checkpoint.prune(folder, 2)
    print(step, flush=True)
"""

LIMITED_WRITER = """
import resource, signal, sys, torch
from pathlib import Path
from ldeq.engine import checkpoint
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # the write then fails with an error instead of killing the process
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    checkpoint.save(Path(sys.argv[1]), {"model": {"a": torch.zeros(1_000_000)}}, {"step": 2})
except checkpoint.CheckpointError as error:
    print(error)
"""


def test_a_checkpoint_gives_back_what_was_saved(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "step-00000001.safetensors"
    groups = {
        "model": {"a.b": torch.randn(3, 4), "empty": torch.zeros(0)},
        "rng": {"torch": torch.get_rng_state()},
        "optimizer": {"0/step": torch.tensor(3.0), "0/exp_avg": torch.randn(4, 3).t()},
        "half": {"h": torch.randn(5).bfloat16()},
    }
    checkpoint.save(path, groups, {"settings": {"x": [1, 2]}, "nothing": None})
    loaded, document = checkpoint.load(path)
    assert document["settings"] == {"x": [1, 2]}
    assert document["nothing"] is None
    for group, tensors in groups.items():
        for name, tensor in tensors.items():
            assert torch.equal(loaded[group][name], tensor)
            assert loaded[group][name].dtype == tensor.dtype


def test_kill_9_in_the_middle_of_saving_leaves_a_checkpoint_that_loads(tmp_path: Path) -> None:
    last = 0
    for delay in (0.0, 0.013, 0.029, 0.05):
        writer = subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
        assert writer.stdout is not None
        for _ in range(3):  # it is at work: what follows hits some point of a save
            last = int(writer.stdout.readline())
        time.sleep(delay)
        writer.send_signal(signal.SIGKILL)
        writer.wait()
        found = checkpoint.newest(tmp_path)
        assert found is not None
        _, groups, document, complaints = found
        assert complaints == []  # not even the newest name may hold half a file
        assert document["step"] >= last
        assert torch.equal(groups["model"]["a"], torch.full((2_000_000,), float(document["step"])))
        for path in checkpoint.checkpoints(tmp_path):
            path.unlink()
    checkpoint.prune(tmp_path, 1)
    assert list(tmp_path.iterdir()) == []  # the killed writers' leftovers are cleared away


def test_a_write_that_fails_half_way_keeps_the_previous_file(tmp_path: Path) -> None:
    path = tmp_path / "step-00000001.safetensors"
    checkpoint.save(path, {"model": {"a": torch.ones(3)}}, {"step": 1})
    told = subprocess.run([sys.executable, "-c", LIMITED_WRITER, str(path)], capture_output=True, text=True, check=True)
    assert "whatever was saved before is untouched" in told.stdout
    groups, document = checkpoint.load(path)
    assert document["step"] == 1
    assert torch.equal(groups["model"]["a"], torch.ones(3))
    assert [p.name for p in tmp_path.iterdir()] == [path.name]  # no half file left to fill the disk


def test_a_full_disk_is_called_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    path = tmp_path / "a.safetensors"
    checkpoint.save(path, {"model": {"a": torch.ones(3)}}, {"step": 1})
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(CheckpointError, match="the disk is full"):
            checkpoint.save(path, {"model": {"a": torch.zeros(3)}}, {"step": 2})
    assert checkpoint.load(path)[1]["step"] == 1


def test_a_truncated_newest_checkpoint_is_passed_over_and_named(tmp_path: Path) -> None:
    for step in (1, 2):
        path = tmp_path / f"step-{step:08d}.safetensors"
        checkpoint.save(path, {"model": {"a": torch.full((1000,), float(step))}}, {"step": step})
    path.write_bytes(path.read_bytes()[:2000])
    found = checkpoint.newest(tmp_path)
    assert found is not None
    assert found[2]["step"] == 1
    assert "truncated" in found[3][0]
    assert path.name in found[3][0]


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"\x10\x00\x00\x00\x00\x00\x00\x00{}"])
def test_a_file_that_is_no_checkpoint_is_refused_in_a_sentence(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "step-00000001.safetensors"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=str(path)):
        checkpoint.load(path)
    with pytest.raises(CheckpointError, match="no checkpoint in .* can be read"):
        checkpoint.newest(tmp_path)


def test_foreign_safetensors_and_future_formats_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from safetensors.torch import save_file

    foreign = tmp_path / "foreign.safetensors"
    save_file({"a": torch.ones(1)}, foreign)
    with pytest.raises(CheckpointError, match="was not written by ldeq"):
        checkpoint.load(foreign)
    future = tmp_path / "future.safetensors"
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "FORMAT", 99)
        checkpoint.save(future, {"model": {"a": torch.ones(1)}}, {})
    with pytest.raises(CheckpointError, match="format 99, this version reads 2; update ldeq"):
        checkpoint.load(future)
    with pytest.raises(CheckpointError, match="there is no file"):
        checkpoint.load(tmp_path / "absent.safetensors")
    assert checkpoint.newest(tmp_path) is None
