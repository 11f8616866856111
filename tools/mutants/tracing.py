"""A pytest plugin that notes which functions of the package each test calls, and how long it takes."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

AREAS = ("engine", "data", "video")


class CallTracer:
    """Writes ``{test: {"seconds": s, "passed": bool, "functions": [[file, qualified name], ...]}}``."""

    def __init__(self, tree: Path, record: Path) -> None:
        self.record = record
        self.tree = str(tree) + os.sep
        self.roots = tuple(str(tree / "ldeq" / area) + os.sep for area in AREAS)
        self.called: set[tuple[str, str]] = set()
        self.tests: dict[str, dict[str, Any]] = {}

    def _note(self, frame: FrameType, event: str, argument: object) -> None:
        code = frame.f_code
        if code.co_filename.startswith(self.roots):
            self.called.add((code.co_filename.removeprefix(self.tree), code.co_qualname))

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        self.called = set()
        begin = time.perf_counter()
        sys.settrace(self._note)
        threading.settrace(self._note)
        try:
            return (yield)
        finally:
            sys.settrace(None)
            threading.settrace(None)
            entry = self.tests.setdefault(item.nodeid, {"passed": True})
            entry |= {"seconds": time.perf_counter() - begin, "functions": sorted(self.called)}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self.tests.setdefault(report.nodeid, {})["passed"] = False

    def pytest_sessionfinish(self) -> None:
        self.record.write_text(json.dumps(self.tests))
