"""What a page may take for granted: a photo, a folder of photos and a clip, all drawn."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from clips import drawn, moving, write_clip

from ldeq.data import write_image


@pytest.fixture(scope="session")
def material(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("material")
    image, _ = drawn(3)
    write_image(folder / "face.jpg", image)
    (folder / "photos").mkdir()
    for seed in (3, 4):
        write_image(folder / "photos" / f"face{seed}.png", drawn(seed)[0])
    write_clip(folder / "clip.mp4", list(moving(3, 20)))
    return folder


@pytest.fixture
def place(material: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder with the material, which becomes the current one."""
    shutil.copytree(material, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path
