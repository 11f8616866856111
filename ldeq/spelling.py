"""What was probably meant by a word that nothing is called by."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

CLOSE = 0.6
"""Share of letters in common from which on a name is suggested."""

_LONGEST = 100


def nearest(word: object, known: Iterable[str]) -> str | None:
    """The known word that is spelled most alike, capitals aside; None if none is near."""
    names = {name.lower(): name for name in known}
    found = difflib.get_close_matches(str(word)[:_LONGEST].lower(), names, n=1, cutoff=CLOSE)
    return names[found[0]] if found else None


def did_you_mean(word: object, known: Iterable[str]) -> str:
    """What to put behind an unknown word in a sentence: `` (did you mean this?)``, or nothing if no known word is near."""
    near = nearest(word, known)
    return f" (did you mean {near}?)" if near else ""
