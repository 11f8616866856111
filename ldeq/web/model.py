"""The model as the page takes it: two ONNX graphs and a description.

A browser's slider sets the number of evaluations, so that a graph with a fixed number of them will not do. One graph computes
the injection term of a crop, once a frame; the other is a single evaluation of the cell with its readout.

| file | inputs | outputs |
| --- | --- | --- |
| ``injection.onnx`` | ``images`` `(B, S, S, 3)` uint8 | ``term`` `(B, width, S/4, S/4)` |
| ``evaluation.onnx`` | ``z0`` `(B, K, S/4, S/4)`, ``term`` | ``landmarks``, ``std``, ``z``, ``residual``, as in `ldeq.export` |
"""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import onnx

from ..confidence import Calibration
from ..data import Layout
from ..engine.weights import Pretrained
from ..export import folded_of, metadata, write_injection, write_readout, write_residual
from ..models.inference.folded import Folded, evaluation
from ..models.inference.onnx_graph import FLOAT, UINT8, OnnxGraph
from ..video import plausible, stream, tracking
from ..video.filters.face_frame import FaceFrameSettings
from ..video.filters.face_modes import opening_landmarks, rigid_landmarks


def model_files(pretrained: Pretrained) -> dict[str, bytes]:
    """Names of files to their content.

    Raises:
        ExportError: if the model is not a plain one.
    """
    folded = folded_of(pretrained.model)
    return {
        "injection.onnx": injection_graph(folded).SerializeToString(),
        "evaluation.onnx": evaluation_graph(folded, pretrained.model.config.eps).SerializeToString(),
        "model.json": (json.dumps(description(pretrained), indent=1) + "\n").encode(),
    }


def injection_graph(folded: Folded) -> onnx.ModelProto:
    """A crop to its injection term."""
    graph = OnnxGraph()
    graph.op("Identity", write_injection(graph, folded), output="term")
    h = folded.head.size
    images = ("images", UINT8, ("batch", 4 * h, 4 * h, 3))
    return graph.model([images], [("term", FLOAT, _term_shape(folded))])


def evaluation_graph(folded: Folded, eps: float) -> onnx.ModelProto:
    """One evaluation of the cell, and what it says of the face."""
    graph = OnnxGraph()
    landmarks, h = folded.head.kernel.shape[0], folded.head.size
    z = graph.op("Identity", evaluation(graph, folded, "z0", "term"), output="z")
    write_readout(graph, z, h, eps)
    write_residual(graph, z, "z0")
    state = ("batch", landmarks, h, h)
    outputs = [
        ("landmarks", FLOAT, ("batch", landmarks, 2)),
        ("std", FLOAT, ("batch", landmarks)),
        ("z", FLOAT, state),
        ("residual", FLOAT, ("batch",)),
    ]
    return graph.model([("z0", FLOAT, state), ("term", FLOAT, _term_shape(folded))], outputs)


def _term_shape(folded: Folded) -> tuple[str | int, ...]:
    return ("batch", folded.injection.kernel.shape[0], folded.head.size, folded.head.size)


def description(pretrained: Pretrained) -> dict[str, Any]:
    """What the scripts of the page need to know of the model, of tracking and of the filter."""
    config = pretrained.model.config
    full = config.max_iter + config.final_evaluation
    settings = tracking.TrackingSettings()
    return {
        **metadata(pretrained, full),
        "image_size": config.image_size,
        "crop_scale": pretrained.crop_scale,
        "evaluations": full,
        "final_evaluation": config.final_evaluation,
        "card": pretrained.card,
        "layout": layout_of(pretrained.layout),
        "tracking": {
            "slack": settings.slack,
            "side_slack": settings.side_slack,
            "check_every": settings.check_every,
            "settled": settings.settled,
            "patience": settings.patience,
            "spread": tracking.SPREAD,
            "suspect_every": tracking.SUSPECT_EVERY,
            "drift": tracking.DRIFT,
            "leap": plausible.LEAP,
            "extent": plausible.EXTENT,
            "inside": plausible.INSIDE,
            "smallest": plausible.SMALLEST,
            "refine": stream.DETECTED_REFINE,
        },
        "score": score_of(pretrained.calibration),
        "filter": dataclasses.asdict(FaceFrameSettings()),
    }


def score_of(calibration: Calibration | None) -> dict[str, float] | None:
    """The numbers of the score; None for a model without."""
    if calibration is None:
        return None
    return {"bias": calibration.bias, "residual": calibration.residual, "spread": calibration.spread}


def layout_of(layout: Layout) -> dict[str, Any]:
    """A layout, and which of its landmarks are rigid and which are lively, for the filter."""
    return {
        "name": layout.name,
        "count": layout.count,
        "outer_eyes": [int(i) for i in layout.outer_eyes],
        "parts": {name: {"indices": [int(i) for i in p.indices], "closed": p.closed} for name, p in layout.parts.items()},
        "rigid": rigid_landmarks(layout).tolist(),
        "lively": opening_landmarks(layout).tolist(),
    }
