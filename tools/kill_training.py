"""Kills training with SIGKILL at random moments and compares what it comes to with a run that nobody killed.

python tools/kill_training.py --kills 200

The run is tiny: drawn faces, a model of a few thousand weights, a save after each epoch, a validation after every second one.
Each round starts the training and kills it some random moment after it has begun, or after it has saved once or twice; the next
round goes on from what is on the disk. In the end
all tensors of the last checkpoint, the weights of the best validation and the log must be those of the run that was left alone,
bit for bit. If a run has come to its end, the next one starts anew, until there were enough kills.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import yaml
from nursery import Nursery, tell

from ldeq.engine import checkpoint
from ldeq.engine.settings import from_mapping, to_mapping

WORK = """
from pathlib import Path
from ldeq.engine import Trainer
from ldeq.engine.console import Console
from ldeq.engine.settings import read

def work(config):
    Trainer(read(Path(config)), Console(False)).fit("auto")
"""


def settings(folder: Path, epochs: int) -> dict[str, Any]:
    model = {"preset": "tiny", "landmarks": 98, "image_size": 32, "width": 16, "width_increment": 8, "depth": 1, "groups": 4}
    document = {
        "model": model,
        "data": {"train": ["synthetic:8#size=48"], "val": ["synthetic:2#size=48"], "workers": 0, "cache": True},
        "optim": {"ema": 0.9},
        "run": {"out": str(folder), "epochs": epochs, "batch": 4, "log_every": 1, "validate_every": 2, "device": "cpu"},
    }
    return to_mapping(from_mapping(document))


def outcome(folder: Path) -> tuple[dict[str, torch.Tensor], list[dict[str, Any]]]:
    """All tensors that a run leaves, and its log without what a clock or a memory decides."""
    found = checkpoint.newest(folder)
    assert found is not None and found.complaints == [], found
    tensors = {f"{g}/{n}": t for g, ts in found.groups.items() for n, t in ts.items()}
    tensors |= {f"best/{n}": t for n, t in checkpoint.load(folder / "best.safetensors")[0]["model"].items()}
    rows = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    changing = ("images_per_s", "memory_mb")
    return tensors, [{k: v for k, v in row.items() if k not in changing} for row in rows]


def differences(whole: Path, killed: Path) -> list[str]:
    """Names of the tensors and log lines in which two runs differ."""
    (a, rows_a), (b, rows_b) = outcome(whole), outcome(killed)
    names = [
        name for name in sorted(a.keys() | b.keys()) if name not in a or name not in b or not torch.equal(a[name], b[name])
    ]
    return names + ([] if rows_a == rows_b else ["log.jsonl"])


def kill_and_compare(
    kills: int, seed: int, base: Path, epochs: int = 6, progress: Callable[[str], None] | None = None
) -> dict[str, int]:
    """Kills until there were enough, and compares every run that came to its end.

    Args:
        kills: how many.
        seed: of the moments.
        base: an empty folder.
        epochs: of the training.
        progress: called with a line after every kill.

    Returns:
        counts: ``kills``, ``runs`` that came to their end, ``during_save``: kills that left a temporary file.

    Raises:
        AssertionError: if a run differs, or ends otherwise than by a kill.
    """
    rng = random.Random(seed)
    base.mkdir(parents=True, exist_ok=True)
    nursery = Nursery(WORK)
    counts = {"kills": 0, "runs": 0, "during_save": 0}
    try:
        config = base / "whole.yaml"
        config.write_text(yaml.safe_dump(settings(base / "whole", epochs)))
        nursery.start(str(config))
        begin = time.monotonic()
        assert nursery.wait() == 0
        epoch = (time.monotonic() - begin) / (epochs + 1)  # loading takes about as long as an epoch
        config, folder = base / "killed.yaml", base / "killed"
        config.write_text(yaml.safe_dump(settings(folder, epochs)))
        while counts["kills"] < kills or counts["runs"] == 0 or folder.exists():
            child = nursery.start(str(config))
            if counts["kills"] < kills:
                _wait_for_saves(folder, rng.choice((0, 0, 1, 1, 2)), child)
                time.sleep(rng.uniform(0.0, 2 * epoch))
                with contextlib.suppress(ProcessLookupError):  # it has just come to its end
                    os.kill(child, signal.SIGKILL)
            status = nursery.wait()
            assert status in (0, -signal.SIGKILL), f"training ended with {status}"
            if status == 0:
                found = differences(base / "whole", folder)
                assert found == [], f"seed {seed}, after {counts['kills']} kills: {found}"
                counts["runs"] += 1
                shutil.rmtree(folder)
            else:
                counts["kills"] += 1
                counts["during_save"] += any(p.suffix == ".tmp" for p in folder.glob(".*"))
                if progress is not None:
                    progress(f"{counts['kills']} of {kills} kills, {counts['runs']} runs came to their end and were right")
    finally:
        nursery.close()
    return counts


def _wait_for_saves(folder: Path, count: int, child: int) -> None:
    """Waits until the training of process `child` has saved so often, or has ended."""
    seen = _saved(folder)
    with contextlib.suppress(ProcessLookupError):
        while count > 0:
            os.kill(child, 0)
            time.sleep(0.002)
            now = _saved(folder)
            count, seen = count - (now != seen), now


def _saved(folder: Path) -> str:
    return max((p.name for p in folder.glob("step-*.safetensors")), default="")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--record", type=Path, help="a JSON file for the counts")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="ldeq-kills-") as folder:
        counts = kill_and_compare(options.kills, options.seed, Path(folder), progress=tell)
    found = json.dumps({"seed": options.seed, **counts})
    if options.record:
        options.record.write_text(found + "\n")
    print(found)


if __name__ == "__main__":
    main()
