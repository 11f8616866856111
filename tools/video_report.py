"""Writes docs/results/video: flicker and error of pipelines side by side, on made clips with ground truth.

    ldeq data make-clips --data 300w:~/300w#helen-test --out ~/clips/tune --part tune --easy 15 --hard 15
    ldeq data make-clips --data 300w:~/300w#helen-test --out ~/clips/tune-quiet --part tune --easy 15 --hard 15 --no-noise
    ldeq data make-clips --data 300w:~/300w#helen-test --out ~/clips/test --part test
    python tools/video_report.py --clips ~/clips --tracks ~/clips/tracks --tune

Every way of tracking runs once over each part, and its raw tracks are kept (`--tracks`). On the part `tune` every filter is
tuned and the best pipelines are chosen (`--tune`, else `tuned.json` is read); `tune-quiet`, the same clips without the noise of
the sensor, tells what flicker noise makes; the part `test`, photos of other people, is scored.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from matplotlib.figure import Figure
from video_tuning import CLASSICS, LAYOUT, LOOKING_AHEAD, PARTS, Figures, cost, tune

from ldeq import metrics
from ldeq.data.sources import open_videos
from ldeq.engine import load_pretrained
from ldeq.video.evaluation import COLUMNS, VideoTrack, score, track_videos
from ldeq.video.filters import make_filter
from ldeq.video.tracking import Tracker, TrackingSettings

RESULTS = Path(__file__).parents[1] / "docs" / "results"
OUT = RESULTS / "video"

MODEL = "small-68"
# What small-68 was trained from: photos at rest alone.
REST = str(RESULTS / "small-300w" / "weights.safetensors")
Tracks = Sequence[VideoTrack]


@dataclass(frozen=True)
class Way:
    """A way of tracking: what the model does in each frame."""

    name: str
    settings: TrackingSettings
    budget: int | None = None
    """Cell evaluations of a full solve, the final one included, where it is not the model's own."""
    weights: str = MODEL
    bound: str = "frame"
    """The way whose NME, unfiltered, the filters behind this one may spend."""


NEVER: dict[str, Any] = {"check_every": 0, "settled": math.inf}
ALONE = TrackingSettings(rwr=False, **NEVER)
ONE, FOUR = (TrackingSettings(iters=1, views=views, register=True, **NEVER) for views in (1, 4))
WAYS = {
    "frame": Way("each frame alone", ALONE),
    "frame-2x2": Way("each frame alone, 2 views x 2 evaluations", replace(ALONE, views=2), 2),
    "rwr": Way("RwR", ONE),
    "rwr-4x1": Way("RwR, 4 views x 1 evaluation", FOUR),
    "rest-frame": Way("trained at rest: each frame alone", ALONE, None, REST, "rest-frame"),
    "rest-rwr": Way("trained at rest: RwR", ONE, None, REST, "rest-frame"),
    "rest-rwr-4x1": Way("trained at rest: RwR, 4 views x 1 evaluation", FOUR, None, REST, "rest-frame"),
}
QUIET = ("frame", "rwr")
"""Ways that also run on the clips without noise."""

GROUPS = {
    "mouth": ("outer_lip", "inner_lip"),
    "eyes": ("left_eye", "right_eye"),
    "brows": ("left_brow", "right_brow"),
    "nose": ("nose_ridge", "nostrils"),
    "contour": ("contour",),
}


def main(clips: Path, tracks: Path, tune: bool = False, ways: tuple[str, ...] = tuple(WAYS), threads: int = 1) -> None:
    """
    Args:
        clips: folder with the parts `tune`, `tune-quiet` and `test`.
        tracks: folder of raw tracks; those that are there are not made again.
        tune: tune the filters and choose pipelines anew, instead of reading docs/results/video/tuned.json.
        ways: the ways of tracking to run; with fewer than all of them tracks are made, and nothing else.
        threads: of the model.
    """
    torch.set_num_threads(threads)
    OUT.mkdir(parents=True, exist_ok=True)

    def track(part: str, way: str) -> Tracks:
        return raw_tracks(clips / part, tracks / f"{part}-{way}.npz", WAYS[way])

    tested = {way: track("test", way) for way in ways}
    noisy = {way: track("tune", way) for way in ways}
    quiet = {way: track("tune-quiet", way) for way in ways if way in QUIET}
    if set(ways) < set(WAYS):
        return
    file = OUT / "tuned.json"
    tuned = tune_all(noisy) if tune else json.loads(file.read_text())
    file.write_text(json.dumps(tuned, indent=1) + "\n")
    report(tested, tuned, noise_table({way: noisy[way] for way in quiet}, quiet, tuned))


