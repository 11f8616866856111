"""What commands work on: a drawn face and a tiny model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from ldeq.cli import main
from ldeq.data import open_faces, write_image
from ldeq.engine.settings import TrainSettings
from ldeq.engine.weights import save_weights
from ldeq.models import LDEQ, LDEQConfig


@pytest.fixture
def face(tmp_path: Path) -> Path:
    path = tmp_path / "face.png"
    write_image(path, open_faces("synthetic:1#seed=5,size=256").read(0))
    return path


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    settings = TrainSettings(model=LDEQConfig.tiny(landmarks=98, image_size=32, width=16, depth=1, groups=4))
    path = tmp_path / "w.safetensors"
    save_weights(path, LDEQ(settings.model), open_faces("synthetic:1").layout, settings)
    return path


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Runs a command that must be refused, and gives the sentence."""

    def run(*arguments: object) -> str:
        capsys.readouterr()
        assert main([str(argument) for argument in arguments]) == 2
        told = capsys.readouterr()
        assert told.err.startswith("error: ")
        assert told.err.count("\n") == 1
        assert told.out == ""
        return told.err.strip()

    return run
