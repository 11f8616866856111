"""A page without onnxruntime-web for most tests, and a whole one for the browser."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from ldeq.engine import Pretrained, load_pretrained
from ldeq.web import build_page, runtime
from ldeq.web.page import static_files

pytest.importorskip("onnx")

STAND_IN = {name: f"stand-in for {name}".encode() for name in runtime.FILES}


@pytest.fixture(scope="session")
def pretrained() -> Pretrained:
    return load_pretrained("small-68")


@pytest.fixture(scope="session")
def bare_page(pretrained: Pretrained, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with everything but onnxruntime-web; tests only read it."""
    return build_page(pretrained, tmp_path_factory.mktemp("page") / "page", STAND_IN)


@pytest.fixture
def made_once(bare_page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Builds take what is slow, the graphs and the drawn faces, from the page that is there."""

    def files_of(part: str) -> dict[str, bytes]:
        folder = bare_page / part
        return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}

    monkeypatch.setattr("ldeq.web.demo.demo_files", lambda: files_of("demo"))
    monkeypatch.setattr("ldeq.web.model.model_files", lambda pretrained: files_of("model"))


@pytest.fixture
def page(bare_page: Path, tmp_path: Path) -> Path:
    """A copy that a test may change."""
    return Path(shutil.copytree(bare_page, tmp_path / "page"))


@pytest.fixture(scope="session")
def onnxruntime_web(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The real files: of LDEQ_NODE_MODULES, or of npm where it has them or a network."""
    if modules := os.environ.get("LDEQ_NODE_MODULES"):
        return runtime.from_folder("LDEQ_NODE_MODULES", modules)
    try:
        return runtime.from_npm()
    except runtime.RuntimeFilesError as error:
        if "checksum" in str(error):
            raise
        pytest.skip(f"no onnxruntime-web: {error}")


@pytest.fixture(scope="session")
def whole_page(bare_page: Path, onnxruntime_web: dict[str, bytes], pretrained: Pretrained) -> Path:
    """The folder as users get it."""
    folder = bare_page.parent / "whole"
    shutil.copytree(bare_page, folder)
    return build_page(pretrained, folder, onnxruntime_web)


class Scripts:
    """Runs the modules of the page in Node."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, program: str, given: str = "null") -> str:
        """What a module prints; `given` is the JSON that it finds in ``given``."""
        head = 'import { readFileSync } from "node:fs";\nconst given = JSON.parse(readFileSync(0, "utf8"));\n'
        (self.folder / "program.mjs").write_text(head + program)
        done = subprocess.run(
            ["node", "program.mjs"], cwd=self.folder, input=given, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout


@pytest.fixture(scope="session")
def scripts(tmp_path_factory: pytest.TempPathFactory) -> Scripts:
    if shutil.which("node") is None:
        pytest.skip("no node")
    folder = tmp_path_factory.mktemp("scripts")
    for name, data in static_files().items():
        if name.endswith(".js"):
            (folder / name).write_bytes(data)
    (folder / "package.json").write_text('{"type": "module"}')
    return Scripts(folder)
