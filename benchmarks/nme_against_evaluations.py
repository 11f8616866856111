"""What evaluations of the cell buy: NME of a shipped model under fixed budgets and under stops that each face meets by itself.

    python benchmarks/nme_against_evaluations.py ~/300w

Writes docs/results/evaluations: test.json, and from it and from train.json of `train_budgets.py` the tables and the plot.
Without a folder it only writes those anew.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from ldeq import metrics
from ldeq.data import LandmarkDataset, invert, normalise, open_faces, transform_points
from ldeq.engine import load_pretrained
from ldeq.engine.evaluate import protocol_line
from ldeq.engine.report import evaluation_counts
from ldeq.models import LDEQ
from ldeq.ops import heatmap_readout

RESULTS = Path(__file__).resolve().parents[1] / "docs" / "results" / "evaluations"
MOST = 8
"""Evaluations at most, from zeros."""
TOLERANCES = {"landmarks": (4.0, 2.0, 1.0, 0.5, 0.25, 0.1, 0.05), "relative": (0.3, 0.1, 0.03, 0.01, 3e-3, 1e-3)}
FIXED_POINT = 16
"""Evaluations of the answer that the others are compared with."""
BATCH = 16


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", nargs="?", help="folder of 300-W")
    parser.add_argument("--model", default="small-68")
    arguments = parser.parse_args()
    RESULTS.mkdir(parents=True, exist_ok=True)
    if arguments.data:
        (RESULTS / "test.json").write_text(json.dumps(measure(arguments.model, arguments.data), indent=1) + "\n")
    test = json.loads((RESULTS / "test.json").read_text())
    trained = RESULTS / "train.json"
    train = json.loads(trained.read_text()) if trained.exists() else []
    (RESULTS / "README.md").write_text(document(test, train))
    plot(test, RESULTS / "nme_against_evaluations.png")


def measure(name: str, data: str) -> dict[str, Any]:
    """One row a budget or tolerance, all from one pass: what a stop returns is a point of the same fixed-point iteration."""
    pretrained = load_pretrained(name)
    model = pretrained.model
    faces = LandmarkDataset(
        open_faces(f"300w:{data}#helen-test"),
        model.config.image_size,
        crop=pretrained.crop_rule,  # type: ignore[arg-type]
        crop_scale=pretrained.crop_scale,
    )
    points, residuals, motions, truth = [], [], [], []
    for item in DataLoader(faces, batch_size=BATCH):
        crops, residual = iterate(model, normalise(item["image"]))
        motions.append(np.linalg.norm(np.diff(crops, axis=0), axis=-1).mean(-1))
        residuals.append(residual)
        in_photo = [invert(matrix) for matrix in item["matrix"].numpy()]
        points.append([[transform_points(m, p) for m, p in zip(in_photo, step, strict=True)] for step in crops[1:]])
        truth.append(item["points"].numpy())
        print(f"{sum(map(len, truth))}/{len(faces)}", flush=True)
    predicted = np.concatenate(points, axis=1)  # (evaluations, N, K, 2)
    labels = np.concatenate(truth)
    normaliser = faces.layout.inter_ocular(labels.astype(np.float64))
    measures = {"landmarks": np.concatenate(motions, 1), "relative": np.concatenate(residuals, 1)}

    def row(stop: str, value: float, evaluations: np.ndarray) -> dict[str, Any]:
        chosen = predicted[evaluations - 1, np.arange(len(labels))]
        apart = np.linalg.norm(chosen - predicted[-1], axis=-1).mean(1) / normaliser
        return {
            "stop": stop,
            "value": value,
            **metrics.summary(metrics.nme(chosen, labels, normaliser)),
            "from_fixed_point": 100 * float(apart.mean()),
            "evaluations": evaluation_counts(evaluations),
        }

    rows = [row("budget", n, np.full(len(labels), n)) for n in range(1, MOST + 1)]
    for stop, tolerances in TOLERANCES.items():
        for tol in tolerances:
            met = measures[stop][:MOST] <= tol
            rows.append(row(stop, tol, np.where(met.any(0), met.argmax(0) + 1, MOST)))
    limit = metrics.summary(metrics.nme(predicted[-1], labels, normaliser))
    protocol = protocol_line(model, faces, len(labels), f"model {name}")
    return {"model": name, "protocol": protocol, "fixed_point": limit, "rows": rows}


@torch.no_grad()
def iterate(model: LDEQ, images: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Landmarks `(FIXED_POINT + 1, B, K, 2)` in pixels of the crop, the start's first, and relative residuals
    `(FIXED_POINT, B)`."""
    injection, z = model.cell.prepare(model.stem(images)), model.initial_state(len(images))
    size = model.config.image_size
    points, residuals = [size * heatmap_readout(z, eps=model.config.eps).xy], []
    for _ in range(FIXED_POINT):
        before, z = z, model.cell(z, injection)
        residuals.append((z - before).flatten(1).norm(dim=1) / z.flatten(1).norm(dim=1))
        points.append(size * heatmap_readout(z, eps=model.config.eps).xy)
    return torch.stack(points).numpy(), torch.stack(residuals).numpy()


