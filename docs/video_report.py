"""Writes docs/results/video: flicker and error of pipelines side by side, on made clips with ground truth.

    ldeq data make-clips --data 300w:~/300w#helen-test --out ~/clips/tune --part tune --easy 15 --hard 15
    ldeq data make-clips --data 300w:~/300w#helen-test --out ~/clips/test --part test --easy 50 --hard 50
    python docs/video_report.py --clips ~/clips --tracks ~/clips/tracks --tune

Three steps: every way of tracking runs once over both parts, and its raw tracks are kept (`--tracks`); every filter is tuned
on the part `tune` alone (`--tune`, else `tuned.json` is read); the part `test` is scored.

Equal NME: a filter may cost what each frame alone, unfiltered, leaves. It is tuned for the least flicker at which NME is no
larger than that, on easy and on hard clips, and every pipeline has the same bound.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from matplotlib.figure import Figure

from ldeq import metrics
from ldeq.data import IBUG68
from ldeq.data.sources import open_videos
from ldeq.engine import load_pretrained
from ldeq.models import LDEQ
from ldeq.video.evaluation import COLUMNS, VideoTrack, score, track_videos
from ldeq.video.filters import make_filter
from ldeq.video.filters.factory import FILTERS
from ldeq.video.tracking import Tracker, TrackingSettings

OUT = Path(__file__).parent / "results" / "video"
LAYOUT = IBUG68
PARTS = ("easy", "hard")


@dataclass(frozen=True)
class Way:
    """A way of tracking: what the model does in each frame."""

    name: str
    settings: TrackingSettings
    budget: int | None = None
    """Cell evaluations of a full solve, the final one included, where it is not the model's own."""


NEVER: dict[str, Any] = {"check_every": 0, "settled": math.inf}
WAYS = {
    "frame": Way("each frame alone", TrackingSettings(rwr=False, **NEVER)),
    "frame-2x2": Way("each frame alone, 2 views x 2 evaluations", TrackingSettings(rwr=False, views=2, **NEVER), 2),
    "rwr": Way("RwR", TrackingSettings(iters=1, register=True, **NEVER)),
    "rwr-4x1": Way("RwR, 4 views x 1 evaluation", TrackingSettings(iters=1, views=4, register=True, **NEVER)),
}

BOUND = "frame"
CLASSICS = ("ema", "one-euro", "savgol-causal")
LOOKING_AHEAD = ("gaussian", "savgol")
GRIDS: dict[str, list[dict[str, float]]] = {
    "ema": [{"cutoff": c} for c in (2, 3, 4, 5, 6, 8, 10, 13, 16, 20, 25, 32, 50, 100)],
    "one-euro": [
        {"min_cutoff": c, "beta": b, "derivative_cutoff": d}
        for c in (1.0, 2.0, 4.0, 6.0, 9.0, 13.0, 18.0)
        for b in (1.0, 4.0, 16.0)
        for d in (1.0, 5.0)
    ],
    "savgol-causal": [{"window": w, "order": o} for o in (1, 2, 3) for w in (3, 4, 5, 6, 7, 9, 11) if w > o],
    "gaussian": [{"sigma": s / 100} for s in (1, 1.5, 2, 2.5, 3, 4, 5, 7, 10)],
    "savgol": [{"window": w, "order": o} for o in (1, 2, 3) for w in (3, 5, 7, 9, 11, 13) if w > o],
}
FACE_START = asdict(FILTERS["face-frame"][1]())
FACE_FACTORS = (1.7, 1.25)


def main(clips: Path, tracks: Path, tune: bool = False, ways: tuple[str, ...] = tuple(WAYS), threads: int = 1) -> None:
    """
    Args:
        clips: folder with the parts `tune` and `test`.
        tracks: folder of raw tracks; those that are there are not made again.
        tune: tune the filters anew, instead of reading docs/results/video/tuned.json.
        ways: the ways of tracking to compare.
        threads: of the model.
    """
    torch.set_num_threads(threads)
    OUT.mkdir(parents=True, exist_ok=True)
    parts = ("tune", "test") if tune else ("test",)
    raw = {part: {way: raw_tracks(clips / part, tracks / f"{part}-{way}.npz", WAYS[way]) for way in ways} for part in parts}
    file = OUT / "tuned.json"
    tuned = tune_all(raw["tune"]) if tune else json.loads(file.read_text())
    file.write_text(json.dumps(tuned, indent=2) + "\n")
    report(raw["test"], tuned)


