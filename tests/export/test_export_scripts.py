"""The scripts of docs/export.md run as they stand, without ldeq, and find what ldeq finds."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from ldeq import Landmarker
from ldeq.data import open_faces
from ldeq.engine import Pretrained
from ldeq.export import export_onnx

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

PAGE = (Path(__file__).parents[2] / "docs" / "export.md").read_text()
FRAMES, SIZE = 8, 256


def block(language: str) -> str:
    """The one long code block of a language."""
    return max(re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL), key=len)


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[NDArray[np.uint8]], NDArray[np.float64]]:
    """A drawn face that moves to the right by two pixels a frame, and its box in the first frame."""
    faces = open_faces("synthetic:1#seed=5,size=256")
    points = faces.record(0).points
    frames = [np.ascontiguousarray(np.roll(faces.read(0), 2 * t, axis=1)) for t in range(FRAMES)]
    return frames, np.concatenate([points.min(0), points.max(0)]).astype(np.float64)


@pytest.fixture(scope="module")
def model(pretrained: Pretrained, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_onnx(pretrained, tmp_path_factory.mktemp("onnx") / "video-68.onnx", evaluations=1)


@pytest.fixture(scope="module")
def by_python(clip: tuple[list[NDArray[np.uint8]], NDArray[np.float64]], model: Path, tmp_path_factory) -> NDArray[np.float64]:  # type: ignore[no-untyped-def]
    frames, box = clip
    folder = tmp_path_factory.mktemp("python")
    video = folder / "clip.avi"
    # Lossless, so that the other script sees the same pixels.
    writer = cv2.VideoWriter(str(video), cv2.VideoWriter.fourcc(*"FFV1"), 25, (SIZE, SIZE))
    for frame in frames:
        writer.write(cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))
    writer.release()
    (folder / "rwr.py").write_text(block("python"))
    return lines([sys.executable, "rwr.py", str(model), str(video), *map(str, box)], folder)


def lines(command: list[str], folder: Path, stdin: bytes | None = None) -> NDArray[np.float64]:
    done = subprocess.run(command, cwd=folder, input=stdin, capture_output=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr.decode()
    return np.array([line.split() for line in done.stdout.decode().splitlines()], np.float64).reshape(FRAMES, 68, 2)


def test_the_python_script_follows_a_face_with_onnxruntime_alone(
    clip: tuple[list[NDArray[np.uint8]], NDArray[np.float64]], by_python: NDArray[np.float64]
) -> None:
    assert "ldeq" not in re.sub(r"#.*", "", block("python"))
    assert len([line for line in block("python").splitlines() if line.strip()]) <= 24
    frames, box = clip
    landmarker = Landmarker.load("small-68", "cpu")
    for t in range(FRAMES):
        (face,) = landmarker(frames[t], [box + (2 * t, 0, 2 * t, 0)])
        assert np.abs(by_python[t] - face.points).mean() < 1.5
    moved = (by_python[-1] - by_python[0]).mean(0)
    np.testing.assert_allclose(moved, (2 * (FRAMES - 1), 0), atol=1.5)


def test_the_javascript_twin_finds_what_the_python_script_finds(
    clip: tuple[list[NDArray[np.uint8]], NDArray[np.float64]], model: Path, by_python: NDArray[np.float64], tmp_path: Path
) -> None:
    modules = os.environ.get("LDEQ_NODE_MODULES")
    if shutil.which("node") is None or modules is None:
        pytest.skip("no node, or no LDEQ_NODE_MODULES, a node_modules folder with onnxruntime-web")
    frames, box = clip
    (tmp_path / "node_modules").symlink_to(Path(modules).resolve())
    (tmp_path / "rwr.mjs").write_text(block("js"))
    command = ["node", "--preserve-symlinks", "rwr.mjs", str(model), str(SIZE), str(SIZE), *map(str, box)]
    found = lines(command, tmp_path, b"".join(frame.tobytes() for frame in frames))
    # The crops differ: OpenCV rounds the weights of a bilinear warp to 1/32.
    assert np.abs(found - by_python).max() < 0.5
