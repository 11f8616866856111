"""Commands and options that do not exist, told in a sentence with the one that was probably meant."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, get_args, get_origin, get_type_hints

from ..errors import ArgumentError
from ..spelling import did_you_mean

_GENERAL = ("-h", "--help")
_COMPLETION = ("--tyro-print-completion", "--tyro-write-completion")
"""For shells (docs/commands.md)."""

_OPTION = re.compile(r"--?[A-Za-z][^=\s]*")


def check_words(arguments: Sequence[str], commands: Any) -> bool:
    """
    Args:
        arguments: without the program's name.
        commands: the union of the commands' dataclasses, each with its name in its annotation.

    Returns:
        Whether the words name a command, and not only a group of them or nothing.

    Raises:
        ArgumentError: for a command, or an option of one, that does not exist.
    """
    known, rest, command = _commands(commands), list(arguments), "ldeq"
    options = {*_GENERAL, "-V", "--version", *_COMPLETION}
    while known and rest and not rest[0].startswith("-"):
        name = rest.pop(0)
        if name not in known:
            hint = did_you_mean(name, [*known, *options])
            raise ArgumentError(f"{command} has no command {name!r}{hint}; {command} --help lists them")
        kind, command = known[name], f"{command} {name}"
        known, options = _commands(get_type_hints(kind, include_extras=True).get("command")), {*_GENERAL, *_options(kind)}
    for word in rest:
        if word == "--":
            break
        found = _OPTION.match(word)
        if found and found[0].replace("_", "-") not in options:
            hint = did_you_mean(found[0], options)
            raise ArgumentError(f"{command} has no option {found[0]}{hint}; {command} --help lists them")
    return bool(rest) or not known


def _commands(union: Any) -> dict[str, type]:
    """The name of each command of a union, with its dataclass."""
    parts = [get_args(part) for part in get_args(union) if get_origin(part) is Annotated]
    return {notes[0].name: kind for kind, *notes in parts if getattr(notes[0], "name", None)}


def _options(command: type) -> Iterator[str]:
    for name, hint in get_type_hints(command, include_extras=True).items():
        kind, *notes = get_args(hint) if get_origin(hint) is Annotated else (hint,)
        if dataclasses.is_dataclass(kind):  # settings that commands share
            yield from _options(kind)  # type: ignore[arg-type]
            continue
        option = name.replace("_", "-")
        yield f"--{option}"
        if kind is bool:
            yield f"--no-{option}"
        for note in notes:
            yield from getattr(note, "aliases", None) or ()
