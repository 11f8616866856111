"""The build from the source tree, and what happens where it cannot be."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def setup(folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs the build step on a copy of the sources."""
    for name in ("csrc", "kernels", "ldeq"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("*.so", "_build.json", "weights"))
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    return subprocess.run(
        [sys.executable, "setup.py", "build_ext", "--inplace"],
        cwd=folder,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
    )


def report(folder: Path) -> str:
    """What `available_backends` says of the CPU in that copy."""
    code = "import ldeq; print(ldeq.ops.available_backends()['cpu'])"
    return subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=True).stdout


def test_without_kernels_everything_installs_and_says_why(tmp_path):
    done = setup(tmp_path, LDEQ_BUILD_CPU="0")
    assert done.returncode == 0, done.stderr
    assert "LDEQ_BUILD_CPU=0" in report(tmp_path)


def test_without_a_compiler_everything_installs_and_says_why(tmp_path):
    done = setup(tmp_path, CXX="/nowhere/c++")
    assert done.returncode == 0 and "no C++ compiler was found" in report(tmp_path)


def test_forced_without_a_compiler_is_an_error(tmp_path):
    done = setup(tmp_path, CXX="/nowhere/c++", LDEQ_BUILD_CPU="1")
    assert done.returncode != 0 and "install g++" in done.stderr


def test_forced_cuda_without_nvcc_says_what_to_install(tmp_path):
    done = setup(tmp_path, LDEQ_BUILD_CUDA="1", PATH="/nowhere")
    assert done.returncode != 0 and "install the CUDA toolkit" in done.stderr


def test_an_unknown_architecture_is_named(tmp_path):
    if shutil.which("nvcc") is None:
        pytest.skip("nvcc is not installed")
    done = setup(tmp_path, LDEQ_BUILD_CUDA="1", LDEQ_CUDA_ARCHS="9.0 3.5")
    assert done.returncode != 0 and "'3.5'" in done.stderr


def test_cuda_needs_the_library_that_has_the_schemas(tmp_path):
    done = setup(tmp_path, LDEQ_BUILD_CPU="0", LDEQ_BUILD_CUDA="")
    assert done.returncode == 0, done.stderr
    said = json.loads((tmp_path / "ldeq" / "_build.json").read_text())
    assert "schemas" in said["cuda"] and "LDEQ_BUILD_CPU=0" in said["cuda"]


def test_a_library_that_does_not_load_is_quoted(tmp_path):
    assert setup(tmp_path, LDEQ_BUILD_CPU="0").returncode == 0
    (tmp_path / "ldeq" / "_C.so").write_bytes(b"not a library")
    said = report(tmp_path)
    assert "failed to load" in said and "_C.so" in said
