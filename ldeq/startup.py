"""Ctrl-C while the program ``ldeq`` loads torch, which takes seconds: it ends with one word, as it does later."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn


@contextmanager
def quiet_interruption() -> Iterator[None]:
    """In the program ``ldeq``, and in no other that imports the package, Ctrl-C inside the block ends the process at once.

    An exception would not do: torch's initialisation in C++ aborts the process if one passes through it.
    """
    ours = is_program(sys.argv, sys.orig_argv) and threading.current_thread() is threading.main_thread()
    if not ours or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return
    signal.signal(signal.SIGINT, _stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def is_program(words: Sequence[str], started: Sequence[str]) -> bool:
    """Whether a process is ``ldeq`` or ``python -m ldeq``, whose own module has not been found yet.

    Args:
        words: its ``sys.argv``.
        started: its ``sys.orig_argv``.
    """
    name = os.path.basename(words[0]) if words else ""
    return name.removesuffix(".exe") == "ldeq" or (name == "-m" and _named_module(started) == "ldeq")


def _named_module(started: Sequence[str]) -> str:
    return started[started.index("-m") + 1] if "-m" in started[:-1] else ""


def _stop(number: int, frame: FrameType | None) -> NoReturn:
    os.write(2, b"stopped\n")
    os._exit(128 + number)
