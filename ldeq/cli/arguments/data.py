"""Arguments of ``ldeq data``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from ._optional import OptionalCount, OptionalPath, OptionalText


@dataclass
class DataCheckArguments:
    """Decode every picture of a data set, judge its labels, draw a contact sheet.

    Example: ldeq data check wflw ~/WFLW --split test --sheet sheet.png
    """

    kind: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="KIND")]
    """300w, wflw, hih, wflw-v or synthetic; or all in one, as in wflw:~/WFLW#test."""
    folder: Annotated[tyro.conf.Positional[OptionalText], tyro.conf.arg(metavar="[FOLDER]")] = None
    """Where it lies (synthetic: how many)."""
    split: OptionalText = None
    """The split; ``train`` by default, for wflw-v ``all``."""
    sheet: OptionalPath = None
    """Picture with a sample of faces and their landmarks drawn."""
    samples: Annotated[int, tyro.conf.arg(metavar="N")] = 30
    """Faces on the sheet."""
    json: OptionalPath = None
    """Where the findings go as JSON."""

    def run(self) -> int:
        from ..data import DataCheck

        return DataCheck(**vars(self)).run()


@dataclass
class MakeFacesArguments:
    """Draw synthetic faces into a folder, in WFLW's own layout: pictures, 98 landmarks, rectangle, attributes.

    Example: ldeq data make-faces ~/faces --count 1000 --seed 1, then use it as wflw:~/faces
    """

    folder: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="FOLDER")]
    """Where they go; it must not hold a data set already."""
    count: int = 1000
    """Faces of the train list; the test list gets a fifth of that, from another seed."""
    seed: int = 0
    """Another seed draws other faces."""
    size: int = 256
    """Side of the pictures in pixels."""

    def run(self) -> int:
        from ..data import MakeFaces

        return MakeFaces(**vars(self)).run()


@dataclass
class MakeClipsArguments:
    """Move labelled photos: clips of speaking, blinking, turning faces with exact landmarks, in the layout of WFLW-V.

    Example: ldeq data make-clips --data 300w:~/300w#helen-test --out ~/clips, then use it as wflw-v:~/clips
    """

    data: str
    """The photos: 300w:FOLDER#helen-test, wflw:FOLDER#test."""
    out: Path
    """Where the clips go; a new or empty folder."""
    easy: int = 50
    """Clips with calm motion and good light."""
    hard: int = 50
    """Clips with fast motion, things before the face, blur, noise and changing light."""
    seed: int = 0
    """Another seed makes other motion, noise and things before the face."""
    part: Literal["tune", "test", "all"] = "test"
    """Photos to use: ``tune`` and ``test`` show different people, so that filters are tuned on others than those that
    judge them."""
    frames: OptionalCount = None
    """Frames of every clip; 110 to 150 by default."""
    noise: bool = True
    """Noise of the sensor; without it the clips are otherwise the same."""

    def run(self) -> int:
        from ..data import MakeClips

        return MakeClips(**vars(self)).run()


@dataclass
class DataArguments:
    """Look at data sets, and make one."""

    command: (
        Annotated[DataCheckArguments, tyro.conf.subcommand("check")]
        | Annotated[MakeFacesArguments, tyro.conf.subcommand("make-faces")]
        | Annotated[MakeClipsArguments, tyro.conf.subcommand("make-clips")]
    )

    def run(self) -> int:
        return self.command.run()