def raw_tracks(clips: Path, cache: Path, way: Way) -> list[VideoTrack]:
    """The tracks of one way over one part, from the cache where they are."""
    if not cache.exists():
        pretrained = load_pretrained("small-68")
        model = pretrained.model if way.budget is None else with_budget(pretrained.model, way.budget)
        tracker = Tracker(model, pretrained.crop_scale, way.settings)
        found = track_videos(tracker, open_videos(f"wflw-v:{clips}"), batch=16, progress=lambda a, b: None)
        cache.parent.mkdir(parents=True, exist_ok=True)
        arrays: dict[str, Any] = {"names": [t.name for t in found], "fps": [t.fps for t in found]}
        arrays["evaluations"], arrays["lost"] = [t.evaluations for t in found], [len(t.lost) for t in found]
        for t in found:
            arrays |= {f"{t.name}/predicted": t.predicted, f"{t.name}/std": t.std, f"{t.name}/points": t.points}
        np.savez(cache, **arrays)
    with np.load(cache) as z:
        head = zip(z["names"].tolist(), z["fps"].tolist(), z["evaluations"].tolist(), z["lost"].tolist(), strict=True)
        return [
            VideoTrack(name, fps, z[f"{name}/predicted"], z[f"{name}/std"], z[f"{name}/points"], (0,) * lost, evaluations)
            for name, fps, evaluations, lost in head
        ]


def with_budget(model: LDEQ, evaluations: int) -> LDEQ:
    """The same weights with another number of evaluations in a full solve."""
    other = LDEQ(replace(model.config, max_iter=evaluations - model.config.final_evaluation)).eval()
    other.load_state_dict(model.state_dict())
    return other


class Figures:
    """NME and NMF of filtered tracks by difficulty, fast enough for a grid: causal filters run on all tracks at once."""

    def __init__(self, tracks: Sequence[VideoTrack]) -> None:
        self.tracks = tracks
        longest = max(len(t.points) for t in tracks)
        index = [np.minimum(np.arange(longest), len(t.points) - 1) for t in tracks]
        self.predicted = np.stack([t.predicted[i] for t, i in zip(tracks, index, strict=True)], 1).astype(np.float64)
        self.std = np.stack([t.std[i] for t, i in zip(tracks, index, strict=True)], 1).astype(np.float64)

    def __call__(self, name: str | None, settings: Mapping[str, Any]) -> dict[str, tuple[float, float]]:
        """Difficulty -> (NME, NMF)."""
        rows: dict[str, list[tuple[float, float]]] = {part: [] for part in PARTS}
        smooth = make_filter(name, LAYOUT, **settings) if name else None
        fps = self.tracks[0].fps
        if smooth is None:
            out = self.predicted
        elif smooth.causal:
            out = smooth.track_batch(self.predicted, self.std, fps)  # type: ignore[attr-defined]
        else:
            out = None
        for i, t in enumerate(self.tracks):
            truth = t.points.astype(np.float64)
            p = smooth.track(t.predicted, t.std, fps) if smooth is not None and out is None else out[: len(truth), i]
            nme = 100 * float(metrics.video_nme(p, truth, LAYOUT.inter_ocular(truth)).mean())
            rows[t.name.split("-")[0]].append((nme, metrics.normalised_mean_flicker(p, truth)))
        return {part: tuple(np.mean(v, axis=0).tolist()) for part, v in rows.items()}


def cost(figures: Mapping[str, tuple[float, float]], bound: Mapping[str, float]) -> float:
    """log NMF, and a wall where NME exceeds its bound."""
    wall = sum(max(0.0, figures[part][0] / bound[part] - 1) for part in PARTS)
    return sum(math.log(figures[part][1]) for part in PARTS) + 200 * wall


def tune_all(raw: Mapping[str, Sequence[VideoTrack]]) -> dict[str, Any]:
    """The settings of every filter behind every way, chosen on these tracks."""
    bound = {part: nme for part, (nme, _) in Figures(raw[BOUND])(None, {}).items()}
    tuned: dict[str, Any] = {"bound": bound, "settings": {}}
    for way, tracks in raw.items():
        figures = Figures(tracks)
        kinds = [*CLASSICS, *(LOOKING_AHEAD if way == BOUND else ())]
        for kind in kinds:
            best = min(GRIDS[kind], key=lambda s, k=kind, f=figures: cost(f(k, s), bound))
            tuned["settings"][f"{way} + {kind}"] = best
            print(way, kind, best, figures(kind, best), flush=True)
        best = descend(figures, bound)
        tuned["settings"][f"{way} + face-frame"] = best
        print(way, "face-frame", best, figures("face-frame", best), flush=True)
    return tuned


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


