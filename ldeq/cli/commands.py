"""All commands, for the reader of the arguments."""

from __future__ import annotations

from typing import Annotated

import tyro

from .bench import Bench
from .calibrate import Calibrate
from .convert import Convert
from .data import Data
from .demo import Demo
from .doctor import Doctor
from .evaluate import Eval
from .export import Export
from .predict import Predict
from .score import Score
from .train import Train
from .video import Video, Webcam
from .web import Web

Command = (
    Annotated[Demo, tyro.conf.subcommand("demo")]
    | Annotated[Train, tyro.conf.subcommand("train")]
    | Annotated[Eval, tyro.conf.subcommand("eval")]
    | Annotated[Predict, tyro.conf.subcommand("predict")]
    | Annotated[Video, tyro.conf.subcommand("video")]
    | Annotated[Webcam, tyro.conf.subcommand("webcam")]
    | Annotated[Score, tyro.conf.subcommand("score")]
    | Annotated[Export, tyro.conf.subcommand("export")]
    | Annotated[Calibrate, tyro.conf.subcommand("calibrate")]
    | Annotated[Convert, tyro.conf.subcommand("convert")]
    | Annotated[Web, tyro.conf.subcommand("web")]
    | Annotated[Doctor, tyro.conf.subcommand("doctor")]
    | Annotated[Data, tyro.conf.subcommand("data")]
    | Annotated[Bench, tyro.conf.subcommand("bench")]
)
