"""The base class of all errors that this package raises on purpose."""

from __future__ import annotations

import re


class LdeqError(Exception):
    """The base class of every error that ldeq raises on purpose.

    The message is one sentence that names the argument or the file and says what to do. The command line prints that
    sentence instead of a traceback. A subclass keeps the standard base that fits it, such as `ValueError`, so that
    ``except ValueError`` still catches it.
    """

    def __init__(self, *args: object) -> None:
        # A message may quote what it complains of, and a file may hold a word of many lines or a million letters.
        super().__init__(*(_sentence(arg) if isinstance(arg, str) else arg for arg in args))


class ArgumentError(LdeqError, ValueError):
    """An argument that cannot be used; the message names it and says what it must be."""


def _sentence(message: str) -> str:
    """The message on one line, a long one without its middle; one mark at its end, though it may quote a whole sentence."""
    message = re.sub(r"([^.][.?!])\.$", r"\1", " ".join(message.splitlines()))
    if len(message) <= 1500:
        return message
    return f"{message[:1000]}... ({len(message) - 1300} characters left out) ...{message[-300:]}"