def report(raw: Mapping[str, Sequence[VideoTrack]], tuned: Mapping[str, Any]) -> None:
    """Tables, curves and a flicker trace."""
    pipelines: dict[str, Sequence[VideoTrack]] = {}
    labels: dict[str, str] = {}
    for way, tracks in raw.items():
        pipelines[way], labels[way] = tracks, WAYS[way].name
        for key, settings in tuned["settings"].items():
            owner, kind = key.split(" + ")
            if owner == way:
                smooth = make_filter(kind, LAYOUT, **settings)
                pipelines[key] = [t.filtered(smooth) for t in tracks]
                labels[key] = f"{WAYS[way].name} + {kind}" + ("" if smooth.causal else " (looks ahead)")
    table: dict[str, Any] = {}
    for key, tracks in pipelines.items():
        table[key] = {"label": labels[key]}
        for part in PARTS:
            of_part = [t for t in tracks if t.name.startswith(part)]
            evaluation = score(of_part, LAYOUT, "")
            table[key][part] = {**evaluation.mean, "evaluations": evaluation.evaluations, "videos": len(of_part)}
    document = {"protocol": protocol(raw), "tuned": tuned, "pipelines": table, "comparisons": comparisons(table)}
    (OUT / "video.json").write_text(json.dumps(document, indent=1) + "\n")
    (OUT / "README.md").write_text(markdown(document))
    curves(raw, tuned, OUT / "nme_nmf.png")
    trace(pipelines, labels, table, OUT / "flicker.png")
    print((OUT / "README.md").read_text())


def protocol(raw: Mapping[str, Sequence[VideoTrack]]) -> str:
    tracks = raw[BOUND]
    frames = sum(len(t.points) for t in tracks)
    return (
        f"{len(tracks)} clips made from photos of HELEN test ({frames} frames, `ldeq data make-clips --part test`), "
        f"{LAYOUT.name}; model small-68, the same weights everywhere; first box given, then tracked from the landmarks in the "
        "same way; filters tuned on the clips of the part tune, made from other photos; NME inter-ocular of each frame; NMF "
        "and NAD per sqrt(w h) / 256; plain mean over the clips"
    )


def best_of(table: Mapping[str, Any], keys: Sequence[str]) -> str:
    return min(keys, key=lambda k: sum(math.log(table[k][part]["nmf"]) for part in PARTS))


def comparisons(table: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What the project promises, each against what was measured."""
    rwr = [k for k in table if k.startswith("rwr") and "+" in k]
    alone = [k for k in table if k.startswith("frame") and "+" in k and k.split(" + ")[1] not in LOOKING_AHEAD]
    classic = best_of(table, [f"frame + {kind}" for kind in CLASSICS])
    pairs = [
        ("RwR alone, one view, against each frame alone", "rwr", "frame"),
        ("RwR alone, four views, against each frame alone", "rwr-4x1", "frame"),
        ("the same at the same number of evaluations", "rwr-4x1", "frame-2x2"),
        ("best causal pipeline with RwR against the best without", best_of(table, rwr), best_of(table, alone)),
        ("one view with RwR against one view without, both filtered", "rwr + face-frame", "frame + face-frame"),
        ("best causal pipeline with RwR against the best classic filter on each frame alone", best_of(table, rwr), classic),
    ]
    rows = []
    for what, a, b in pairs:
        row: dict[str, Any] = {"what": what, "with": table[a]["label"], "without": table[b]["label"]}
        for part in PARTS:
            row[part] = {m: 100 * (table[a][part][m] / table[b][part][m] - 1) for m in ("nme", "nmf", "nad1", "nad8")}
        rows.append(row)
    return rows


def markdown(document: Mapping[str, Any]) -> str:
    lines = ["# Flicker on made clips", "", f"Protocol: {document['protocol']}.", ""]
    lines += [
        "Written by `docs/video_report.py`. What it means, and what was tried: [findings.md](findings.md).",
        "",
        "## Comparisons",
        "",
    ]
    lines += ["Change in percent, easy / hard.", "", "| | with | without | NME | NMF | NAD(1) | NAD(8) |", "| --- " * 7 + "|"]
    for row in document["comparisons"]:
        cells = [f"{row['easy'][m]:+.1f} / {row['hard'][m]:+.1f}" for m in ("nme", "nmf", "nad1", "nad8")]
        lines.append(f"| {row['what']} | {row['with']} | {row['without']} | {' | '.join(cells)} |")
    for part in PARTS:
        lines += [
            "",
            f"## {part.capitalize()} clips",
            "",
            "| pipeline | " + " | ".join(COLUMNS.values()) + " | cell evaluations |",
        ]
        lines.append("| --- " * (len(COLUMNS) + 2) + "|")
        for row in document["pipelines"].values():
            figures = [f"{row[part][c]:.1f}" if c in ("nmf", "nad1", "nad8") else f"{row[part][c]:.2f}" for c in COLUMNS]
            lines.append(f"| {row['label']} | {' | '.join(figures)} | {row[part]['evaluations']:.2f} |")
    lines += ["", "![NME against NMF](nme_nmf.png)", "", "![Flicker over time](flicker.png)", ""]
    return "\n".join(lines)


def curves(raw: Mapping[str, Sequence[VideoTrack]], tuned: Mapping[str, Any], path: Path) -> None:
    """NME against NMF as a filter's strength goes from weak to strong, one curve a pipeline."""
    figure = Figure(figsize=(12, 5.2), layout="constrained")
    axes = figure.subplots(1, 2)
    colours = {way: f"C{i}" for i, way in enumerate(raw)}
    for way, tracks in raw.items():
        figures = Figures(tracks)
        plain = figures(None, {})
        one_euro, face = (tuned["settings"][f"{way} + {kind}"] for kind in ("one-euro", "face-frame"))
        sweeps = {
            "face-frame": [{**face, "noise": face["noise"] * f} for f in (0.25, 0.5, 0.71, 1.0, 1.41, 2.0, 2.8, 4.0)],
            "one-euro": [
                {**one_euro, "min_cutoff": one_euro["min_cutoff"] * f} for f in (0.18, 0.25, 0.35, 0.5, 0.71, 1, 2, 4)
            ],
        }
        for kind, style in (("face-frame", "-o"), ("one-euro", ":^")):
            points = [figures(kind, s) for s in sweeps[kind]]
            for ax, part in zip(axes, PARTS, strict=True):
                x, y = zip(*[p[part] for p in points], strict=True)
                ax.plot(x, y, style, color=colours[way], ms=3.5, lw=1.2, label=f"{WAYS[way].name} + {kind}")
        for ax, part in zip(axes, PARTS, strict=True):
            ax.plot(*plain[part], "*", color=colours[way], ms=13, label=WAYS[way].name)
    alone = Figures(raw[BOUND])(None, {})
    for ax, part in zip(axes, PARTS, strict=True):
        ax.axvline(alone[part][0], color="0.6", lw=0.8, ls="--")
        ax.set(title=part, xlabel="NME %", ylabel="NMF", xlim=(None, alone[part][0] * 1.12))
        ax.grid(alpha=0.3)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=7)
    figure.savefig(path, dpi=110)


