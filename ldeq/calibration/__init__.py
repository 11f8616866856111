"""Fits what makes the answers of a model mean something: `ldeq.confidence` has the formulas, `ldeq calibrate` the command."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..confidence import Calibration
from ..data import Faces
from ..detection import make_detector
from ..engine import checkpoint
from ..engine.checkpoint import CheckpointError
from ..engine.weights import Pretrained
from ..errors import ArgumentError
from .answers import Answer, answers
from .fit import fit
from .samples import samples

MOST = 300
"""Labelled faces behind a calibration: more move its numbers by less than their meaning."""

SEED = 0

__all__ = ["MOST", "Answer", "add_calibration", "answers", "calibrate", "fit", "samples"]


def calibrate(pretrained: Pretrained, sets: Sequence[Faces], most: int = MOST, seed: int = SEED) -> Calibration:
    """Fits score and deviations of a model on labelled pictures, and on what is no face.

    Args:
        pretrained: the model.
        sets: labelled faces that share landmarks with it, and that nobody will judge it by; those it was trained on will do.
        most: labelled faces that are used in all.
        seed: of what is drawn.

    Raises:
        ArgumentError: if a set shares no landmarks with the model, or if too few answers fit.
        DataError: if a set is empty.
    """
    if most < 1:
        raise ArgumentError(f"most must be 1 or more, got {most}")
    drawn = samples(sets, pretrained.layout, most, make_detector("auto"), np.random.default_rng(seed))
    return fit(list(answers(pretrained, drawn)), ", ".join(faces.name for faces in sets))


def add_calibration(source: Path, target: Path, calibration: Calibration) -> None:
    """Writes a file of weights again, with a calibration in the place of any that it had.

    Args:
        source: a file of weights.
        target: where it goes; the same file will do.
        calibration: what is put in.

    Raises:
        CheckpointError: if `source` is no file of weights, or `target` cannot be written.
    """
    groups, document = checkpoint.load(source)
    if document.get("kind") != "weights":
        raise CheckpointError(
            f"{source} is a checkpoint of training; calibrate the weights that the run made (best.safetensors)"
        )
    fields = {name: value for name, value in document.items() if name != "format"}
    numbers = {**dataclasses.asdict(calibration), "offsets": list(calibration.offsets)}
    checkpoint.save(target, groups, {**fields, "calibration": numbers})
