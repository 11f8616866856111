"""Arguments of ``ldeq demo``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass
class DemoArguments:
    """Train a tiny model on drawn faces, score it on others, and leave pictures to look at. Downloads nothing."""

    out: Path = Path("demo")
    """Folder for pictures and weights."""
    faces: int = 1200
    """Faces to train on."""
    test_faces: int = 300
    """Faces to score on, drawn from another seed."""
    epochs: int = 11
    """Passes over the training faces."""
    seed: int = 0
    """Of the drawn faces and the first weights; the same seed gives the same model."""

    def run(self) -> int:
        from ..demo import Demo

        return Demo(**vars(self)).run()
