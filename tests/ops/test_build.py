"""The build: what is inside, and what happens where it cannot be."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import ldeq
from ldeq.ops import library

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


def test_a_library_that_does_not_load_is_quoted(tmp_path):
    assert setup(tmp_path, LDEQ_BUILD_CPU="0").returncode == 0
    (tmp_path / "ldeq" / "_C.so").write_bytes(b"not a library")
    said = report(tmp_path)
    assert "failed to load" in said and "_C.so" in said


@pytest.mark.skipif(library.MISSING is not None, reason=f"native library: {library.MISSING}")
def test_the_library_is_stable_abi_and_free_of_this_machine():
    path = Path(ldeq.__file__).with_name("_C.so")
    content = path.read_bytes()
    assert path.stat().st_size < 4e6
    assert b"Py_Initialize" not in content and b"PyObject" not in content
    assert str(ROOT).encode() not in content
    audit = shutil.which(
        "torch-abi-audit", path=os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", "")))
    )
    if audit is None:
        pytest.skip("torch-abi-audit is not installed")
    said = subprocess.run([audit, "--check", "torch", str(path)], capture_output=True, text=True)
    assert said.returncode == 0 and "2.10" in said.stdout, said.stdout + said.stderr
