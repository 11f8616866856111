"""The base class of all errors that this package raises on purpose."""

from __future__ import annotations


class LdeqError(Exception):
    """The base class of every error that ldeq raises on purpose.

    The message is one sentence that names the argument or the file and says what to do. The command line prints that
    sentence instead of a traceback. A subclass keeps the standard base that fits it, such as `ValueError`, so that
    ``except ValueError`` still catches it.
    """
