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

from dice import Dice
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st

from ldeq.errors import LdeqError

CASES = int(os.environ.get("LDEQ_FUZZ_CASES", "400"))
"""Cases of a property that takes a millisecond; slower ones run fewer."""

BATCH = 25
"""Mutations of each seed that hypothesis draws; each is a case."""

ROUND = int(os.environ.get("LDEQ_FUZZ_ROUND", "0"))
"""The seed of hypothesis in tools/fuzz.py; mutations of different rounds differ."""

RECORD = os.environ.get("LDEQ_FUZZ_RECORD")
"""Where the counts of this process go; tools/fuzz.py reads them."""

HANG = 5
"""Seconds of the processor that a case may take. A machine under load may take longer by the clock."""

STUCK = 120
"""Seconds by the clock after which a case is ended with a traceback of all threads."""

MEMORY = 1 << 30
"""Bytes that a case of a parser may take."""

SEEDS = st.integers(0, 2**62)

COUNTS: dict[str, int] = {}
_slowest = 0.0
_watched = 0.0
_mutation = ""


def fuzz(slower: int = 1, batch: int = BATCH) -> settings:
    """The settings of a property.

    Args:
        slower: it runs `CASES` / `slower` cases.
        batch: cases of each example, 1 for a property that draws all from hypothesis.
    """
    quiet = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large]
    return settings(
        max_examples=max(1, CASES // (slower * batch)),
        deadline=None,  # `case` measures
        database=None,
        report_multiple_bugs=False,
        # A smaller seed is no smaller case.
        phases=[Phase.explicit, Phase.generate] if batch > 1 else tuple(Phase),
        suppress_health_check=quiet,
    )


def mutations(seed: int, count: int = BATCH) -> Iterator[Dice]:
    """Dice for `count` cases; the same seed gives the same ones again, in the same round."""
    global _mutation
    for number in range(count):
        _mutation = f"mutation {number} of seed {seed} in round {ROUND}"
        yield Dice(f"{ROUND}/{seed}/{number}")
    _mutation = ""


@contextmanager
def case(*told: type[Exception]) -> Iterator[None]:
    """Runs a case: it ends in time, with what the body asserts or with one of the errors `told` (`LdeqError` if absent)."""
    global _slowest
    allowed = told or (LdeqError,)
    name = os.environ.get("PYTEST_CURRENT_TEST", "?").split(" ")[0]
    COUNTS[name] = COUNTS.get(name, 0) + 1
    _watch()
    begin = time.process_time()
    try:
        try:
            yield
        except allowed as error:
            check_sentence(error)
        seconds = time.process_time() - begin
        _slowest = max(_slowest, seconds)
        assert seconds < HANG, f"a case took {seconds:.1f} s"
    except BaseException as error:
        if _mutation:
            error.add_note(_mutation)
        raise


def _watch() -> None:
    """Ends the process with a traceback of all threads if no case begins for `STUCK` seconds."""
    global _watched
    now = time.monotonic()
    if now - _watched > STUCK / 10:  # a thread is started for it
        _watched = now
        faulthandler.dump_traceback_later(STUCK, exit=True)


def check_sentence(error: Exception) -> None:
    """Asserts that the message of an error is a sentence for a person."""
    assert not isinstance(error, RecursionError | UnicodeError), repr(error)
    text = str(error)
    assert text and "\n" not in text and "Traceback" not in text and len(text) < 2000, repr(error)


@contextmanager
def bounded_memory() -> Iterator[None]:
    """What takes more than `MEMORY` bytes fails with MemoryError. The processes of threads count as well."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + MEMORY, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def write_record() -> None:
    """Writes the counts of this process, if anybody asked for them."""
    faulthandler.cancel_dump_traceback_later()
    if RECORD:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        document = {"cases": COUNTS, "slowest_s": round(_slowest, 2), "peak_kib": peak}
        Path(RECORD).write_text(json.dumps(document))