def trace(
    pipelines: Mapping[str, Sequence[VideoTrack]], labels: Mapping[str, str], table: Mapping[str, Any], path: Path
) -> None:
    """Flicker over time and the mouth's opening in the hard clip of median flicker."""
    rwr = best_of(table, [k for k in table if k.startswith("rwr") and "+" in k])
    shown = [BOUND, best_of(table, [f"{BOUND} + {kind}" for kind in CLASSICS]), rwr]
    hard = [i for i, t in enumerate(pipelines[BOUND]) if t.name.startswith("hard")]
    order = sorted(
        hard, key=lambda i: metrics.normalised_mean_flicker(pipelines[BOUND][i].predicted, pipelines[BOUND][i].points)
    )
    i = order[len(order) // 2]
    figure = Figure(figsize=(11, 6), layout="constrained")
    top, bottom = figure.subplots(2, 1, sharex=True)
    mouth = LAYOUT.openings["mouth"]
    truth = pipelines[BOUND][i].points
    size = metrics.face_size(truth)
    for key, colour in zip(shown, ("0.6", "C1", "C0"), strict=True):
        t = pipelines[key][i]
        seconds = np.arange(len(t.points)) / t.fps
        top.plot(seconds[1:], flicker_of(t), color=colour, lw=1.2, label=labels[key])
        bottom.plot(seconds, 100 * mouth.width(t.predicted) / size, color=colour, lw=1.2)
    bottom.plot(np.arange(len(truth)) / t.fps, 100 * mouth.width(truth) / size, "k--", lw=1, label="truth")
    top.set(ylabel="flicker, RMS over landmarks", title=f"{t.name}, the hard clip of median flicker", yscale="log")
    bottom.set(ylabel="mouth opening, % of sqrt(w h)", xlabel="seconds")
    top.legend(fontsize=8)
    bottom.legend(fontsize=8)
    figure.savefig(path, dpi=110)


def flicker_of(track: VideoTrack) -> np.ndarray:
    """`(T - 1,)` RMS over the landmarks."""
    j = metrics.flicker(track.predicted, track.points)
    return np.sqrt((j**2).mean(-1)) if j.ndim == 2 else j


if __name__ == "__main__":
    tyro.cli(main)
