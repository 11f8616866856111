"""``ldeq COMMAND``: reads the arguments, runs the command, turns known errors into one sentence."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Annotated

import tyro

from .. import __version__
from ..data import DataError
from ..detection import DetectorError
from ..engine import CheckpointError, SettingsError, TrainingError
from ..ops import BackendError
from ..video.reading import VideoError
from .data import Data
from .demo import Demo
from .doctor import Doctor
from .evaluate import Eval
from .predict import Predict
from .train import Train
from .video import Video, Webcam

KNOWN_ERRORS = (DataError, DetectorError, CheckpointError, SettingsError, TrainingError, BackendError, VideoError)

Command = (
    Annotated[Demo, tyro.conf.subcommand("demo")]
    | Annotated[Train, tyro.conf.subcommand("train")]
    | Annotated[Eval, tyro.conf.subcommand("eval")]
    | Annotated[Predict, tyro.conf.subcommand("predict")]
    | Annotated[Video, tyro.conf.subcommand("video")]
    | Annotated[Webcam, tyro.conf.subcommand("webcam")]
    | Annotated[Doctor, tyro.conf.subcommand("doctor")]
    | Annotated[Data, tyro.conf.subcommand("data")]
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command.

    Args:
        arguments: without the program's name; those of the process if None.

    Returns:
        The exit status: 0, or 2 after an error that was explained in a sentence.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if arguments in (["--version"], ["-V"]):
        print(f"ldeq {__version__}")
        return 0
    command = tyro.cli(Command, prog="ldeq", description=__doc__, args=arguments, config=(tyro.conf.OmitArgPrefixes,))
    try:
        return command.run()
    except KNOWN_ERRORS as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
