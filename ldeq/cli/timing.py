"""Interleaved timing: every candidate once per round, so that a busy moment of the machine hits all of them."""

from __future__ import annotations

import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch

Timings = dict[str, dict[str, float]]


def paired(
    candidates: Mapping[str, Callable[[int], object]], *, device: str | torch.device = "cpu", rounds: int = 15, warm: int = 3
) -> Timings:
    """Milliseconds per candidate: ``median_ms``, ``best_ms``, ``p20_ms``, ``p80_ms``; ``ratio``, the median over the rounds of
    its time over the first candidate's; and ``best_ratio``, that of the best times.

    Args:
        candidates: by name, called with the number of the round (to rotate inputs); the first one is ours.
        device: on a CUDA device times are those between events, elsewhere those of the clock.
        rounds, warm: measured and unmeasured rounds.
    """
    clock = _events if torch.device(device).type == "cuda" else _wall
    times: dict[str, list[float]] = {name: [] for name in candidates}
    for i in range(-warm, rounds):
        for name, run in candidates.items():
            elapsed = clock(run, i + warm)
            if i >= 0:
                times[name].append(elapsed)
    ours = next(iter(times.values()))
    return {
        name: {
            "median_ms": statistics.median(t),
            "best_ms": min(t),
            "p20_ms": quantile(t, 0.2),
            "p80_ms": quantile(t, 0.8),
            "ratio": statistics.median(a / b for a, b in zip(t, ours, strict=True)),
            "best_ratio": min(t) / min(ours),
        }
        for name, t in times.items()
    }


def quantile(times: list[float], share: float) -> float:
    return sorted(times)[round(share * (len(times) - 1))]


def copy_bandwidth(device: str | torch.device, elements: int | None = None, rounds: int = 9) -> float:
    """Bytes a second, read and written, of the fastest copy of `elements` float32 (64 Mi on a GPU, 16 Mi elsewhere)."""
    cuda = torch.device(device).type == "cuda"
    elements = elements or (1 << 26 if cuda else 1 << 24)
    source = torch.ones(elements, device=device)
    target = torch.empty_like(source)
    clock = _events if cuda else _wall
    best = min(clock(lambda _: target.copy_(source), i) for i in range(rounds))
    return 2 * source.nbytes / (best / 1e3)


def machine(device: str | torch.device = "cpu") -> dict[str, object]:
    """What a figure was taken on: device, threads or driver, and versions."""
    facts: dict[str, object] = {"torch": torch.__version__, "python": platform.python_version()}
    if torch.device(device).type == "cuda":
        return {"device": torch.cuda.get_device_name(device), "driver": _driver(), "cuda": torch.version.cuda} | facts
    return {"device": _processor(), "threads": torch.get_num_threads()} | facts


def _wall(run: Callable[[int], object], i: int) -> float:
    begin = time.perf_counter()
    run(i)
    return 1e3 * (time.perf_counter() - begin)


def _events(run: Callable[[int], object], i: int) -> float:
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    begin.record()
    run(i)
    end.record()
    end.synchronize()
    return begin.elapsed_time(end)


def _driver() -> str:
    try:
        query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader", "--id=0"]
        return subprocess.run(query, capture_output=True, text=True, timeout=30, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return "unknown"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())
