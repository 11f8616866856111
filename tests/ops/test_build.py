"""The build from the source tree, and what happens where it cannot be."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


# Preprocesses instead of compiling: it reads what a compiler reads, in a fraction of the time.
PREPROCESSOR = """#!/bin/sh
case " $* " in
*" -c "*) exec c++ -E "$@" ;;
esac
for last; do :; done
date +%N > "$last"
"""


def copy(folder: Path) -> None:
    """A copy of the sources, without what an earlier build left in them."""
    for name in ("csrc", "kernels", "ldeq", "tools"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("*.so", "_build.json", "weights"))
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)


def setup(folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs the build step on a copy of the sources."""
    copy(folder)
    return build(folder, **environment)


def build(folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs the build step in `folder`."""
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


class Checkout:
    """A copy of the sources, built with `PREPROCESSOR`."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "a folder"
        self.root.mkdir()
        copy(self.root)
        self.csrc = self.root / "csrc"
        self.sources = {str(path.relative_to(self.csrc)) for path in self.csrc.rglob("*.cpp")}
        self.compiler = folder / "c++"
        self.compiler.write_text(PREPROCESSOR)
        self.compiler.chmod(0o755)
        self.first = self.build()

    def build(self) -> set[str]:
        """The names of the files that were compiled."""
        done = build(self.root, CXX=str(self.compiler), LDEQ_BUILD_CPU="1", LDEQ_BUILD_CUDA="0")
        assert done.returncode == 0, done.stdout + done.stderr
        return set(re.findall(r"^\[\d+/\d+\] csrc/(\S+)$", done.stdout, re.MULTILINE))


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    return Checkout(tmp_path_factory.mktemp("build"))


def test_only_what_changed_is_compiled(checkout):
    csrc, rebuild = checkout.csrc, checkout.build
    assert checkout.first == checkout.sources
    assert rebuild() == set()
    (csrc / "cpu" / "isa.h").touch()
    assert rebuild() == {f"cpu/isa_{isa}.cpp" for isa in ("baseline", "avx2", "avx512")}
    # A header that a header includes.
    (csrc / "layout.h").touch()
    assert rebuild() == {"cpu/" + name for name in sources_that_include("layout.h", csrc)}
    (csrc / "cpu" / "dispatch.cpp").touch()
    assert rebuild() == {"cpu/dispatch.cpp"}
    # Other flags are another command.
    table = checkout.root / "tools" / "native_build" / "libraries.py"
    table.write_text(table.read_text().replace('"-mavx2"', '"-mavx2", "-mf16c"'))
    assert rebuild() == {"cpu/isa_avx2.cpp"}


def sources_that_include(header: str, csrc: Path) -> set[str]:
    """Names of the CPU's sources that include `header`, directly or by other headers."""
    names, size = {header}, 0
    while size != len(names):
        size = len(names)
        for path in (*csrc.glob("*.h"), *csrc.glob("cpu/*")):
            names |= {path.name} if any(f'{name}"' in path.read_text() for name in names) else set()
    return {name for name in names if name.endswith(".cpp")}


def test_a_process_that_has_the_old_library_loaded_keeps_it_whole(checkout):
    library = checkout.root / "ldeq" / "_C.so"
    with library.open() as old:
        before = old.read()
        (checkout.csrc / "cpu" / "dispatch.cpp").touch()
        checkout.build()
        old.seek(0)
        assert old.read() == before != library.read_text()


def test_editors_are_told_how_each_file_is_compiled(checkout):
    commands = json.loads((checkout.root / "compile_commands.json").read_text())
    assert {entry["file"].removeprefix("csrc/") for entry in commands} == checkout.sources
    assert "-mavx512f" in next(entry["command"] for entry in commands if "isa_avx512" in entry["file"])


def test_the_first_error_of_the_compiler_is_the_reason(tmp_path):
    copy(tmp_path)
    (tmp_path / "csrc" / "cpu" / "dispatch.cpp").write_text('#include "kernels.h"\nint wrong = "word";\nint more = "words";\n')
    done = build(tmp_path, LDEQ_BUILD_CUDA="0")
    assert done.returncode == 0, done.stderr
    said = json.loads((tmp_path / "ldeq" / "_build.json").read_text())["cpu"]
    assert said.startswith("the compiler failed (") and "csrc/cpu/dispatch.cpp:2:" in said and "\n" not in said


def test_without_ninja_everything_installs_and_says_why(tmp_path):
    (tmp_path / "ninja.py").write_text("raise ImportError")
    done = setup(tmp_path, CXX=str(shutil.which("c++")), PATH="/nowhere")
    assert done.returncode == 0 and "pip install ninja" in report(tmp_path), done.stderr


def test_a_library_that_does_not_load_is_quoted(tmp_path):
    assert setup(tmp_path, LDEQ_BUILD_CPU="0").returncode == 0
    (tmp_path / "ldeq" / "_C.so").write_bytes(b"not a library")
    said = report(tmp_path)
    assert "failed to load" in said and "_C.so" in said
