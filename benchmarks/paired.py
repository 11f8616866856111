"""Interleaved timing: every candidate once per round, so that a busy moment of the machine hits all of them."""

from __future__ import annotations

import hashlib
import json
import platform
import statistics
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"


def paired(candidates: dict[str, Callable[[int], object]], rounds: int = 15, warm: int = 3) -> dict[str, dict[str, float]]:
    """Milliseconds per candidate: median, best and, over the paired rounds, the median ratio to the first candidate.

    Args:
        candidates: by name, called with the number of the round (to rotate inputs); the first one is ours.
        rounds, warm: measured and unmeasured rounds.
    """
    times: dict[str, list[float]] = {name: [] for name in candidates}
    for i in range(-warm, rounds):
        for name, run in candidates.items():
            begin = time.perf_counter()
            run(i + warm)
            if i >= 0:
                times[name].append(1e3 * (time.perf_counter() - begin))
    ours = next(iter(times.values()))
    return {
        name: {
            "median_ms": statistics.median(t),
            "best_ms": min(t),
            "ratio": statistics.median(a / b for a, b in zip(t, ours, strict=True)),
            "best_ratio": min(t) / min(ours),
        }
        for name, t in times.items()
    }


def save(name: str, what: str, results: dict[str, dict[str, float]]) -> None:
    """Writes `results/<name>.json` with everything that says where the numbers come from."""
    RESULTS.mkdir(exist_ok=True)
    record = {
        "what": what,
        "device": _processor(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "commit": _git("rev-parse", "--short", "HEAD") + ("+" if _git("status", "--porcelain", "csrc", "ldeq") else ""),
        "kernel_sources": source_hash(),
        "results": results,
    }
    (RESULTS / f"{name}.json").write_text(json.dumps(record, indent=1) + "\n")


def source_hash() -> str:
    """The hash that setup.py writes into the build's report."""
    digest = hashlib.sha256()
    for path in sorted(p for p in (ROOT / "csrc").rglob("*") if p.suffix in (".cpp", ".h", ".cu", ".cuh")):
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def _git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True).stdout.strip()


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())
