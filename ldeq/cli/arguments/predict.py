"""Arguments of ``ldeq predict``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import tyro

from ._optional import OptionalNumber, OptionalPath, OptionalText


@dataclass
class PredictArguments:
    """Find faces and their landmarks in pictures.

    Example: ldeq predict face.jpg -o out.jpg --json out.json
    """

    images: Annotated[tyro.conf.Positional[list[str]], tyro.conf.arg(metavar="PICTURE ...", help_behavior_hint="(required)")]
    """Pictures: files, folders, patterns such as 'photos/*.jpg', http addresses, or - for the standard input."""
    out: Annotated[OptionalPath, tyro.conf.arg(aliases=["-o"])] = None
    """Where the picture with its landmarks goes; a folder for several pictures."""
    json: OptionalPath = None
    """Where points, deviations, boxes, pose and openings go; - prints them. Without any output, a terminal gets a line a face,
    and a pipe a line of JSON a picture."""
    jsonl: OptionalPath = None
    """The same for whole data sets, a line a picture, written batch by batch. After a stop or a kill the same command goes on,
    and under torchrun each process takes a share of the pictures."""
    batch: Annotated[int, tyro.conf.arg(metavar="N")] = 1
    """Pictures that the model sees together."""
    labels: OptionalPath = None
    """Where the landmarks go as --format says; for pts a folder."""
    format: OptionalText = None
    """Of --labels: csv, json, coco, wflw or pts. Without it the suffix decides: .csv, .json, or a folder for pts."""
    converge: OptionalPath = None
    """Where a GIF of the first face's heatmaps goes, evaluation by evaluation."""
    box: OptionalText = None
    """x1,y1,x2,y2 in pixels, tight around the landmarks (jaw to brows), instead of the detector."""
    cropped: bool = False
    """The picture is one face, cropped as for training."""
    detector: str = "auto"
    """What finds faces: centerface (the extra detection), haar, yunet:FILE with a YuNet ONNX file, or auto, the best one that
    is installed (ldeq doctor)."""
    min_score: OptionalNumber = None
    """Faces whose score is lower are left out; 0 keeps all. If absent, the model's own limit holds for faces that the detector
    finds, and no limit for --box and --cropped."""
    model: str = "small-68"
    """A shipped model or a ``.safetensors`` file."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1."""
    engine: str = "auto"
    """What evaluates the network on a CPU: torch, onnxruntime, or auto, the faster one that is installed (ldeq doctor)."""

    def run(self) -> int:
        from ..predict import Predict

        return Predict(**vars(self)).run()