def raw_tracks(clips: Path, cache: Path, way: Way) -> Tracks:
    """The tracks of one way over one part, from the cache where they are."""
    if not cache.exists():
        pretrained = load_pretrained(way.weights)
        model = pretrained.model
        if way.budget is not None:
            model = model.with_solver(max_iter=way.budget - model.config.final_evaluation)
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


def tune_all(raw: Mapping[str, Tracks]) -> dict[str, Any]:
    """Settings of every filter behind every way, what each pipeline reaches on the part tune, and the best of them."""
    figures = {way: Figures(tracks) for way, tracks in raw.items()}
    plain = {way: f(None, {}) for way, f in figures.items()}
    tuned: dict[str, Any] = {"settings": {}, "on the part tune": dict(plain)}
    costs: dict[str, float] = {}
    for way, f in figures.items():
        bound = {part: nme for part, (nme, _) in plain[WAYS[way].bound].items()}
        settings, scores = tune(f, bound, ahead=way == "frame")
        for kind, chosen in settings.items():
            key = f"{way} + {kind}"
            tuned["settings"][key], tuned["on the part tune"][key] = chosen, scores[kind]
            costs[key] = cost(scores[kind], bound)
            print(key, chosen, scores[kind], flush=True)
    causal = [k for k in costs if k.split(" + ")[1] not in LOOKING_AHEAD]
    tuned["best"] = {
        "with RwR": min((k for k in causal if k.startswith("rwr")), key=costs.__getitem__),
        "without RwR": min((k for k in causal if k.startswith("frame")), key=costs.__getitem__),
        "classic": min((f"frame + {kind}" for kind in CLASSICS), key=costs.__getitem__),
        "classic, trained at rest": min((f"rest-frame + {kind}" for kind in CLASSICS), key=costs.__getitem__),
    }
    return tuned


def noise_table(noisy: Mapping[str, Tracks], quiet: Mapping[str, Tracks], tuned: Mapping[str, Any]) -> list[dict[str, Any]]:
    """NMF with and without the noise of the sensor, and that of the difference of both answers, which noise alone makes."""
    rows = []
    for way in noisy:
        for kind in (None, "face-frame"):
            smooth = make_filter(kind, LAYOUT, **tuned["settings"][f"{way} + {kind}"]) if kind else None
            row: dict[str, Any] = {"label": WAYS[way].name + (f" + {kind}" if kind else "")}
            for part in PARTS:
                figures = []
                for a, b in zip(noisy[way], quiet[way], strict=True):
                    if a.name.startswith(part):
                        p, q = ((t.filtered(smooth) if smooth else t).predicted.astype(np.float64) for t in (a, b))
                        truth = a.points.astype(np.float64)
                        figures.append([metrics.normalised_mean_flicker(x, truth) for x in (p, q, truth + p - q)])
                row[part] = dict(zip(("noise", "no noise", "difference"), np.mean(figures, axis=0).tolist(), strict=True))
            rows.append(row)
    return rows


def group_table(pipelines: Mapping[str, Tracks], labels: Mapping[str, str], keys: Sequence[str]) -> list[dict[str, Any]]:
    """Which part of the face flickers: shares of the squared flicker, in percent."""
    rows = []
    for key in keys:
        row: dict[str, Any] = {"label": labels[key]}
        for part in PARTS:
            power = dict.fromkeys(GROUPS, 0.0)
            for t in pipelines[key]:
                if t.name.startswith(part):
                    truth = t.points.astype(np.float64)
                    steps = np.diff(truth - t.predicted, axis=0) / metrics.face_size(truth)[1:, None, None]
                    square = (steps**2).sum(-1).mean(0)
                    for group, names in GROUPS.items():
                        power[group] += float(sum(square[list(LAYOUT.parts[name].indices)].sum() for name in names))
            row[part] = {group: 100 * value / sum(power.values()) for group, value in power.items()}
        rows.append(row)
    return rows


