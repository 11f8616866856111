"""Scores a model on labelled faces, in pixels of the source pictures."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Subset

from .. import metrics
from ..brief import brief_repr
from ..data import DataError, LandmarkDataset, invert, is_known, normalise, transform_points
from ..models import LDEQ
from .device import autocast
from .loading import load_batches


@dataclass(frozen=True)
class Evaluation:
    """What a model answered on N faces.

    Attributes:
        protocol: one line that says how the score was made: normaliser, crop rule, images, solver.
        predicted: `(N, K, 2)` float32, pixels of the source pictures.
        points: `(N, K, 2)` float32, the labels.
        std: `(N, K)` float32, the model's own standard deviation in unit crop coordinates.
        normaliser: `(N,)` inter-ocular distances in pixels.
        errors: `(N,)` NME of each face, a fraction.
        indices: `(N,)` the faces' numbers in the data set.
        attributes: N mappings, for the subset table.
        evaluations: `(N,)` cell evaluations that each face took, those behind the solve included.
        residual: mean residual of the solves.
        skipped: (path, reason) of pictures that could not be read; they are in no figure.
    """

    protocol: str
    predicted: NDArray[np.float32]
    points: NDArray[np.float32]
    std: NDArray[np.float32]
    normaliser: NDArray[np.float64]
    errors: NDArray[np.float64]
    indices: NDArray[np.int64]
    attributes: list[Mapping[str, bool]]
    evaluations: NDArray[np.int64]
    residual: float
    skipped: list[tuple[str, str]]

    __repr__ = brief_repr

    @property
    def summary(self) -> dict[str, float]:
        """NME in percent, FR10, AUC10 and the number of images."""
        return metrics.summary(self.errors)

    @property
    def subsets(self) -> dict[str, dict[str, float]]:
        """`summary` of everything and of each attribute's images."""
        return metrics.by_subset(self.errors, self.attributes)

    @property
    def landmark_errors(self) -> NDArray[np.float64]:
        """`(K,)` NME of each landmark in percent, mean over the images."""
        distance = np.linalg.norm(self.predicted.astype(np.float64) - self.points, axis=-1)
        return 100 * (distance / self.normaliser[:, None]).mean(0)


def protocol_line(model: LDEQ, dataset: LandmarkDataset, images: int, weights: str) -> str:
    """How a score was made, in one line: printed with every score."""
    c, layout = model.config, dataset.layout
    crop = "crops as given" if dataset.faces.record(0).precropped else f"crop {dataset.crop} x {dataset.crop_scale:g}"
    extra = (c.phantom_steps if c.gradient == "jfb" else 1) if c.final_evaluation else 0
    evaluations = f"{c.max_iter} + {extra}" if extra else f"{c.max_iter}"
    stop = f"landmarks moving by {c.tol:g} px" if c.stop == "landmarks" else f"{c.stop} residual {c.tol:g}"
    normaliser = "inter-ocular distance (outer eye corners" if is_known(layout) else "the layout's normaliser (landmarks"
    return (
        f"{dataset.faces.name}, {images} images, {layout.name}; NME by {normaliser} "
        f"{layout.outer_eyes[0]}, {layout.outer_eyes[1]}) in source pixels; {crop}, {c.image_size} px; "
        f"{c.solver}, at most {evaluations} evaluations, stop at {stop}; {weights}"
    )


