"""Every code block of README.md and of the pages in docs/ runs as it stands, in the order of its page.

A block that cannot run is marked: ``<!-- not run: REASON -->`` on the line before it. ``<!-- needs: MODULE -->`` skips a page
if an optional package is missing, and ``<!-- file: NAME -->`` writes the block to a file.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from ldeq.cli import main

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
CODE = ("bash", "python", "js")
TOURS = sorted((ROOT / "docs").glob("*.ipynb"))

_BLOCK = re.compile(r"(?:^<!-- (?P<mark>[^\n]*) -->\n)?^```(?P<language>\w*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
_SHELL = re.compile(r"[|&;<>$`]|\\$")


@dataclass(frozen=True)
class Block:
    language: str
    text: str
    mark: str
    line: int


def blocks(page: Path) -> list[Block]:
    text = page.read_text()
    return [
        Block(found["language"], found["text"], found["mark"] or "", text[: found.start("text")].count("\n"))
        for found in _BLOCK.finditer(text)
    ]


def run_bash(text: str) -> None:
    """Runs a block. Plain calls of ldeq run in this process, since each start of another takes seconds."""
    for line in text.splitlines():
        if line.startswith("ldeq ") and not _SHELL.search(line):
            assert main(shlex.split(line, comments=True)[1:]) == 0, line
        elif line.strip() and not line.startswith("#"):
            path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
            subprocess.run(["bash", "-euo", "pipefail", "-c", line], check=True, env={**os.environ, "PATH": path})


@pytest.mark.parametrize("page", [p for p in PAGES if blocks(p)], ids=lambda page: page.stem)
def test_blocks_of_a_page_run_as_they_stand(page: Path, place: Path) -> None:
    scope: dict[str, Any] = {"__name__": "__main__"}
    for block in blocks(page):
        kind, _, value = block.mark.partition(": ")
        if kind == "needs" and importlib.util.find_spec(value) is None:
            pytest.skip(f"{value} is not installed")
        if kind == "file":
            (place / value).write_text(block.text)
        elif kind != "not run" and block.language == "bash":
            run_bash(block.text)
        elif kind != "not run" and block.language == "python":
            exec(compile("\n" * block.line + block.text, str(page), "exec"), scope)


def test_only_blocks_that_cannot_run_are_left_out() -> None:
    """A mark must give its reason, and most blocks must run."""
    found = [(page, block) for page in PAGES for block in blocks(page) if block.language in CODE]
    left_out = [(page.name, block.line, block.mark) for page, block in found if block.mark.startswith("not run")]
    for name, line, mark in left_out:
        assert len(mark.removeprefix("not run: ")) > 10, f"{name}:{line} gives no reason"
    assert len(left_out) < len(found) / 2
    assert not [block for _, block in found if block.language == "js" and not block.mark]


def test_a_block_that_fails_is_noticed(place: Path) -> None:
    """The runner itself must be able to fail."""
    with pytest.raises(AssertionError):
        run_bash("ldeq predict nowhere.jpg\n")
    with pytest.raises(subprocess.CalledProcessError):
        run_bash("test -e nowhere.jpg && ldeq doctor\n")


@pytest.mark.parametrize("notebook", TOURS, ids=lambda path: path.stem)
def test_the_notebook_runs_from_top_to_bottom(notebook: Path, place: Path) -> None:
    document = json.loads(notebook.read_text())
    scope: dict[str, Any] = {"__name__": "__main__"}
    for number, cell in enumerate(document["cells"]):
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), f"{notebook.name}, cell {number}", "exec"), scope)
            assert cell["outputs"] == [], "outputs are not committed"