def report(raw: Mapping[str, Tracks], tuned: Mapping[str, Any], noise: Sequence[Mapping[str, Any]]) -> None:
    """Tables, curves and a flicker trace."""
    pipelines: dict[str, Tracks] = {}
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
            evaluation = score([t for t in tracks if t.name.startswith(part)], LAYOUT, "")
            table[key][part] = {**evaluation.mean, "lost": evaluation.lost, "evaluations": evaluation.evaluations}
    document = {
        "protocol": protocol(raw),
        "tuned": tuned,
        "pipelines": table,
        "comparisons": comparisons(table, tuned["best"]),
        "noise": noise,
        "groups": group_table(pipelines, labels, ["frame", "frame + face-frame", tuned["best"]["with RwR"]]),
    }
    (OUT / "video.json").write_text(json.dumps(document, indent=1) + "\n")
    (OUT / "README.md").write_text(markdown(document))
    curves({way: tracks for way, tracks in raw.items() if WAYS[way].weights == MODEL}, tuned, OUT / "nme_nmf.png")
    trace(pipelines, labels, tuned["best"], OUT / "flicker.png")
    print((OUT / "README.md").read_text())


def protocol(raw: Mapping[str, Tracks]) -> str:
    tracks = raw["frame"]
    frames = sum(len(t.points) for t in tracks)
    return (
        f"{len(tracks)} clips made from photos of HELEN test ({frames} frames, `ldeq data make-clips --part test`), "
        f"{LAYOUT.name}; model {MODEL}, the same weights everywhere but in rows that say trained at rest; first box given, "
        "then tracked from the landmarks in the same way; filters tuned, and the best of them chosen, on the clips of the part "
        "tune, made from photos of other people; NME inter-ocular, frame by frame; NMF and NAD per sqrt(w h) / 256; mean over "
        "the clips"
    )


