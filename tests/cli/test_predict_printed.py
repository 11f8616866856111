"""What ``ldeq predict`` prints: lines for a person at a terminal, JSON for a program that reads along."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from ldeq.cli import main

BOX = ["--box", "60,60,190,200", "--min-score", "0"]


PLACES = ["-"] if sys.platform == "win32" else ["-", "/dev/stdout"]


@pytest.fixture
def on_terminal(monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Runs a command as if its output were a terminal."""

    def run(*arguments: object) -> int:
        monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
        return main([str(argument) for argument in arguments])

    return run


def test_a_pipe_gets_a_line_of_json_a_picture_and_nothing_else(
    face: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    absent = tmp_path / "absent.jpg"
    assert main(["predict", str(face), str(absent), str(face), *BOX]) == 2
    told = capsys.readouterr()
    lines = [json.loads(line) for line in told.out.splitlines()]
    assert [line["image"] for line in lines] == [str(face)] * 2
    assert all(len(line["faces"][0]["points"]) == 68 for line in lines)
    assert told.err.startswith("skipped: ") and str(absent) in told.err


def test_a_terminal_gets_a_short_line_a_face(
    on_terminal: Callable[..., int], face: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert on_terminal("predict", face, *BOX) == 0
    first, line, more = capsys.readouterr().out.splitlines()
    assert first == f"{face}: 1 face"
    found = re.fullmatch(r"  1: box (\d+,\d+,\d+,\d+); score \d\.\d\d; yaw -?\d+, pitch -?\d+, roll -?\d+ degrees", line)
    assert found, line
    assert "--json FILE" in more and "-o PICTURE" in more
    assert main(["predict", str(face), "--box", found[1], "--min-score", "0"]) == 0


def test_a_terminal_is_not_told_where_to_get_the_points_of_no_face(
    on_terminal: Callable[..., int], tmp_path: Path, face: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert on_terminal("predict", face, "--box", "0,0,9,9", "--min-score", "1") == 0
    assert capsys.readouterr().out == f"{face}: 0 faces\n"


@pytest.mark.parametrize("place", PLACES)
def test_a_document_that_is_printed_stands_alone(
    place: str, on_terminal: Callable[..., int], face: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    printed, written = tmp_path / "drawn.png", tmp_path / "out.json"
    assert on_terminal("predict", face, *BOX, "--json", place, "-o", printed) == 0
    told = capsys.readouterr()
    assert main(["predict", str(face), *BOX, "--json", str(written)]) == 0
    assert json.loads(told.out) == json.loads(written.read_text())
    assert told.err.splitlines() == [f"{face}: 1 face", f"  wrote {printed}"]
