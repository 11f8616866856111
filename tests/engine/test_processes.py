"""Several processes train one model: the score is that of the file, each owns its device, a lost one is named."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from torch import distributed as dist

from ldeq.data import DataError, LandmarkDataset, open_faces
from ldeq.engine import SettingsError, Trainer, TrainSettings, evaluate, load_pretrained
from ldeq.engine.console import Console
from ldeq.engine.device import known_devices, memory_mb, resolve_device
from ldeq.engine.distributed import _first_line, process_group
from ldeq.engine.interruption import StopRequest
from ldeq.engine.settings import to_mapping
from ldeq.errors import LdeqError

Make = Callable[..., TrainSettings]

PROGRAM = """
import os, signal, sys, torch
from pathlib import Path
torch.set_num_threads(1)
from ldeq.engine import Trainer, distributed
from ldeq.engine.settings import read
from ldeq.errors import LdeqError
distributed.ROLL_CALL_SECONDS = 2.0
config, mode = Path(sys.argv[1]), sys.argv[2]
rank = int(os.environ["RANK"])
try:
    with distributed.process_group(torch.device("cpu"), timeout=60 if mode != "hangs" else 8):
        trainer = Trainer(read(config))
        if mode != "train":
            step = trainer.train_step
            class Lost:
                unfinished, bad_steps = False, 0
                def __call__(self, *arguments):
                    row = step(*arguments)
                    if trainer.step == 1 and rank == 1:
                        os.kill(os.getpid(), {"dies": signal.SIGKILL, "hangs": signal.SIGSTOP}[mode])
                    return row
            trainer.train_step = Lost()
        trainer.fit("auto")
        print("TRAINED", flush=True)
except LdeqError as error:
    print(f"error: {error}", flush=True)
os._exit(0)
"""


def start(config: Path, mode: str) -> list[subprocess.Popen[str]]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes = []
    for rank in (0, 1):
        environment = {"RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        command = [sys.executable, "-c", PROGRAM, str(config), mode]
        options: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        processes.append(subprocess.Popen(command, env={**os.environ, **environment}, **options))
    return processes


def written(settings: TrainSettings, folder: Path) -> Path:
    config = folder / "config.yaml"
    config.write_text(yaml.safe_dump(to_mapping(settings)))
    return config


def test_the_score_of_two_processes_is_that_of_the_file_that_is_written(make_settings: Make, tmp_path: Path) -> None:
    # Each process sees other faces, so that their BatchNorm statistics differ; few steps keep the differences large.
    data = {"train": ["synthetic:8#size=48"], "val": ["synthetic:5#size=48"]}
    settings = make_settings(batch=1, epochs=1, optim={"ema": 0.9, "lr": 0.01}, data=data)
    for process in start(written(settings, tmp_path), "train"):
        said, _ = process.communicate(timeout=200)
        assert "TRAINED" in said, said
    rows = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    score = next(r["nme"] for r in rows if "val" in r)
    faces = LandmarkDataset(open_faces(data["val"][0], "test"), 32)
    shipped = evaluate(load_pretrained(tmp_path / "run" / "best.safetensors").model, faces)
    assert score == pytest.approx(shipped.summary["nme"], abs=1e-3)


@pytest.mark.parametrize("mode", ["dies", "hangs"])
def test_a_process_that_is_lost_is_named_by_the_others(make_settings: Make, tmp_path: Path, mode: str) -> None:
    data = {"train": ["synthetic:8#size=48"], "val": []}
    processes = start(written(make_settings(batch=1, epochs=9, data=data), tmp_path), mode)
    try:
        said, _ = processes[0].communicate(timeout=200)
    finally:
        for process in processes:
            process.send_signal(signal.SIGKILL)
            process.wait()
    last = said.strip().splitlines()[-1]
    assert last.startswith("error: process 1 of 2 (rank) ended or does not answer; "), said
    assert "ldeq train" in last


class Machine:
    """A machine with two GPUs, as far as torch is asked about them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, rank: int, processes: int = 2, gpus: int = 2) -> None:
        self.owned: list[torch.device] = []
        self.group: dict[str, Any] = {}
        monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
        monkeypatch.setattr(torch.cuda, "set_device", self.owned.append)
        monkeypatch.setattr(dist, "init_process_group", self.init)
        monkeypatch.setattr(dist, "destroy_process_group", lambda: None)
        for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE"):
            monkeypatch.setenv(name, str(processes))
        for name in ("RANK", "LOCAL_RANK"):
            monkeypatch.setenv(name, str(rank))

    def init(self, backend: str, **options: Any) -> None:
        # NCCL sends the first bytes through the device that the process owns by then.
        self.group = {"backend": backend, "owned_before": list(self.owned), **options}


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("name", ["auto", "cuda"])
def test_each_process_owns_a_gpu_before_it_joins_the_others(monkeypatch: pytest.MonkeyPatch, rank: int, name: str) -> None:
    machine = Machine(monkeypatch, rank)
    device = resolve_device(name)
    assert device == torch.device("cuda", rank)
    with process_group(device):
        assert machine.group["backend"] == "nccl"
        assert machine.group["owned_before"] == [device]
        assert machine.group["device_id"] == device
        assert machine.group["timeout"].total_seconds() > 60


