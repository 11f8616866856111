"""All commands, for the reader of the arguments."""

from __future__ import annotations

from typing import Annotated

import tyro

from .arguments.bench import BenchArguments
from .arguments.calibrate import CalibrateArguments
from .arguments.convert import ConvertArguments
from .arguments.data import DataArguments
from .arguments.demo import DemoArguments
from .arguments.doctor import DoctorArguments
from .arguments.evaluate import EvalArguments
from .arguments.export import ExportArguments
from .arguments.predict import PredictArguments
from .arguments.score import ScoreArguments
from .arguments.train import TrainArguments
from .arguments.video import VideoArguments, WebcamArguments
from .arguments.web import WebArguments

Command = (
    Annotated[DemoArguments, tyro.conf.subcommand("demo")]
    | Annotated[TrainArguments, tyro.conf.subcommand("train")]
    | Annotated[EvalArguments, tyro.conf.subcommand("eval")]
    | Annotated[PredictArguments, tyro.conf.subcommand("predict")]
    | Annotated[VideoArguments, tyro.conf.subcommand("video")]
    | Annotated[WebcamArguments, tyro.conf.subcommand("webcam")]
    | Annotated[ScoreArguments, tyro.conf.subcommand("score")]
    | Annotated[ExportArguments, tyro.conf.subcommand("export")]
    | Annotated[CalibrateArguments, tyro.conf.subcommand("calibrate")]
    | Annotated[ConvertArguments, tyro.conf.subcommand("convert")]
    | Annotated[WebArguments, tyro.conf.subcommand("web")]
    | Annotated[DoctorArguments, tyro.conf.subcommand("doctor")]
    | Annotated[DataArguments, tyro.conf.subcommand("data")]
    | Annotated[BenchArguments, tyro.conf.subcommand("bench")]
)
