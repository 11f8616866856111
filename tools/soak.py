"""A long run in one process: does it get slower or larger?

python tools/soak.py --record tests/soak_record.json

Three runs, each a process of its own: 10,000 frames of a stream in which two drawn faces come and go, 1,000 steps of a tiny
training, and 2,000 solves. Each is cut into 40 blocks. After the first fifth, which fills caches, the second half of the blocks
is compared with the first: the median of the processor's time, and the growth of the memory that the process holds.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

BLOCKS = 40
SLOWER = 1.15
"""What the second half may take of the time of the first; single blocks on a busy machine differ by more."""
LARGER = 16
"""MiB by which the process may grow from the first half to the second."""

COUNTS = {"frames": 10_000, "steps": 1_000, "solves": 2_000}


def frames() -> Callable[[int], None]:
    """One frame of 160 x 160 pixels: each of two faces is there for some seconds, and then is not."""
    from ldeq import Landmarker
    from ldeq.data import open_faces

    drawn = open_faces("synthetic:2#size=80")
    faces = [(drawn.read(i), drawn.record(i).points) for i in range(2)]
    stream: Any = None
    shown: list[int] = []
    seen = [0]

    def detect(picture: np.ndarray) -> np.ndarray:
        boxes = [(faces[i][1].min(0) + 80 * i, faces[i][1].max(0) + 80 * i) for i in shown]
        return np.array([[*low, *high] for low, high in boxes]).reshape(-1, 4)

    def run(t: int) -> None:
        nonlocal stream
        if stream is None:
            stream = Landmarker.load("small-68", "cpu").stream(detector=detect, detect_every=5, smooth="one-euro")
        shown[:] = [i for i in range(2) if t // 15 % 4 in ((0, 1), (1, 3))[i]]
        picture = np.full((160, 160, 3), 90, np.uint8)
        picture += np.random.default_rng(t).integers(0, 5, picture.shape, np.uint8)
        for i in shown:
            picture[80 * i : 80 * i + 80, 80 * i : 80 * i + 80] = faces[i][0]
        seen[0] += len(stream(picture, t / 30))
        if t == 59:
            assert seen[0] > 20, "no face was followed"

    return run


def steps() -> Callable[[int], None]:
    from ldeq.engine import Trainer
    from ldeq.engine.console import Console
    from ldeq.engine.settings import from_mapping

    model = {"preset": "tiny", "landmarks": 98, "image_size": 32, "width": 16, "width_increment": 8, "depth": 1, "groups": 4}
    folder = tempfile.TemporaryDirectory()
    document = {
        "model": model,
        "data": {"train": ["synthetic:16#size=48"], "val": [], "workers": 0, "cache": True},
        "optim": {"ema": 0.9},
        "run": {"out": folder.name, "batch": 4, "device": "cpu"},
    }
    trainer = Trainer(from_mapping(document), Console(False))
    batches: Any = iter(())

    def run(t: int) -> None:
        nonlocal batches
        item: Any = next(batches, None)
        if item is None:
            batches = iter(trainer.data.batches(t, 0))
            item = next(batches)
        trainer.train_step(item, 1e-4)
        assert folder

    return run


def solves() -> Callable[[int], None]:
    from ldeq.solvers import SOLVERS

    generator = torch.Generator().manual_seed(0)
    a = 0.5 * torch.linalg.qr(torch.randn(256, 256, generator=generator))[0]

    def run(t: int) -> None:
        solver = list(SOLVERS.values())[t % len(SOLVERS)]
        start = torch.zeros(1 + t % 8, 256)
        found = solver(lambda z: torch.tanh(z @ a + 0.1), start, max_iter=30, tol=1e-5)
        assert found.residual.isfinite().all()

    return run


RUNS: dict[str, Callable[[], Callable[[int], None]]] = {"frames": frames, "steps": steps, "solves": solves}


def resident() -> int:
    """Bytes of memory that this process holds."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def soak(run: Callable[[int], None], count: int) -> dict[str, Any]:
    """Runs `count` units and compares the two halves of what follows the first fifth.

    Returns:
        count; ms, of the processor, of a unit in each half; mib, held in the middle of each half; times, second half to first.
    """
    seconds, held = [], []
    gc.freeze()  # a collection looks only at what the run makes
    for block in range(BLOCKS):
        begin = time.process_time()
        units = range(count * block // BLOCKS, count * (block + 1) // BLOCKS)
        for t in units:
            run(t)
        seconds.append((time.process_time() - begin) / len(units))
        gc.collect()
        held.append(resident())
    gc.unfreeze()
    warm = BLOCKS // 5
    middle = (warm + BLOCKS) // 2
    ms = [1000 * statistics.median(half) for half in (seconds[warm:middle], seconds[middle:])]
    mib = [statistics.median(half) / 2**20 for half in (held[warm:middle], held[middle:])]
    return {
        "count": count,
        "ms": [round(v, 3) for v in ms],
        "mib": [round(v, 1) for v in mib],
        "slower": round(ms[1] / ms[0], 3),
        "larger_mib": round(mib[1] - mib[0], 1),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--record", type=Path, help="where the figures go")
    parser.add_argument("--share", type=float, default=1.0, help="of the counts")
    parser.add_argument("names", nargs="*", help=f"of {', '.join(RUNS)}; all if absent")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    names = given.names or list(RUNS)
    if given.here:
        torch.set_num_threads(1)
        (name,) = names
        print(json.dumps(soak(RUNS[name](), max(int(COUNTS[name] * given.share), BLOCKS))))
        return 0
    record = json.loads(given.record.read_text()) if given.record and given.record.exists() else {}
    for name in names:
        command = [sys.executable, __file__, "--here", "--share", str(given.share), name]
        ended = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        record[name] = json.loads(ended.stdout.splitlines()[-1])
        print(name, record[name], flush=True)
        if given.record:
            given.record.write_text(json.dumps(record, indent=1) + "\n")
    return int(any(record[name]["slower"] > SLOWER or record[name]["larger_mib"] > LARGER for name in names))


if __name__ == "__main__":
    sys.exit(main())