def test_processes_on_cpus_own_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(monkeypatch, 1)
    with process_group(resolve_device("cpu")):
        assert machine.group["backend"] == "gloo"
        assert machine.group["device_id"] is None
    assert machine.owned == []


def test_a_single_process_owns_the_gpu_that_it_was_told(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(monkeypatch, 0, processes=1)
    with process_group(resolve_device("cuda:1")):
        assert machine.owned == [torch.device("cuda", 1)]
    assert machine.group == {}


@pytest.mark.parametrize(
    ("name", "processes", "gpus", "sentence"),
    [
        ("cuda:7", 1, 2, "there is no device 'cuda:7' here; use one of auto, cpu, cuda, cuda:0, cuda:1"),
        ("cuda:1", 2, 2, "2 processes cannot share cuda:1; use run.device: cuda, and each takes a GPU of its own"),
        ("auto", 2, 1, "2 processes were started on a machine with 1 GPU; start at most 1, or set run.device: cpu"),
        ("cuda", 1, 0, "sees no CUDA GPU; run: ldeq doctor"),
        ("mps", 1, 0, "ldeq does not run on 'mps'; use one of auto, cpu"),
        ("meta", 1, 1, "ldeq does not run on 'meta'; use one of auto, cpu, cuda, cuda:0"),
        ("abacus", 1, 0, "unknown device 'abacus'; use one of auto, cpu"),
    ],
)
def test_a_device_that_is_not_there_is_refused_with_those_that_are(
    monkeypatch: pytest.MonkeyPatch, name: str, processes: int, gpus: int, sentence: str
) -> None:
    Machine(monkeypatch, 0, processes, gpus)
    with pytest.raises(SettingsError) as error:
        resolve_device(name)
    assert sentence in str(error.value)
    assert known_devices()[:2] == ["auto", "cpu"]


def test_memory_is_0_on_a_system_without_the_module_resource(monkeypatch: pytest.MonkeyPatch) -> None:
    assert memory_mb(torch.device("cpu")) > 10
    monkeypatch.setitem(sys.modules, "resource", None)
    assert memory_mb(torch.device("cpu")) == 0


def test_a_process_without_a_face_to_score_takes_the_result_of_the_others(
    make_settings: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    data = {"train": ["synthetic:4#size=48"], "val": ["synthetic:1#size=48"]}
    trainer = Trainer(make_settings(data=data), Console(False))
    faces, stop = trainer.data.val_sets[0], StopRequest(lambda: None)
    (tmp_path / "run").mkdir()
    whole = evaluate(trainer.evaluated, faces, share=(0, 2))

    def gather(parts: list[Any], part: Any) -> None:
        parts[:] = [whole, part]

    monkeypatch.setattr(dist, "all_gather_object", gather)
    trainer.rank, trainer.world = 1, 2
    assert np.array_equal(trainer._evaluate(faces, stop).errors, whole.errors)
    whole = None  # type: ignore[assignment]  # a process that was asked to stop
    with pytest.raises(LdeqError):
        trainer._evaluate(faces, stop)
    whole = "none of the faces can be used"  # type: ignore[assignment]
    with pytest.raises(DataError, match="none of the faces can be used"):
        trainer._evaluate(faces, stop)


def test_of_a_long_report_the_first_line_is_told() -> None:
    assert _first_line(RuntimeError("one\ntwo")) == "one"
    assert _first_line(RuntimeError("")) == "RuntimeError"
    assert _first_line(RuntimeError("x" * 300)) == "x" * 200
