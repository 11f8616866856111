"""Threads sleep while they wait in commands that find landmarks, spin briefly in others, and are left alone everywhere else."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ldeq import waiting
from ldeq.waiting import LOOKS, POLICY, VARIABLES, apply_waiting, choose_waiting

SCRIPT = ["python", "/venv/bin/ldeq"]


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """The packages that are there."""
    packages = {"onnx", "onnxruntime"}
    monkeypatch.setattr(waiting, "find_spec", lambda name: object() if name in packages else None)
    monkeypatch.delitem(sys.modules, "torch")
    return packages


def set_by(program: list[str], words: list[str], **environment: str) -> dict[str, str]:
    """What a process adds to its environment."""
    after = dict(environment)
    apply_waiting(program, words, after)
    return {name: value for name, value in after.items() if name not in environment}


@pytest.mark.parametrize("command", ["predict", "video", "webcam", "eval"])
def test_commands_that_find_landmarks_let_threads_sleep(command: str, installed: set[str]) -> None:
    for program, words in (
        ([*SCRIPT, command], ["/venv/bin/ldeq", command]),
        (["python", "-m", "ldeq", command], ["-m", command]),
        (["C:/ldeq.exe", command], ["C:/ldeq.exe", command]),
    ):
        assert set_by(program, words) == {POLICY: "passive"}


@pytest.mark.parametrize(
    "words",
    [
        ["train", "recipe.yaml"],
        ["demo"],
        [],
        ["video", "a.mp4", "--engine", "torch"],
        ["video", "a.mp4", "--engine=torch"],
    ],
)
def test_commands_that_compute_with_torch_spin_for_a_short_while(words: list[str], installed: set[str]) -> None:
    assert set_by([*SCRIPT, *words], ["/venv/bin/ldeq", *words]) == {LOOKS: "2000"}


@pytest.mark.parametrize(
    ("program", "words"),
    [
        (["python", "mine.py", "predict"], ["mine.py", "predict"]),
        (["python", "-m", "pytest", "predict"], ["-m", "predict"]),
        (["python", "-c", "import ldeq", "video"], ["-c", "video"]),
    ],
)
def test_every_other_process_is_left_alone(program: list[str], words: list[str], installed: set[str]) -> None:
    assert set_by(program, words) == {}


def test_doctor_sets_nothing_that_it_would_take_for_the_users_word(installed: set[str]) -> None:
    assert set_by([*SCRIPT, "doctor"], ["/venv/bin/ldeq", "doctor"]) == {}


@pytest.mark.parametrize("command", ["video", "train"])
@pytest.mark.parametrize("name", VARIABLES)
def test_what_the_user_set_stays(name: str, command: str, installed: set[str]) -> None:
    assert set_by([*SCRIPT, command], ["/venv/bin/ldeq", command], **{name: "7"}) == {}
    assert choose_waiting({name: "7"}).reason == f"{name}=7"


@pytest.mark.parametrize("package", ["onnx", "onnxruntime"])
def test_torch_alone_spins_for_a_short_while(package: str, installed: set[str]) -> None:
    installed.remove(package)
    assert set_by([*SCRIPT, "video"], ["/venv/bin/ldeq", "video"]) == {LOOKS: "2000"}
    assert package in choose_waiting({}).reason


def test_a_process_that_has_loaded_torch_is_left_alone(installed: set[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", sys)
    assert set_by([*SCRIPT, "video"], ["/venv/bin/ldeq", "video"]) == {}


@pytest.mark.parametrize(("name", "expected"), [("ldeq", "2000"), ("mine.py", "None")])
def test_it_is_set_before_torch_reads_it(name: str, expected: str, tmp_path: Path) -> None:
    """The runtime of the threads takes its environment from the moment at which torch is loaded."""
    program = tmp_path / name
    program.write_text(
        "import os, sys\n"
        "class Watch:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        f"        if name == 'torch': print(os.environ.get({LOOKS!r}))\n"
        "sys.meta_path.insert(0, Watch())\n"
        "import ldeq.ops\n"
    )
    environment = {key: value for key, value in os.environ.items() if key not in VARIABLES}
    command = [sys.executable, str(program), "train"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [expected]
