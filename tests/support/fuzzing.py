"""What every property of tests/fuzz asks of a case: a right result or one sentence, in bounded time and memory."""

from __future__ import annotations

import faulthandler
import json
import os
import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from ldeq.errors import LdeqError

CASES = int(os.environ.get("LDEQ_FUZZ_CASES", "25"))
"""Cases of each property."""

RECORD = os.environ.get("LDEQ_FUZZ_RECORD")
"""Where the counts of this process go; tools/fuzz.py reads them."""

HANG = 5
"""Seconds of the processor that a case may take. A machine under load may take longer by the clock."""

STUCK = 120
"""Seconds by the clock after which a case is ended with a traceback of all threads."""

MEMORY = 1 << 30
"""Bytes that a case of a parser may take."""

fuzz = settings(
    max_examples=CASES,
    deadline=None,  # `case` measures
    database=None,
    report_multiple_bugs=False,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)

COUNTS: dict[str, int] = {}
_slowest = 0.0

NUMBERS = [
    *("nan", "inf", "-inf", "-1e39", "1e999", "0", "1", "-0", "-1", "1_0", "٣", "0x10", "1e-320"),
    *("99999999999999999999", "9" * 5000, "2147483648"),
]
WORDS = [
    "x",
    "",
    " ",
    "true",
    "null",
    "~",
    "None",
    "a.png",
    "../a.png",
    "/etc/passwd",
    "/dev/null",
    "\ufeff",
    "\ud800",
    "é",
    "%s%n",
]
MARKS = [
    *("\n", "\r", "\0", "\x1b[2J", ",", ";", "\t", "{", "}", "[", "]", '"', "'", ":", "#", "*a", "&a ", "-", "=", ".."),
    *("!!python/object:os.system", "!!int ''"),
]
PIECES = st.sampled_from([*NUMBERS, *WORDS, *MARKS, "[" * 3000, "a: &a [*a]"])
"""What hurts readers of text."""

EDITS = st.lists(st.tuples(st.floats(0, 1), st.integers(0, 30), PIECES), min_size=1, max_size=6)
"""Edits of a text: where, how much goes, what comes."""

VALUES: st.SearchStrategy[Any] = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.sampled_from([0, -1, 1, 2**31, 2**63, 10**30, 10**400]),
    st.floats(),
    PIECES,
    st.text(max_size=8),
    st.lists(st.integers(-2, 2), max_size=3),
    st.dictionaries(st.sampled_from(["a", "preset", "rule", ""]), st.integers(-1, 1), max_size=2),
)
"""What hurts readers of documents."""


def edited(text: str, edits: list[tuple[float, int, str]]) -> bytes:
    """`text` after `edits`, as bytes; a lone surrogate becomes bytes that are no UTF-8."""
    for where, length, piece in edits:
        place = int(where * len(text))
        text = text[:place] + piece + text[place + length :]
    return text.encode("utf-8", "surrogatepass")


def replaced(document: Any, where: float, value: Any, kind: int) -> Any:
    """A document in which one place of the tree holds `value`, is gone, or has an unknown neighbour."""
    places = list(_places(document))
    path = places[int(where * (len(places) - 1))]
    copy = json.loads(json.dumps(document))
    if not path:
        return value
    parent = copy
    for key in path[:-1]:
        parent = parent[key]
    if kind == 0:
        parent[path[-1]] = value
    elif kind == 1:
        del parent[path[-1]]
    elif isinstance(parent, dict):
        parent[str(value)[:40]] = parent[path[-1]]
    else:
        parent.append(value)
    return copy


def _places(document: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    if isinstance(document, dict | list):
        for key in document if isinstance(document, dict) else range(len(document)):
            yield from _places(document[key], (*path, key))


@contextmanager
def case(*told: type[Exception]) -> Iterator[None]:
    """Runs a case: it ends in time, with what the body asserts or with one of the errors `told` (`LdeqError` if absent)."""
    global _slowest
    allowed = told or (LdeqError,)
    name = os.environ.get("PYTEST_CURRENT_TEST", "?").split(" ")[0]
    COUNTS[name] = COUNTS.get(name, 0) + 1
    faulthandler.dump_traceback_later(STUCK, exit=True)
    begin = time.process_time()
    try:
        yield
    except allowed as error:
        check_sentence(error)
    finally:
        faulthandler.cancel_dump_traceback_later()
    seconds = time.process_time() - begin
    _slowest = max(_slowest, seconds)
    assert seconds < HANG, f"a case took {seconds:.1f} s"


def check_sentence(error: Exception) -> None:
    """Asserts that the message of an error is a sentence for a person."""
    assert not isinstance(error, RecursionError | UnicodeError), repr(error)
    text = str(error)
    assert text and "\n" not in text and "Traceback" not in text and len(text) < 2000, repr(error)


@contextmanager
def bounded_memory() -> Iterator[None]:
    """A case that takes more than `MEMORY` bytes fails with MemoryError. The processes of threads count as well."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + MEMORY, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def write_record() -> None:
    """Writes the counts of this process, if anybody asked for them."""
    if RECORD:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        document = {"cases": COUNTS, "slowest_s": round(_slowest, 2), "peak_kib": peak}
        Path(RECORD).write_text(json.dumps(document))
