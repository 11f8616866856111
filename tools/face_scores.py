"""What the score of a face and the deviations of its landmarks are worth, on faces that nothing was fitted on.

    python tools/face_scores.py '300w:~/300w#helen-test' wflw:~/WFLW --plot docs/results/face-score/reliability.png

Faces in boxes off by 6 % of their size and 10 % in size, against noise, grey, textures, background, turned and cut faces, and
what an eager detector takes for a face. What `--detector` finds without a label is taken for a face and left out: choose the
best one that there is. Prints quantiles of the score by kind, the area under the ROC curve, and how well the deviations are
calibrated. A model of 68 landmarks is judged on those 68 of WFLW's 98 that mean the same.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ldeq.calibration import Answer, answers, samples
from ldeq.confidence import Calibration
from ldeq.data import open_faces
from ldeq.detection import make_detector
from ldeq.engine import load_pretrained

LEVELS = np.arange(0.05, 1, 0.05)
"""Shares of the points that are to lie within a distance."""

BINS = 10

Array = NDArray[np.float64]


class Judged:
    """The answers on one set, with their scores and deviations."""

    def __init__(self, name: str, found: Sequence[Answer], calibration: Calibration) -> None:
        self.name = name
        self.answers = [a for a in found if a.kind != "face made harder"]
        self.scores = np.array([calibration.score(a.residual, a.points, a.std) for a in self.answers])
        self.faces = np.array([a.kind == "face" for a in self.answers])
        # A model that looks around itself may find the face of which its box holds a part.
        self.none = np.array([a.kind != "face" and not a.fits for a in self.answers])
        faces = [a for a in self.answers if a.kind == "face"]
        self.fits = np.array([a.fits for a in faces])
        # In shares of the face, so that small and large faces count the same.
        self.errors = np.array([a.errors / a.size for a in faces if a.errors is not None])
        self.deviations = np.array([calibration.deviation(a.residual, a.points, a.std) / a.size for a in faces])

    def table(self, limit: float) -> str:
        rows = [
            "| kind | boxes | 2 % | 10 % | median | 90 % | 98 % | kept |\n| --- | --- | --- | --- | --- | --- | --- | --- |"
        ]
        for kind in dict.fromkeys(a.kind for a in self.answers):
            values = self.scores[[a.kind == kind for a in self.answers]]
            shown = " | ".join(f"{v:.3f}" for v in np.quantile(values, (0.02, 0.1, 0.5, 0.9, 0.98)))
            rows.append(f"| {kind} | {len(values)} | {shown} | {100 * np.mean(values >= limit):.0f} % |")
        return "\n".join(rows)

    def coverage(self) -> Array:
        """Shares of the points that lie within the distances at which `LEVELS` of them should."""
        within = np.sqrt(-np.log(1 - LEVELS) * 4 / np.pi)  # of a Rayleigh distribution with mean 1
        return np.array([(self.errors < t * self.deviations).mean() for t in within])

    def bins(self) -> tuple[Array, Array]:
        """Means of deviations and of errors in tenths of the points, by their deviation."""
        parts = np.array_split(np.argsort(self.deviations.ravel()), BINS)
        means = [(self.deviations.ravel()[part].mean(), self.errors.ravel()[part].mean()) for part in parts]
        return np.array(means)[:, 0], np.array(means)[:, 1]

    def line(self) -> str:
        told, true = self.bins()
        coverage = self.coverage()
        return (
            f"| {self.name} | {len(self.errors)} | {100 * self.errors.mean():.2f} % | {100 * self.deviations.mean():.2f} % | "
            f"{100 * np.abs(coverage - LEVELS).mean():.1f} % | {100 * np.abs(told - true).mean() / self.errors.mean():.1f} % | "
            f"{100 * coverage[9]:.0f} % | {100 * coverage[17]:.0f} % |"
        )


def auc(positive: Array, negative: Array) -> float:
    """Area under the ROC curve: how often a face scores above what is none."""
    return float((positive[:, None] > negative[None]).mean() + 0.5 * (positive[:, None] == negative[None]).mean())


def plot(judged: Sequence[Judged], path: Path) -> None:
    """Reliability diagrams: shares of points within a distance, and mean errors over deviations."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import FixedLocator, FormatStrFormatter, NullLocator

    figure = Figure(figsize=(10, 4.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.plot([0, 100], [0, 100], color="0.6", linewidth=1)
    most = 100 * max(max(one.max() for one in j.bins()) for j in judged)
    least = 100 * min(min(one.min() for one in j.bins()) for j in judged)
    right.plot([least, most], [least, most], color="0.6", linewidth=1)
    for one in judged:
        left.plot(100 * LEVELS, 100 * one.coverage(), marker="o", markersize=4, label=one.name)
        told, true = one.bins()
        right.plot(100 * told, 100 * true, marker="o", markersize=4, label=one.name)
    left.set(xlabel="points that should lie within a distance, %", ylabel="points that do, %", xlim=(0, 100), ylim=(0, 100))
    right.set(xscale="log", yscale="log", xlabel="Face.deviation, % of the face", ylabel="mean error, % of the face")
    ticks = [1, 2, 5, 10, 20]
    for axis in (right.xaxis, right.yaxis):
        axis.set_major_locator(FixedLocator(ticks))
        axis.set_minor_locator(NullLocator())
        axis.set_major_formatter(FormatStrFormatter("%g"))
    for axes in (left, right):
        axes.grid(alpha=0.3)
        axes.legend(loc="upper left")
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sets", nargs="+", help="labelled faces, as ldeq eval --data takes them")
    parser.add_argument("--model", default="small-68")
    parser.add_argument("--count", type=int, default=330, help="faces of each set")
    parser.add_argument("--detector", default="auto", help="tells unlabelled faces from what is none")
    parser.add_argument("--plot", type=Path, help="where the reliability diagram goes")
    arguments = parser.parse_args()
    pretrained = load_pretrained(arguments.model)
    if (calibration := pretrained.calibration) is None:
        parser.error(f"{arguments.model} has no calibration; fit one with ldeq calibrate")
    judged = []
    for spec in arguments.sets:
        faces = open_faces(spec, "test")
        drawn = samples(
            [faces], pretrained.layout, arguments.count, make_detector(arguments.detector), np.random.default_rng(1)
        )
        one = Judged(faces.name, list(answers(pretrained, drawn)), calibration)
        judged.append(one)
        known, positive = one.scores[one.faces], one.scores[one.faces][one.fits]
        negative = one.scores[one.none]
        print(f"\n{one.name}\n\n{one.table(calibration.min_score)}\n")
        print(f"AUC {auc(positive, negative):.4f} for the {len(positive)} faces on which the landmarks fit,")
        print(
            f"{auc(known, negative):.4f} for all {len(known)}, against {len(negative)} others; limit {calibration.min_score:g}"
        )
    print("\n| set | faces | mean error | mean deviation | calibration error | of means | within half | within nine tenths |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    print("\n".join(one.line() for one in judged))
    if arguments.plot:
        plot(judged, arguments.plot)


if __name__ == "__main__":
    main()
