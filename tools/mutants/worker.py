"""A process that has loaded the heavy libraries and runs the tests of one mutant after the other in forks of itself.

It reads a JSON job a line, ``{"file", "text", "tests", "seconds", "limit"}`` or ``{"trace": record, "tests", "limit"}``, and
answers with a line.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import sys
import time
from pathlib import Path
from typing import Any

# The slow part of a test run: what all forks share. ldeq itself is loaded anew by each.
import cv2  # noqa: F401
import hypothesis  # noqa: F401
import numpy as np  # noqa: F401
import pydantic  # noqa: F401
import pytest
import rich.progress  # noqa: F401
import safetensors.torch  # noqa: F401
import torch
import torch.optim.swa_utils
import torch.utils.data
import yaml  # noqa: F401

from .confinement import confine
from .tracing import Limits, LineTracer


def main(tree: Path) -> None:
    sys.dont_write_bytecode = True
    os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
    torch.set_num_threads(1)
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        job = json.loads(line)
        if "trace" in job:
            answer = _run(tree, job, LineTracer(tree, Path(job["trace"])))
        else:
            target = tree / job["file"]
            before = target.read_text()
            try:
                target.write_text(job["text"])
                answer = _run(tree, job, None)
            finally:
                target.write_text(before)
        print(json.dumps(answer), file=answers, flush=True)


def _run(tree: Path, job: dict[str, Any], tracer: LineTracer | None) -> dict[str, Any]:
    log = tree / "mutant.log"
    begin = time.monotonic()
    child = os.fork()
    if child == 0:
        _child(tree, job, tracer, log)
    status = None
    while status is None:
        done, code = os.waitpid(child, os.WNOHANG)
        if done:
            status = os.waitstatus_to_exitcode(code)
        elif time.monotonic() - begin > job["limit"]:
            os.killpg(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return {"verdict": "timeout", "by": "", "seconds": time.monotonic() - begin}
        else:
            time.sleep(0.02)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)  # what a test left behind
    said = log.read_text(errors="replace")
    failed = re.findall(r"^(?:FAILED|ERROR) (\S+)", said, re.MULTILINE)
    verdict = {0: "survived", 5: "survived", Limits.STATUS: "timeout"}.get(status, "caught")
    return {"verdict": verdict, "by": failed[0] if failed else f"exit {status}", "seconds": time.monotonic() - begin}


def _child(tree: Path, job: dict[str, Any], tracer: LineTracer | None, log: Path) -> None:
    os.setsid()
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.chdir(tree)
    sys.path.insert(0, str(tree))
    if tracer is None:  # a trace is of sound code, and is written elsewhere
        confine([tree.parent])
    status = 3
    try:
        options = ["-q", "-p", "no:cacheprovider", "--durations=0", "--tb=no", "-rfE"]
        plugin = tracer or Limits(job["seconds"])
        status = int(pytest.main([*options, *([] if tracer else ["-x"]), *job["tests"]], plugins=[plugin]))
        sys.stdout.flush()
    finally:
        os._exit(status)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
