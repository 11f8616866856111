"""What docs/first-ten-minutes.md shows still works, and is what the script does."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import shlex
from pathlib import Path

import first_ten_minutes as record
import pytest

from ldeq.cli import main
from ldeq.web import runtime


def run(line: str) -> str:
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        assert main(shlex.split(line)[1:]) == 0, line
    return printed.getvalue()


def test_the_steps_run_and_leave_their_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    skip = () if importlib.util.find_spec("onnxruntime") else ("export", "web")
    # npm's download is none of this test's; tests/web has it.
    monkeypatch.setattr("ldeq.web.runtime.from_cache", lambda: dict.fromkeys(runtime.FILES, b"stand-in"))
    done = record.run_steps(run, tmp_path, quick=True, skip=skip)
    assert len(done) == len(record.STEPS) - len(skip)
    assert all(each.printed for each in done)


def test_the_page_shows_every_step_as_it_is() -> None:
    if not record.PAGE.exists():
        pytest.skip("not recorded yet: python tools/first_ten_minutes.py dist/*.whl writes docs/first-ten-minutes.md")
    text = record.PAGE.read_text()
    for step in record.STEPS:
        assert f"## {step.title}: " in text and f"```bash\n{step.commands}\n```" in text
    assert record.SETTINGS in text
