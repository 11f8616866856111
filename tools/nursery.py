"""Starts work in forks of a process that has loaded the libraries: a fresh process would spend nearly all of its life on that.

The tools that kill `ldeq` at random moments share it.
"""

from __future__ import annotations

import os
import subprocess
import sys

# `work` takes one line of text and does the work. Its process ends with 1 after an exception.
_LOOP = """
import os, sys
import torch
torch.set_num_threads(1)
for line in sys.stdin:
    child = os.fork()
    if child == 0:
        try:
            work(line.strip())
            os._exit(0)
        except BaseException as error:
            print("error:", repr(error), file=sys.stderr, flush=True)
            os._exit(1)
    print(child, flush=True)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    print(status, flush=True)
"""


def tell(line: str) -> None:
    """Progress: one line that changes on a terminal, a line each in a log."""
    start, end = ("\r", "") if sys.stderr.isatty() else ("", "\n")
    print(f"{start}{line}", end=end, file=sys.stderr, flush=True)


class Nursery:
    """Starts pieces of work, one at a time.

    ```python
    nursery = Nursery("def work(text): ...")
    child = nursery.start("film.mp4")
    os.kill(child, signal.SIGKILL)
    assert nursery.wait() == -signal.SIGKILL
    nursery.close()
    ```
    """

    def __init__(self, work: str) -> None:
        """
        Args:
            work: source code that defines a function ``work`` of one line of text. It must not print.
        """
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(
            [sys.executable, "-c", work + _LOOP], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )

    def start(self, line: str) -> int:
        """Begins the work on a line, and returns the number of its process."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{line}\n")
        self.process.stdin.flush()
        return self._answer()

    def wait(self) -> int:
        """The exit status of the work that runs; negative if it was killed."""
        return self._answer()

    def close(self) -> None:
        """Ends the process; the work must have ended."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()

    def _answer(self) -> int:
        assert self.process.stdout is not None
        return int(self.process.stdout.readline())
