"""Inference by each engine, against onnxruntime on the exported model."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray

from ldeq.data import normalise
from ldeq.export import folded_of, onnx_model
from ldeq.models import LDEQ
from ldeq.models.inference.engine import MODULES
from ldeq.models.inference.onnxruntime_engine import open_session

EXPORTED = "exported, onnxruntime"
ENGINES = {"modules": MODULES, "folded, oneDNN": "torch", "onnxruntime engine": "onnxruntime"}


@contextmanager
def threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def candidates(model: LDEQ, images: NDArray[np.uint8], evaluations: int) -> dict[str, Callable[[int], object]]:
    """Runs of `evaluations` each, from one state: the exported model first, then the model by each of its engines.

    Args:
        model: in eval mode; none of its samples may stop early.
        images: `(B, S, S, 3)` uint8 crops.
        evaluations: of the cell, >= 1.
    """
    z = model.initial_state(len(images))
    session = open_session(onnx_model(folded_of(model), model.config.eps, evaluations), torch.get_num_threads())
    # The exported model takes pixels; the others take what `normalise` made of them.
    normalised = normalise(torch.from_numpy(images).permute(0, 3, 1, 2))

    def run(engine: str) -> Callable[[int], object]:
        def one(_: int) -> object:
            model.engine = engine
            with torch.no_grad():
                return model(normalised, z, evaluations - 1).landmarks

        return one

    feed = {"images": images, "z0": z.numpy()}
    return {EXPORTED: lambda _: session.run(None, feed), **{name: run(engine) for name, engine in ENGINES.items()}}


def compare(model: LDEQ, batch: int, evaluations: int, count: int, rounds: int) -> dict[str, float]:
    """Median milliseconds of each candidate, and its time over that of the exported model: the median of paired rounds.

    With one thread these are milliseconds of its processor time, which other processes do not lengthen by taking the core;
    with several those of the clock.
    """
    size = model.config.image_size
    images = np.random.default_rng(0).integers(0, 256, (batch, size, size, 3), dtype=np.uint8)
    with threads(count):
        times = _times(candidates(model, images, evaluations), time.thread_time if count == 1 else time.perf_counter, rounds)
    row = {f"{name}, ms": 1e3 * statistics.median(t) for name, t in times.items()}
    base = times.pop(EXPORTED)
    ratios = {name: statistics.median(a / b for a, b in zip(t, base, strict=True)) for name, t in times.items()}
    return row | {f"{name} / exported": ratio for name, ratio in ratios.items()}


def _times(
    candidates: dict[str, Callable[[int], object]], clock: Callable[[], float], rounds: int, warm: int = 3
) -> dict[str, list[float]]:
    """Seconds of every candidate, one after another in each round."""
    times: dict[str, list[float]] = {name: [] for name in candidates}
    for i in range(-warm, rounds):
        for name, run in candidates.items():
            begin = clock()
            run(i)
            if i >= 0:
                times[name].append(clock() - begin)
    return times


def accuracy(model: LDEQ, crops: NDArray[np.uint8], truth: NDArray[np.float32], outer_eyes: tuple[int, int]) -> dict[str, dict]:
    """NME in percent by each engine under the model's own solver, and by the exported model with as many evaluations, all
    spent; and how far landmarks are from those of the modules at most, in sides of the crop.

    Args:
        model: in eval mode.
        crops: `(N, S, S, 3)` uint8.
        truth: `(N, K, 2)` in pixels of the crops.
        outer_eyes: the landmarks whose distance normalises.
    """
    size, c = model.config.image_size, model.config
    found: dict[str, NDArray[np.float32]] = {}
    normalised = normalise(torch.from_numpy(crops).permute(0, 3, 1, 2))
    for name, engine in ENGINES.items():
        model.engine = engine
        with torch.no_grad():
            found[name] = torch.cat([model(part).landmarks for part in normalised.split(16)]).numpy() * size
    session = open_session(onnx_model(folded_of(model), c.eps, c.max_iter + c.final_evaluation), torch.get_num_threads())
    z = np.zeros((len(crops), c.landmarks, c.heatmap_size, c.heatmap_size), np.float32)
    parts = [slice(i, i + 16) for i in range(0, len(crops), 16)]
    found[EXPORTED] = np.concatenate([session.run(None, {"images": crops[p], "z0": z[p]})[0] for p in parts])
    eyes = np.linalg.norm(truth[:, outer_eyes[0]] - truth[:, outer_eyes[1]], axis=-1)
    results = {}
    for name, points in found.items():
        nme = 100 * (np.linalg.norm(points - truth, axis=-1).mean(1) / eyes).mean()
        off = float(np.abs(points - found["modules"]).max() / size)
        results[name] = {"NME %": float(nme), "farthest from the modules": off}
    return results
