"""What a model answers in boxes of all kinds, and how far its landmarks are from the labels."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from ..data import crop_box
from ..engine.weights import Pretrained
from ..video.stream import DETECTED_REFINE
from ..video.tracking import MOST_CROPS, FaceState, Tracker, TrackingSettings
from .samples import FACES, Points, Sample, tight

FIT = 0.05
"""Landmarks fit a face whose mean error is below this share of the longer side of its labels' box: an NME of about 10 %."""


@dataclass(frozen=True)
class Answer:
    """What a model said of one box.

    Attributes:
        kind: what the box shows, as in `Sample`.
        residual: of the last full solve.
        points: `(K, 2)` pixels.
        std: `(K,)`, the model's deviations in the same pixels.
        errors: `(K,)`, distances to the labels in the same pixels, NaN for landmarks that are not labelled; None where no face
            is there to be found.
        size: the longer side of the labels' box in pixels; 0 without labels.
    """

    kind: str
    residual: float
    points: Points
    std: NDArray[np.float32]
    errors: NDArray[np.float64] | None
    size: float

    @property
    def is_face(self) -> bool:
        """Whether the box is around a face, and not of a part of one or beside it."""
        return self.errors is not None and self.kind in FACES

    @property
    def fits(self) -> bool:
        """Whether there is a face, and the landmarks lie on it."""
        return self.errors is not None and bool(np.nanmean(self.errors) < FIT * self.size)


def answers(pretrained: Pretrained, samples: Iterable[Sample]) -> Iterator[Answer]:
    """The answers of a model, every second one with the crop taken anew around the landmarks, as behind a detector."""
    tracker = Tracker(pretrained.model, pretrained.crop_scale, TrackingSettings(rwr=False), pretrained.layout)
    waiting = iter(samples)
    while part := list(islice(waiting, MOST_CROPS)):
        yield from _answers(tracker, part)


def _answers(tracker: Tracker, samples: Sequence[Sample]) -> Iterator[Answer]:
    states = [
        FaceState(crop_box("box", box=sample.box, scale=tracker.crop_scale), DETECTED_REFINE * (i % 2))
        for i, sample in enumerate(samples)
    ]
    estimates = tracker.step([sample.image for sample in samples], states)
    for sample, estimate, state in zip(samples, estimates, states, strict=True):
        errors, size = None, 0.0
        if sample.points is not None:
            errors = np.linalg.norm(estimate.points.astype(np.float64) - sample.points, axis=1)
            x1, y1, x2, y2 = tight(sample.points)
            size = max(x2 - x1, y2 - y1)
        yield Answer(sample.kind, state.residual, estimate.points, estimate.std, errors, size)
