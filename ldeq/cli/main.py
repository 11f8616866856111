"""``ldeq COMMAND``: reads the arguments, runs the command, turns known errors into one sentence."""

from __future__ import annotations

import contextlib
import io
import os
import re
import sys
from collections.abc import Sequence

from .. import __version__
from ..errors import ArgumentError, LdeqError
from ..startup import quiet_interruption

# The exit status after an error that was told in a sentence.
FAILED = 2

# What a shell reports for a command that SIGINT or SIGPIPE ended.
INTERRUPTED = 128 + 2
NO_READER = 128 + 13

# An option that is given nothing, as in ``--json=``.
_EMPTY = re.compile(r"--[\w-]+=")

# The longest paths in use are shorter.
_WORD = re.compile(r"\S{1000,}")

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command, and ends every error that a user can cause with one sentence.

    Args:
        arguments: without the program's name; those of the process if None.

    Returns:
        The exit status: that of the command; 2 after an error, which was told in a sentence; 130 after Ctrl-C; 141 if
        whoever read the output is gone, as ``head`` is after ten lines.
    """
    for stream in (sys.stdout, sys.stderr):
        # A name that is no UTF-8, or a terminal that knows ASCII alone, must not end a command.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        status = _run(list(sys.argv[1:] if arguments is None else arguments))
        sys.stdout.flush()
    except LdeqError as error:
        return _failed(str(error))
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        _discard_output()
        return NO_READER
    except OSError as error:
        return _failed(_describe(error))
    return status


def _run(arguments: list[str]) -> int:
    if arguments in (["--version"], ["-V"]):
        print(f"ldeq {__version__}")
        return 0
    for argument in arguments:
        if not argument or _EMPTY.fullmatch(argument):
            raise ArgumentError("an argument is empty; is a variable of the shell not set?")
        if "\0" in argument:
            raise ArgumentError(f"the argument {argument!r} holds a NUL character; remove it")
    import tyro

    from .commands import Command
    from .unknown_words import check_words

    if not check_words(arguments, Command):
        arguments = [*arguments, "--help"]
    command = tyro.cli(
        Command,
        prog="ldeq",
        description="Facial landmarks in pictures and videos, without flicker. ldeq COMMAND --help tells more, ldeq --version "
        "the version.",
        args=arguments,
        config=(tyro.conf.OmitArgPrefixes,),
    )
    # torch takes seconds to load, and the reader of the arguments does without it.
    with quiet_interruption():
        from .. import models  # noqa: F401
    return command.run()


def _failed(sentence: str) -> int:
    # A name may hold a line break, or a sequence that a terminal obeys, or be a whole file by mistake.
    sentence = _CONTROL.sub(lambda found: repr(found.group())[1:-1], sentence)
    print(f"error: {_WORD.sub(lambda found: f'{found.group()[:80]}...{found.group()[-40:]}', sentence)}", file=sys.stderr)
    return FAILED


def _describe(error: OSError) -> str:
    """What the system says, with the names of the files instead of its own number."""
    names = " and ".join(str(name) for name in (error.filename, error.filename2) if name is not None)
    what = error.strerror or str(error) or type(error).__name__
    return f"{names}: {what}" if names else f"the system says: {what}"


def _discard_output() -> None:
    """Sends what is still buffered nowhere: the interpreter would fail a second time when it flushes at the end."""
    with contextlib.suppress(OSError, ValueError):  # a test's output has no descriptor
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