def comparisons(table: Mapping[str, Any], best: Mapping[str, str]) -> list[dict[str, Any]]:
    """What the project promises, each against what was measured."""
    with_rwr, without = best["with RwR"], best["without RwR"]
    pairs = [
        ("RwR alone, one view, against each frame alone", "rwr", "frame"),
        ("RwR alone, four views, against each frame alone", "rwr-4x1", "frame"),
        ("the same at the same number of evaluations", "rwr-4x1", "frame-2x2"),
        ("best causal pipeline with RwR against the best without", with_rwr, without),
        ("one view with RwR against one view without, both filtered", "rwr + face-frame", "frame + face-frame"),
        ("best causal pipeline with RwR against the best classic filter on each frame alone", with_rwr, best["classic"]),
        ("the same against the model trained on photos at rest alone", with_rwr, best["classic, trained at rest"]),
        ("that model: RwR alone against each frame alone", "rest-rwr", "rest-frame"),
        (
            "that model: RwR, four views, against the best classic filter",
            "rest-rwr-4x1 + face-frame",
            best["classic, trained at rest"],
        ),
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
    lines += ["Written by `tools/video_report.py`. What it means, and what was tried: [findings.md](findings.md).", ""]
    lines += ["## Comparisons", "", "Change in percent, easy / hard.", ""]
    lines += ["| | with | without | NME | NMF | NAD(1) | NAD(8) |", "| --- " * 7 + "|"]
    for row in document["comparisons"]:
        cells = [f"{row['easy'][m]:+.1f} / {row['hard'][m]:+.1f}" for m in ("nme", "nmf", "nad1", "nad8")]
        lines.append(f"| {row['what']} | {row['with']} | {row['without']} | {' | '.join(cells)} |")
    for part in PARTS:
        lines += ["", f"## {part.capitalize()} clips", ""]
        lines += ["| pipeline | " + " | ".join(COLUMNS.values()) + " | lost frames | cell evaluations |"]
        lines.append("| --- " * (len(COLUMNS) + 3) + "|")
        for row in document["pipelines"].values():
            r = row[part]
            figures = [f"{r[c]:.1f}" if c in ("nmf", "nad1", "nad8") else f"{r[c]:.2f}" for c in COLUMNS]
            lines.append(f"| {row['label']} | {' | '.join(figures)} | {r['lost']} | {r['evaluations']:.2f} |")
    lines += ["", "## What flicker noise makes", ""]
    lines += [
        "NMF on the part tune, easy / hard: the clips as they are; the same clips without the noise of the sensor; and the"
    ]
    lines += ["difference of the two answers, which is all that noise does.", ""]
    lines += ["| pipeline | with noise | without noise | difference |", "| --- " * 4 + "|"]
    for row in document["noise"]:
        cells = [f"{row['easy'][c]:.1f} / {row['hard'][c]:.1f}" for c in ("noise", "no noise", "difference")]
        lines.append(f"| {row['label']} | {' | '.join(cells)} |")
    lines += ["", "## Which part of the face flickers", "", "Share of the squared flicker in percent, easy / hard.", ""]
    lines += ["| pipeline | " + " | ".join(GROUPS) + " |", "| --- " * (len(GROUPS) + 1) + "|"]
    for row in document["groups"]:
        cells = [f"{row['easy'][g]:.0f} / {row['hard'][g]:.0f}" for g in GROUPS]
        lines.append(f"| {row['label']} | {' | '.join(cells)} |")
    lines += ["", "![NME against NMF](nme_nmf.png)", "", "![Flicker over time](flicker.png)", ""]
    return "\n".join(lines)


def curves(raw: Mapping[str, Tracks], tuned: Mapping[str, Any], path: Path) -> None:
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
    alone = Figures(raw["frame"])(None, {})
    for ax, part in zip(axes, PARTS, strict=True):
        ax.axvline(alone[part][0], color="0.6", lw=0.8, ls="--")
        ax.set(title=part, xlabel="NME %", ylabel="NMF", xlim=(None, alone[part][0] * 1.12))
        ax.grid(alpha=0.3)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=7)
    figure.savefig(path, dpi=110)


def trace(pipelines: Mapping[str, Tracks], labels: Mapping[str, str], best: Mapping[str, str], path: Path) -> None:
    """Flicker over time and the mouth's opening in the hard clip of median flicker."""
    alone = pipelines["frame"]
    hard = [i for i, t in enumerate(alone) if t.name.startswith("hard")]
    order = sorted(hard, key=lambda i: metrics.normalised_mean_flicker(alone[i].predicted, alone[i].points))
    i = order[len(order) // 2]
    figure = Figure(figsize=(11, 6), layout="constrained")
    top, bottom = figure.subplots(2, 1, sharex=True)
    mouth = LAYOUT.openings["mouth"]
    truth = alone[i].points
    size = metrics.face_size(truth)
    for key, colour in zip(("frame", best["classic"], best["with RwR"]), ("0.6", "C1", "C0"), strict=True):
        t = pipelines[key][i]
        seconds = np.arange(len(t.points)) / t.fps
        top.plot(seconds[1:], metrics.flicker(t.predicted, t.points), color=colour, lw=1.2, label=labels[key])
        bottom.plot(seconds, 100 * mouth.width(t.predicted) / size, color=colour, lw=1.2)
    bottom.plot(np.arange(len(truth)) / alone[i].fps, 100 * mouth.width(truth) / size, "k--", lw=1, label="truth")
    top.set(ylabel="flicker, RMS over landmarks", title=f"{alone[i].name}, the hard clip of median flicker", yscale="log")
    bottom.set(ylabel="mouth opening, % of sqrt(w h)", xlabel="seconds")
    top.legend(fontsize=8)
    bottom.legend(fontsize=8)
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    tyro.cli(main)
