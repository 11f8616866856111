"""What an evaluation leaves on disk: tables in Markdown and JSON, the error curve, the worst faces."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import metrics
from ..data import LandmarkDataset, contact_sheet, crop_box, crop_matrix, transform_points, warp, write_image
from ..files import saved_bytes, write_atomically
from .evaluate import Evaluation

REPORT = ("report.md", "report.json", "ced.png", "landmarks.png", "worst.png")
"""The files that `write_report` writes."""


def is_report(folder: Path) -> bool:
    """Whether a folder holds the report of an evaluation of pictures or of videos."""
    try:
        document = json.loads((folder / "report.json").read_bytes())
    except (OSError, ValueError, RecursionError):
        return False
    if not isinstance(document, dict) or not document:
        return False
    parts = [document] if "protocol" in document else list(document.values())
    return all(isinstance(part, dict) and isinstance(part.get("protocol"), str) for part in parts)


def markdown_table(evaluation: Evaluation, subsets: Sequence[str] | None = None) -> str:
    """Table of the full set and of `subsets` (all that there are if None) under its protocol line."""
    lines = [
        f"Protocol: {evaluation.protocol}.",
        "",
        "| images | NME % | FR10 % | AUC10 | number |",
        "| --- | --- | --- | --- | --- |",
    ]
    for name, row in evaluation.subsets.items():
        if name != "full" and subsets is not None and name not in subsets:
            continue
        lines.append(f"| {name} | {row['nme']:.2f} | {row['fr10']:.2f} | {row['auc10']:.4f} | {row['images']:.0f} |")
    c = evaluation_counts(evaluation.evaluations)
    spread = (
        "" if c["p50"] == c["max"] else f" (half of the faces within {c['p50']}, 90 % within {c['p90']}, at most {c['max']})"
    )
    lines += ["", f"Cell evaluations a face: {c['mean']:.2f}{spread}."]
    if evaluation.skipped:
        lines += ["", f"{len(evaluation.skipped)} pictures could not be used and are in no figure:", ""]
        lines += [f"- `{path}`: {reason}" for path, reason in evaluation.skipped]
    return "\n".join(lines) + "\n"


def evaluation_counts(evaluations: NDArray[np.int64]) -> dict[str, Any]:
    """Mean, 50th and 90th percentile, largest, and how many faces took each number of evaluations."""
    numbers, faces = np.unique(evaluations, return_counts=True)
    return {
        "mean": float(evaluations.mean()),
        "p50": int(np.quantile(evaluations, 0.5, method="inverted_cdf")),
        "p90": int(np.quantile(evaluations, 0.9, method="inverted_cdf")),
        "max": int(evaluations.max()),
        "faces": {str(n): int(count) for n, count in zip(numbers, faces, strict=True)},
    }


def worst_faces(evaluation: Evaluation, dataset: LandmarkDataset, count: int = 24, tile: int = 192) -> np.ndarray:
    """Grid of the faces with the largest errors: prediction with lines, title NME in percent. `(H, W, 3)` RGB uint8."""
    order = np.argsort(-evaluation.errors)[:count]
    crops, points, titles = [], [], []
    for i in order:
        index = int(evaluation.indices[i])
        record = dataset.faces.record(index)
        if record.precropped:
            matrix = np.eye(2, 3)
            crop = dataset.faces.read(index)
        else:
            square = crop_box("landmarks", points=record.points, scale=1.5)
            matrix = crop_matrix(square, tile)
            crop = warp(dataset.faces.read(index), matrix, tile)
        crops.append(crop)
        points.append(transform_points(matrix, evaluation.predicted[i]))
        titles.append(f"{100 * evaluation.errors[i]:.1f} %  #{index}")
    return contact_sheet(crops, points, dataset.layout, columns=6, tile=tile, titles=titles)


def error_curve(evaluations: dict[str, Evaluation], path: Path) -> None:
    """Cumulative error distributions up to 10 % as a PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4.2), layout="constrained")
    axes = figure.subplots()
    for name, evaluation in evaluations.items():
        x, y = metrics.cumulative_errors(evaluation.errors)
        s = evaluation.summary
        axes.plot(100 * x, 100 * y, label=f"{name}: NME {s['nme']:.2f} %, AUC10 {s['auc10']:.3f}", linewidth=2)
    axes.set(xlabel="NME, % of inter-ocular distance", ylabel="images, %", xlim=(0, 10), ylim=(0, 100))
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")
    write_atomically(path, saved_bytes(lambda file: figure.savefig(file, dpi=120, format="png")))


def landmark_plot(evaluation: Evaluation, path: Path) -> None:
    """Error of each landmark as a PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3), layout="constrained")
    axes = figure.subplots()
    errors = evaluation.landmark_errors
    axes.bar(np.arange(len(errors)), errors, width=0.9)
    axes.set(xlabel="landmark", ylabel="error, % of inter-ocular", xlim=(-1, len(errors)))
    write_atomically(path, saved_bytes(lambda file: figure.savefig(file, dpi=120, format="png")))


def to_json(evaluation: Evaluation) -> dict[str, Any]:
    """Every figure of an evaluation, JSON-serialisable."""
    return {
        "protocol": evaluation.protocol,
        "subsets": evaluation.subsets,
        "landmark_errors": [round(float(v), 4) for v in evaluation.landmark_errors],
        "cell_evaluations": evaluation_counts(evaluation.evaluations),
        "residual": evaluation.residual,
        "skipped": [{"path": path, "reason": reason} for path, reason in evaluation.skipped],
    }


def write_report(
    evaluation: Evaluation, dataset: LandmarkDataset, folder: Path, subsets: Sequence[str] | None = None
) -> list[Path]:
    """Writes ``report.md``, ``report.json``, ``ced.png``, ``landmarks.png`` and ``worst.png``; returns their paths."""
    paths = [folder / name for name in REPORT]
    # The document comes first: by it the folder is known as a report from then on.
    write_atomically(paths[1], json.dumps(to_json(evaluation), indent=1) + "\n")
    write_atomically(paths[0], f"# {dataset.faces.name}\n\n{markdown_table(evaluation, subsets)}")
    error_curve({dataset.faces.name: evaluation}, paths[2])
    landmark_plot(evaluation, paths[3])
    write_image(paths[4], worst_faces(evaluation, dataset))
    return paths
