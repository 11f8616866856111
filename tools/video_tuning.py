"""Filters of landmark tracks tuned on a part of the made clips; `video_report.py` says what for.

Equal NME: a filter may cost what each frame alone, unfiltered, leaves. It is tuned for the least flicker at which NME is no
larger than that, on easy and on hard clips, and every pipeline of the same weights has the same bound.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ldeq import metrics
from ldeq.data import IBUG68
from ldeq.video.evaluation import VideoTrack
from ldeq.video.filters import make_filter

LAYOUT = IBUG68
PARTS = ("easy", "hard")
Scores = Mapping[str, tuple[float, float]]

CLASSICS = ("ema", "one-euro", "savgol-causal")
LOOKING_AHEAD = ("gaussian", "savgol")
GRIDS: dict[str, list[dict[str, float]]] = {
    "ema": [{"cutoff": c} for c in (2, 3, 4, 5, 6, 8, 10, 13, 16, 20, 25, 32, 50, 100, 200)],
    "one-euro": [
        {"min_cutoff": c, "beta": b, "derivative_cutoff": d}
        for c in (1.0, 2.0, 4.0, 6.0, 9.0, 13.0, 18.0, 26.0, 38.0, 55.0, 80.0)
        for b in (1.0, 4.0, 16.0)
        for d in (1.0, 5.0)
    ],
    "savgol-causal": [{"window": w, "order": o} for o in (1, 2, 3) for w in (3, 4, 5, 6, 7, 9, 11) if w > o],
    "gaussian": [{"sigma": s / 100} for s in (1, 1.5, 2, 2.5, 3, 4, 5, 7, 10)],
    "savgol": [{"window": w, "order": o} for o in (1, 2, 3) for w in (3, 5, 7, 9, 11, 13) if w > o],
}
# A fixed start, so that the defaults can become what is found.
FACE_START = {
    "noise": 0.104,
    "pose_process": 0.28,
    "bend_process": 0.0588,
    "opening_process": 0.066,
    "detail_process": 0.017,
    "lively_process": 0.044,
    "pose_speed": 0.01,
    "bend_speed": 0.8,
    "opening_speed": 6.0,
    "detail_speed": 0.01,
    "trend": 0.05,
    "speed_cutoff": 47.6,
    "bend_gate": 1.0,
    "opening_gate": 50.0,
    "detail_gate": 10.0,
    "consensus": 1.0,
    "caution": 1.2,
    "usual": 2.0,
    "std_floor": 0.005,
}
FACE_FACTORS = (1.7, 1.25)


class Figures:
    """NME and NMF of filtered tracks by difficulty, fast enough for a grid: causal filters run on many tracks at once."""

    def __init__(self, tracks: Sequence[VideoTrack]) -> None:
        self.tracks = tracks
        # A filter's settings are in seconds: only tracks of one frame rate run side by side.
        self._batches = []
        for fps in sorted({t.fps for t in tracks}):
            alike = [i for i, t in enumerate(tracks) if t.fps == fps]
            longest = max(len(tracks[i].points) for i in alike)
            held = [np.minimum(np.arange(longest), len(tracks[i].points) - 1) for i in alike]
            predicted, std = (
                np.stack([getattr(tracks[i], name)[rows] for i, rows in zip(alike, held, strict=True)], 1).astype(np.float64)
                for name in ("predicted", "std")
            )
            self._batches.append((fps, alike, predicted, std))

    def __call__(self, name: str | None, settings: Mapping[str, Any]) -> dict[str, tuple[float, float]]:
        """Difficulty -> (NME, NMF)."""
        rows: dict[str, list[tuple[float, float]]] = {part: [] for part in PARTS}
        for i, p in self._smoothed(name, settings):
            truth = self.tracks[i].points.astype(np.float64)
            nme = 100 * float(metrics.video_nme(p, truth, LAYOUT.inter_ocular(truth)).mean())
            rows[self.tracks[i].name.split("-")[0]].append((nme, metrics.normalised_mean_flicker(p, truth)))
        return {part: tuple(np.mean(v, axis=0).tolist()) for part, v in rows.items()}

    def _smoothed(self, name: str | None, settings: Mapping[str, Any]) -> Iterator[tuple[int, NDArray[np.float64]]]:
        """(number of a track, `(T, K, 2)`)."""
        smooth = make_filter(name, LAYOUT, **settings) if name else None
        for fps, alike, predicted, std in self._batches:
            together = predicted
            if smooth is not None and smooth.causal:
                together = smooth.track_batch(predicted, std, fps)  # type: ignore[attr-defined]
            for place, i in enumerate(alike):
                t = self.tracks[i]
                if smooth is not None and not smooth.causal:
                    yield i, smooth.track(t.predicted, t.std, fps)
                else:
                    yield i, together[: len(t.points), place]


def cost(figures: Scores, bound: Mapping[str, float]) -> float:
    """log NMF, and a wall where NME exceeds its bound."""
    wall = sum(max(0.0, figures[part][0] / bound[part] - 1) for part in PARTS)
    return sum(math.log(figures[part][1]) for part in PARTS) + 200 * wall


def tune(
    figures: Figures, bound: Mapping[str, float], ahead: bool
) -> tuple[dict[str, dict[str, float]], dict[str, dict[str, tuple[float, float]]]]:
    """The settings of every filter behind one way of tracking, chosen on these tracks, and what they reach there.

    Args:
        figures: of the tracks.
        bound: difficulty -> the largest NME.
        ahead: also the filters that look ahead.
    """
    settings: dict[str, dict[str, float]] = {}
    for kind in (*CLASSICS, *(LOOKING_AHEAD if ahead else ())):
        costs = [cost(figures(kind, candidate), bound) for candidate in GRIDS[kind]]
        settings[kind] = GRIDS[kind][costs.index(min(costs))]
    settings["face-frame"] = descend(figures, bound)
    return settings, {kind: figures(kind, s) for kind, s in settings.items()}


def descend(figures: Figures, bound: Mapping[str, float]) -> dict[str, float]:
    """Settings of the face-frame filter, one after another along a grid of factors, twice, the second time finer."""
    best = dict(FACE_START)
    lowest = cost(figures("face-frame", best), bound)
    for step in FACE_FACTORS:
        for key in best:
            for factor in (step, 1 / step):
                improved = False
                while True:
                    trial = {**best, key: float(f"{best[key] * factor:.3g}")}
                    value = cost(figures("face-frame", trial), bound)
                    if value >= lowest - 1e-3:
                        break
                    best, lowest, improved = trial, value, True
                if improved:
                    break
    return best
