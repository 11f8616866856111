"""Peak memory of a training step against the budget of the solve: flat for an implicit layer, a line for an unrolled one."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib
import torch
from torch.profiler import ProfilerActivity, profile

from ldeq.models import LDEQ, LDEQConfig

matplotlib.use("Agg")
from matplotlib import pyplot as plt

GRADIENTS = ("implicit", "jfb", "unrolled")
BUDGETS = (4, 8, 16, 32, 64)


def peak_bytes(run: Callable[[], object], device: str = "cpu") -> int:
    """Most bytes that tensors held at any moment of `run`, above what was held before."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        run()
        return torch.cuda.max_memory_allocated(device) - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        run()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        record.export_chrome_trace(str(path))
        events = json.loads(path.read_text())["traceEvents"]
    changes = sorted((e["ts"], i, e["args"]["Bytes"]) for i, e in enumerate(events) if e.get("name") == "[memory]")
    held = peak = 0
    for _, _, change in changes:
        held += change
        peak = max(peak, held)
    return peak


def _backward(model: LDEQ, images: torch.Tensor) -> None:
    model(images).landmarks.sum().backward()


def against_budget(
    config: LDEQConfig, batch: int, device: str = "cpu", budgets: tuple[int, ...] = BUDGETS
) -> dict[str, dict[str, float]]:
    """Peak bytes of forward and backward by gradient and by max_iter, both solves having that budget and using all of it."""
    found: dict[str, dict[str, float]] = {}
    images = torch.randn(batch, 3, config.image_size, config.image_size, device=device)
    for gradient in GRADIENTS:
        found[gradient] = {}
        for budget in budgets:
            torch.manual_seed(0)
            # The backward solve takes its budget and its tolerance from the forward one.
            options: dict[str, Any] = {"max_iter": budget, "tol": 0.0, "backward_max_iter": None, "backward_tol": None}
            model = LDEQ(replace(config, gradient=gradient, **options)).to(device)
            _backward(model, images)  # gradients and the library's own buffers exist from here on
            found[gradient][str(budget)] = peak_bytes(partial(_backward, model, images), device)
    return found


def plot(found: dict[str, dict[str, float]], title: str, path: Path) -> None:
    figure, axes = plt.subplots(figsize=(5, 3.4))
    for gradient, peaks in found.items():
        axes.plot([int(n) for n in peaks], [p / 2**20 for p in peaks.values()], marker="o", label=gradient)
    axes.set(xscale="log", yscale="log", xlabel="max_iter", ylabel="peak memory, MiB", title=title)
    axes.set_xticks([int(n) for n in next(iter(found.values()))], labels=list(next(iter(found.values()))))
    axes.minorticks_off()
    axes.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)