@torch.no_grad()
def evaluate(
    model: LDEQ,
    dataset: LandmarkDataset,
    *,
    batch: int = 16,
    workers: int = 0,
    amp: str = "off",
    weights: str = "weights as trained",
    share: tuple[int, int] = (0, 1),
    progress: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """Runs the model over a data set without augmentation.

    Args:
        model: in any mode; it is evaluated in eval mode and left as it was.
        dataset: not augmented, ``on_error="replace"``: unreadable pictures are then listed instead of ending the run.
        batch: faces at a time; the result does not depend on it.
        workers: loader processes.
        amp: ``"off"`` or ``"bf16"``.
        weights: words for the protocol line, such as ``"weights: moving average"``.
        share: (rank, world): this process scores every world-th face.
        progress: called with (done, total) after each batch.

    Raises:
        DataError: if layouts or sizes of model and data differ, or no picture could be read.
    """
    if dataset.layout.count != model.config.landmarks:
        raise DataError(
            f"the model predicts {model.config.landmarks} landmarks and {dataset.faces.name} has {dataset.layout.count}; "
            "choose data or a model of the other layout"
        )
    if dataset.size != model.config.image_size:
        raise DataError(f"the model takes crops of {model.config.image_size} pixels, the data set makes {dataset.size}")
    device = next(model.parameters()).device
    was_training = model.training
    model.eval()
    mine = range(share[0], len(dataset), share[1])
    predicted, points, std, indices, evaluations, residuals = [], [], [], [], [], []
    skipped: list[tuple[str, str]] = []
    done = 0
    for item in load_batches(Subset(dataset, mine), workers=workers, batch_size=batch):
        with autocast(device, amp):
            out = model(normalise(item["image"].to(device)))
        counts = model.evaluations(out.solution)[0].tolist()
        unit, size = out.landmarks.float().cpu().numpy(), dataset.size
        for i, index in enumerate(item["index"].tolist()):
            if item["skipped"][i]:
                skipped.append((dataset.describe(index), dataset.fault(index)))
                continue
            to_image = invert(item["matrix"][i].numpy())
            predicted.append(transform_points(to_image, unit[i] * size).astype(np.float32))
            points.append(item["points"][i].numpy())
            std.append(out.std[i].float().cpu().numpy())
            evaluations.append(counts[i])
            residuals.append(float(out.solution.residual[i]))
            indices.append(index)
        done += len(item["index"])
        if progress:
            progress(done, len(mine))
    model.train(was_training)
    if not predicted:
        raise DataError(f"none of the {len(mine)} faces of {dataset.faces.name} can be used; run: ldeq data check")
    truth = np.stack(points)
    normaliser = dataset.layout.inter_ocular(truth.astype(np.float64))
    return Evaluation(
        protocol=protocol_line(model, dataset, len(predicted), weights),
        predicted=np.stack(predicted),
        points=truth,
        std=np.stack(std),
        normaliser=normaliser,
        errors=metrics.nme(np.stack(predicted), truth, normaliser),
        indices=np.array(indices, np.int64),
        attributes=[dataset.faces.record(i).attributes for i in indices],
        evaluations=np.array(evaluations, np.int64),
        residual=float(np.mean(residuals)),
        skipped=skipped + list(getattr(dataset.faces, "skipped", ())),
    )


def join(parts: list[Evaluation]) -> Evaluation:
    """The shares of several processes as one evaluation, in the data set's order."""
    first = parts[0]
    indices = np.concatenate([p.indices for p in parts])
    order = np.argsort(indices, kind="stable")
    attributes = [a for p in parts for a in p.attributes]
    counts = [len(p.indices) for p in parts]
    # Every process lists what the folder could not offer; only once in the sum.
    skipped = list(dict.fromkeys(s for p in parts for s in p.skipped))

    def gather(name: str) -> NDArray[np.float32]:
        return np.concatenate([getattr(p, name) for p in parts])[order]

    return Evaluation(
        protocol=first.protocol.replace(f" {len(first.indices)} images", f" {len(indices)} images", 1),
        predicted=gather("predicted"),
        points=gather("points"),
        std=gather("std"),
        normaliser=gather("normaliser").astype(np.float64),
        errors=gather("errors").astype(np.float64),
        indices=indices[order],
        attributes=[attributes[i] for i in order],
        evaluations=np.concatenate([p.evaluations for p in parts])[order],
        residual=float(np.average([p.residual for p in parts], weights=counts)),
        skipped=skipped,
    )
