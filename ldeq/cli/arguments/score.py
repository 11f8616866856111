"""Arguments of ``ldeq score``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from ._optional import OptionalNumber, OptionalPath, OptionalText


@dataclass
class ScoreArguments:
    """Judge the landmarks of any tracker: how steady, how late and, with labels, how right they are.

    Example: ldeq score ours.csv openface.csv --truth labels.npy --report report.html
    """

    tracks: Annotated[tyro.conf.Positional[list[Path]], tyro.conf.arg(metavar="TRACK ...", help_behavior_hint="(required)")]
    """Files of `ldeq video` (CSV or JSON), OpenFace's CSV, tables with the columns frame, x_0, y_0, ..., or .npy (T, K, 2)."""
    video: OptionalPath = None
    """The video, for its frame rate and the size of its frames."""
    truth: OptionalPath = None
    """Labels of the same landmarks, in any of these formats."""
    raw: OptionalPath = None
    """The track without a filter: against it the lag is measured if there is no truth."""
    face: OptionalText = None
    """Which face of files that hold several; the one in the most frames if absent."""
    fps: OptionalNumber = None
    """Frames a second; by default that of the video, else what the file says, else 25."""
    fractions: bool = False
    """Coordinates are fractions of the picture, as MediaPipe gives them; needs --video."""
    report: OptionalPath = None
    """Where a page with the table and plots goes: .html."""
    json: OptionalPath = None
    """Where the figures go as JSON."""

    def run(self) -> int:
        from ..score import Score

        return Score(**vars(self)).run()
