"""A GPU day takes up where it stopped, ends in time, and its commands exist."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import gpu_day
import pytest
from gpu_day import DONE, FAILED, LATE, Part, parts, run_parts


def python(name: str, code: str, seconds: float = 60, needs: str = "") -> Part:
    return Part(name, [sys.executable, "-c", code], seconds, needs=needs)


def statuses(record: Path) -> dict[str, str]:
    return {name: entry["status"] for name, entry in json.loads(record.read_text())["parts"].items()}


def test_what_succeeded_is_not_repeated_and_what_failed_is(tmp_path: Path) -> None:
    record, log = tmp_path / "new" / "day.json", tmp_path / "log"
    write = f"open({str(log)!r}, 'a').write"
    day = [
        python("good", f"{write}('g')"),
        python("bad", f"{write}('b'); print('why'); import sys; sys.exit(3)"),
        python("missing", "", needs="no-such-program"),
    ]
    assert run_parts(day, record, "one", 60) == ["bad"]
    assert statuses(record) == {"good": DONE, "bad": FAILED, "missing": DONE}
    assert "why" in json.loads(record.read_text())["parts"]["bad"]["output"]
    assert run_parts([day[0], python("bad", f"{write}('B')")], record, "one", 60) == []
    assert log.read_text() == "gbB"
    # Another commit is tested from the start.
    run_parts(day[:1], record, "two", 60)
    assert log.read_text() == "gbBg" and statuses(record) == {"good": DONE}


def test_a_part_that_takes_too_long_is_ended_and_later_ones_wait(tmp_path: Path) -> None:
    record = tmp_path / "day.json"
    day = [python("slow", "import time; print('began', flush=True); time.sleep(60)", seconds=3), python("next", "")]
    assert run_parts(day, record, "one", 60) == ["slow"]
    assert statuses(record) == {"slow": LATE, "next": DONE}
    assert "began" in json.loads(record.read_text())["parts"]["slow"]["output"]
    # It took three seconds: with one left it is not begun.
    before = record.read_text()
    assert run_parts(day[:1], record, "one", 1) == ["slow"] and record.read_text() == before


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_every_file_that_a_part_names_exists(device: str) -> None:
    named = [
        word.partition("::") for part in parts(device) for word in part.command if word.startswith(("tests/", "benchmarks/"))
    ]
    assert len(named) >= 14
    for path, _, test in named:
        text = gpu_day.ROOT / path
        assert text.exists(), path
        assert not test or f"def {test}(" in text.read_text()
    assert len({part.name for part in parts(device)}) == len(parts(device))


def test_the_commands_of_a_part_are_understood(tmp_path: Path) -> None:
    """One of each kind, on the CPU: pytest takes the options and finds tests."""
    kinds = {part.name.partition(":")[0]: part for part in parts("cpu") if part.needs == ""}
    assert {"build", "doctor", "tests", "benchmark", "table"} <= kinds.keys()
    for kind in ("tests", "benchmark"):
        run = subprocess.run(kinds[kind].command, cwd=gpu_day.ROOT, capture_output=True, text=True, check=False)
        assert run.returncode == 0 and "test_" in run.stdout, run.stdout[-2000:] + run.stderr[-2000:]
