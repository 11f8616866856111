"""Importing a part loads that part alone, and works where a system lacks the modules of another."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = (
    "cv2",
    "pydantic",
    "yaml",
    "matplotlib",
    "scipy",
    "PIL",
    "rich",
    "tyro",
    "av",
    "ldeq.engine",
    "ldeq.data",
    "ldeq.video",
)


def loaded_by(statement: str, hidden: tuple[str, ...] = ()) -> str:
    """What a fresh interpreter prints; importing a hidden module fails as if there were none."""
    code = f"import sys; sys.modules.update(dict.fromkeys({hidden!r}))\n{statement}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize("module", ["ldeq", "ldeq.solvers", "ldeq.implicit", "ldeq.ops", "ldeq.models"])
def test_the_solvers_do_not_load_opencv_or_the_trainer(module: str) -> None:
    assert loaded_by(f"import {module}; print([name for name in {HEAVY!r} if name in sys.modules])") == "[]"


def test_the_solvers_work_without_the_libraries_of_the_trainer() -> None:
    statement = (
        "import torch, ldeq.solvers as s; print(s.anderson(lambda z: 0.5 * z + 1, torch.zeros(1, 4)).value[0, 0].item())"
    )
    assert abs(float(loaded_by(statement, ("cv2", "pydantic", "yaml", "matplotlib", "scipy", "PIL"))) - 2) < 1e-3


def test_every_public_name_is_there_when_it_is_asked_for() -> None:
    statement = (
        "import ldeq; print(all(hasattr(ldeq, name) and name in dir(ldeq) for name in ldeq.__all__), ldeq.data.__name__)"
    )
    assert loaded_by(statement) == "True ldeq.data"
    assert loaded_by("from ldeq import *; print(Landmarker.__name__, Face.__name__)") == "Landmarker Face"


AS_PROGRAM = """
import sys
sys.argv = ['ldeq', *{words!r}]
import ldeq.cli
try:
    status = ldeq.cli.main()
except SystemExit as end:
    status = end.code
print('status', status, [name for name in ('torch', 'numpy', 'cv2', 'ldeq.engine') if name in sys.modules])
"""


@pytest.mark.parametrize("words", [["--help"], ["--version"], ["predict", "--help"], ["data", "check", "--help"]], ids=" ".join)
def test_help_does_not_wait_for_torch(words: list[str]) -> None:
    assert loaded_by(AS_PROGRAM.format(words=words)).endswith("status 0 []")


def test_the_program_finds_every_public_name_that_it_loads_late() -> None:
    statement = "print(all(hasattr(ldeq, name) and name in dir(ldeq) for name in ldeq.__all__), 'torch' in sys.modules)"
    early = "import sys; sys.argv = ['ldeq']; import ldeq; print('torch' in sys.modules)"
    assert loaded_by(f"{early}; {statement}") == "False\nTrue True"


def test_a_library_defines_its_operators_when_it_is_imported() -> None:
    """An exported program of torch names them, and whoever loads it may touch nothing of ldeq."""
    assert loaded_by("import ldeq, torch; print(torch.ops.ldeq.anderson_step.default)") == "ldeq.anderson_step.default"


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Landmaker'"):
        __import__("ldeq").Landmaker  # noqa: B018


@pytest.mark.parametrize(
    "hidden",
    [
        ("resource", "fcntl", "termios", "pwd", "grp", "tty", "pty", "syslog", "crypt"),  # as on Windows
        ("resource",),
        ("fcntl",),
        ("av",),
    ],
    ids=lambda names: names[0],
)
def test_a_system_without_the_modules_of_unix_can_import_everything(hidden: tuple[str, ...]) -> None:
    statement = (
        "import ldeq, ldeq.cli.commands, ldeq.engine, ldeq.video.stream, ldeq.compat\n"
        "from ldeq.engine.device import memory_mb\n"
        "import torch; print(ldeq.Landmarker.__name__, memory_mb(torch.device('cpu')) >= 0)"
    )
    # torch itself may use these modules: it is imported before they are hidden.
    assert loaded_by(f"import torch; {hide(hidden)}\n{statement}") == "Landmarker True"


def hide(names: tuple[str, ...]) -> str:
    return f"[sys.modules.pop(name, None) for name in {names!r}]; sys.modules.update(dict.fromkeys({names!r}))"


@pytest.mark.parametrize("engine", ["torch", "onnxruntime"])
def test_inference_does_not_load_the_compiler_of_torch(engine: str) -> None:
    """It takes a second, and came with the check of a weights file."""
    if engine == "onnxruntime":
        pytest.importorskip("onnxruntime")
    statement = (
        "import sys, numpy, ldeq\n"
        f"landmarker = ldeq.Landmarker.load('small-68', engine='{engine}')\n"
        "faces = landmarker(numpy.zeros((64, 64, 3), numpy.uint8), boxes=[[8, 8, 56, 56]])\n"
        "print(len(faces), 'torch._dynamo' in sys.modules)"
    )
    assert loaded_by(statement) == "1 False"
