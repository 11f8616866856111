"""However a command ends, its user reads a sentence and a script reads an exit status."""

from __future__ import annotations

import errno
import importlib
import os
import pkgutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import ldeq
from ldeq.cli import main
from ldeq.cli.doctor import Doctor
from ldeq.errors import LdeqError

ROOT = Path(__file__).parents[2]


def error_classes() -> Iterator[type[BaseException]]:
    """Every exception class that the package defines, at the top of a module or inside a class."""
    for module in pkgutil.walk_packages(ldeq.__path__, "ldeq."):
        if not module.name.endswith(("__main__", "._C")):  # a program, and a library of operators
            importlib.import_module(module.name)
    waiting: list[type[BaseException]] = [BaseException]
    seen: set[type[BaseException]] = set()
    while waiting:
        for kind in waiting.pop().__subclasses__():
            if kind not in seen:
                seen.add(kind)
                waiting.append(kind)
                if kind.__module__.split(".")[0] == "ldeq":
                    yield kind


def test_no_error_class_of_the_package_can_end_in_a_traceback() -> None:
    found = list(error_classes())
    assert len(found) > 8
    assert [kind.__qualname__ for kind in found if not issubclass(kind, LdeqError)] == []


def test_errors_keep_the_standard_base_that_callers_may_catch() -> None:
    from ldeq.data import DataError, ImageError
    from ldeq.engine import CheckpointError, SettingsError, TrainingError

    for kind in (DataError, ImageError, SettingsError):
        assert issubclass(kind, ValueError)
    for other in (CheckpointError, TrainingError):
        assert issubclass(other, RuntimeError)


@pytest.fixture
def doctor_raises(monkeypatch: pytest.MonkeyPatch) -> Callable[[BaseException], None]:
    """Makes a command raise."""

    def prepare(error: BaseException) -> None:
        def run(self: Doctor) -> int:
            raise error

        monkeypatch.setattr(Doctor, "run", run)

    return prepare


class _NewError(LdeqError):
    """An error that nobody has told the command line about."""


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (_NewError("set the lever to 3"), "error: set the lever to 3"),
        (OSError(errno.ENOSPC, "No space left on device", "out.png"), "error: out.png: No space left on device"),
        (PermissionError(errno.EACCES, "Permission denied", "a", None, "b"), "error: a and b: Permission denied"),
        (OSError(errno.ENAMETOOLONG, "File name too long"), "error: the system says: File name too long"),
        (TimeoutError(), "error: the system says: TimeoutError"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_an_error_of_a_command_is_one_sentence(
    error: BaseException,
    sentence: str,
    doctor_raises: Callable[[BaseException], None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    doctor_raises(error)
    assert main(["doctor"]) == 2
    told = capsys.readouterr()
    assert told.err == f"{sentence}\n"
    assert told.out == ""


def test_ctrl_c_ends_a_command_without_a_traceback(
    doctor_raises: Callable[[BaseException], None], capsys: pytest.CaptureFixture[str]
) -> None:
    doctor_raises(KeyboardInterrupt())
    assert main(["doctor"]) == 130
    assert capsys.readouterr().err == "stopped\n"


INTERRUPTING = """
import os, signal, sys

class Interrupting:
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            sys.meta_path.remove(self)
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Interrupting())
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows sends no SIGINT to itself")
@pytest.mark.parametrize("start", ["module", "script", "import"])
def test_ctrl_c_while_torch_is_loaded_is_a_word_in_the_program_alone(start: str, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(INTERRUPTING)
    script = tmp_path / "ldeq"
    script.write_text("import sys\nfrom ldeq.cli import main\nsys.exit(main())\n")
    call = {"module": ["-m", "ldeq", "doctor"], "script": [str(script), "doctor"], "import": ["-c", "import ldeq"]}[start]
    places = os.pathsep.join([str(tmp_path), str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        [sys.executable, *call], env={**os.environ, "PYTHONPATH": places}, cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    if start == "import":  # a program of somebody else's sees the exception that it expects
        assert "KeyboardInterrupt" in done.stderr
    else:
        assert (done.returncode, done.stderr, done.stdout) == (130, "stopped\n", "")


def test_an_error_of_the_program_itself_is_not_hidden(doctor_raises: Callable[[BaseException], None]) -> None:
    doctor_raises(TypeError("a mistake in the code"))
    with pytest.raises(TypeError, match="a mistake in the code"):
        main(["doctor"])


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGPIPE")
def test_a_reader_that_goes_away_ends_a_command_without_a_traceback(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "ldeq", "doctor"],
            cwd=tmp_path,
            stdout=writer,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    finally:
        os.close(writer)
    assert done.stderr == ""
    assert done.returncode == 141
