"""A pytest plugin that notes which lines of the package each test runs, and how long it takes."""

from __future__ import annotations

import json
import os
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import pytest

AREAS = ("engine", "data", "video")

FOLLOWED = 200
"""Later calls of the same function by one test are not followed line by line: a loop over pixels would take minutes."""


def _processor_seconds() -> float:
    """Of this process and of those that it started and that ended: the same on a busy machine."""
    return sum(os.times()[:4])


class LineTracer:
    """Writes ``{test: {"seconds": s, "passed": bool, "lines": {file: [line, ...]}}}``."""

    def __init__(self, tree: Path, record: Path) -> None:
        self.record = record
        self.tree = str(tree) + os.sep
        self.roots = tuple(str(tree / "ldeq" / area) + os.sep for area in AREAS)
        self.lines: set[tuple[str, int]] = set()
        self.calls: Counter[CodeType] = Counter()
        self.tests: dict[str, dict[str, Any]] = {}

    def _call(self, frame: FrameType, event: str, argument: object) -> Callable[..., Any] | None:
        code = frame.f_code
        if not code.co_filename.startswith(self.roots):
            return None
        self.calls[code] += 1
        return self._line if self.calls[code] <= FOLLOWED else None

    def _line(self, frame: FrameType, event: str, argument: object) -> Callable[..., Any]:
        if event == "line":
            self.lines.add((frame.f_code.co_filename, frame.f_lineno))
        return self._line

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        self.lines = set()
        self.calls = Counter()
        begin = _processor_seconds()
        sys.settrace(self._call)
        threading.settrace(self._call)
        try:
            return (yield)
        finally:
            sys.settrace(None)
            threading.settrace(None)
            files: dict[str, list[int]] = {}
            for file, line in sorted(self.lines):
                files.setdefault(file.removeprefix(self.tree), []).append(line)
            entry = self.tests.setdefault(item.nodeid, {"passed": True})
            entry |= {"seconds": _processor_seconds() - begin, "lines": files}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self.tests.setdefault(report.nodeid, {})["passed"] = False

    def pytest_sessionfinish(self) -> None:
        self.record.write_text(json.dumps(self.tests))


class Limits:
    """Ends the process with status 99 when a test takes far longer than it did without a fault."""

    STATUS = 99

    def __init__(self, seconds: dict[str, float]) -> None:
        self.seconds = seconds

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        usual = self.seconds.get(item.nodeid, 1.0)
        timer = threading.Timer(60.0 + 10.0 * usual, self._end, [item.nodeid])
        timer.daemon = True
        timer.start()
        try:
            return (yield)
        finally:
            timer.cancel()

    def _end(self, name: str) -> None:
        os.write(1, f"\nFAILED {name} - takes too long\n".encode())
        os._exit(self.STATUS)