def document(test: dict[str, Any], train: list[dict[str, Any]]) -> str:
    lines = [
        "# Evaluations are the cost",
        "",
        "Written by `benchmarks/nme_against_evaluations.py`; do not edit.",
        "",
        "![NME against cell evaluations](nme_against_evaluations.png)",
        "",
        f"## At test time: {test['model']}",
        "",
        f"Protocol: {test['protocol'].split('; fixed_point')[0]}. From zeros, at most {MOST} evaluations, none behind "
        "the solve. Each face stops by itself. *From the fixed point*: mean distance of the landmarks to those after "
        f"{FIXED_POINT} evaluations (NME {test['fixed_point']['nme']:.2f} %), in % of the inter-ocular distance, too.",
        "",
        "| stop | NME % | from the fixed point | evaluations a face, mean | half of the faces | 90 % | most |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    names = {
        "budget": "budget of {:g}",
        "landmarks": "landmarks move by at most {:g} px",
        "relative": "relative residual at most {:g}",
    }
    for row in test["rows"]:
        c = row["evaluations"]
        lines.append(
            f"| {names[row['stop']].format(row['value'])} | {row['nme']:.2f} | {row['from_fixed_point']:.2f} | "
            f"{c['mean']:.2f} | {c['p50']} | {c['p90']} | {c['max']} |"
        )
    lines += [
        "",
        f"`ldeq eval {test['model']} --data 300w:FOLDER --split helen-test --max-iter 8 --stop landmarks --tol 0.5` gives such "
        "a row with the evaluation behind the solve that the model's configuration asks for, one more a face.",
    ]
    if train:
        lines += train_table(train)
    return "\n".join(lines) + "\n"


def train_table(train: list[dict[str, Any]]) -> list[str]:
    first = train[0]
    lines = [
        "",
        "## In training",
        "",
        f"`benchmarks/train_budgets.py`: `configs/small-300w.yaml` at {first['image_size']} px and {first['epochs']} epochs, "
        "one seed; too short and too small to be compared with anything but each other. *Forward*: evaluations of the solve, "
        "one tracked evaluation follows; *back*: vector-Jacobian products a step, that for the weights included. Speed is of "
        "one thread of a shared machine: an order, not a measurement.",
        "",
        "| gradient | forward | back | NME %, own budget | NME %, 3 + 1 evaluations | residual there | images/s |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in sorted(train, key=lambda r: (r["gradient"] == "jfb", r["forward"], r["backward"])):
        lines.append(
            f"| {row['gradient']} | {row['forward']} + 1 | {row['backward']} | {row['nme']:.2f} | {row['nme_at_3']:.2f} | "
            f"{row['residual_at_3']:.1e} | {row['images_per_s']:.0f} |"
        )
    return lines


def plot(test: dict[str, Any], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4), layout="constrained")
    error, apart = figure.subplots(1, 2)
    styles = {
        "budget": ("same budget for all", "o-"),
        "landmarks": ("stop when landmarks rest, px", "s-"),
        "relative": ("stop at relative residual", "^--"),
    }
    for stop, (label, style) in styles.items():
        rows = [row for row in test["rows"] if row["stop"] == stop]
        x = [row["evaluations"]["mean"] for row in rows]
        error.plot(x, [row["nme"] for row in rows], style, label=label, markersize=5)
        apart.semilogy(x, [row["from_fixed_point"] for row in rows], style, label=label, markersize=5)
        for row, at in zip(rows, x, strict=True):
            if stop == "landmarks" and row["value"] < 1:  # coarser ones lie on top of each other
                offset = {"textcoords": "offset points", "xytext": (-4, -12), "ha": "right", "fontsize": 8}
                apart.annotate(f"{row['value']:g} px", (at, row["from_fixed_point"]), **offset)
    error.axhline(test["fixed_point"]["nme"], color="gray", linestyle=":", label="fixed point")
    error.set(ylabel="NME, % of inter-ocular distance")
    apart.set(ylabel="distance from the fixed point's landmarks, %")
    for axes in (error, apart):
        axes.set(xlabel="cell evaluations a face, mean")
        axes.grid(alpha=0.3)
        axes.legend()
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    main()
