"""Runs the properties of tests/fuzz: once, or in rounds of different seeds until enough cases have run, with a record.

``python tools/fuzz.py --rounds 1`` is part of make test; ``python tools/fuzz.py --cases 1000000`` is make fuzz. A run that is
stopped goes on where it was: the record holds the seed of the next round.

Every file of tests/fuzz runs in a process of its own, so that a crash is seen and ends nothing else.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "tests" / "fuzz"
RECORD = FOLDER / "record.json"

ROUND_LIMIT = 3600
"""Seconds after which a process of a round has hung."""


@dataclass
class Record:
    """What has been run.

    Attributes:
        next_seed: of the next round; earlier ones were run.
        total: cases of all properties.
        cases: cases by property.
        failures: a line on each process that failed: file, seed, how it ended.
        peak_mib: the largest memory of a process by file, imports included.
        slowest_s: seconds of the processor that the slowest case took, by file.
        seconds: time of all rounds by the clock.
    """

    next_seed: int = 0
    total: int = 0
    cases: dict[str, int] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)
    peak_mib: dict[str, int] = field(default_factory=dict)
    slowest_s: dict[str, float] = field(default_factory=dict)
    seconds: float = 0

    @classmethod
    def read(cls, path: Path) -> Record:
        return cls(**json.loads(path.read_text())) if path.exists() else cls()

    def write(self, path: Path) -> None:
        temporary = path.with_suffix(".tmp")
        temporary.write_text(json.dumps(asdict(self), indent=1, sort_keys=True) + "\n")
        temporary.replace(path)

    def add(self, file: str, found: dict[str, Any]) -> None:
        for name, count in found["cases"].items():
            name = name.removeprefix("tests/fuzz/")
            self.cases[name] = self.cases.get(name, 0) + count
            self.total += count
        self.peak_mib[file] = max(self.peak_mib.get(file, 0), found["peak_kib"] >> 10)
        self.slowest_s[file] = max(self.slowest_s.get(file, 0.0), found["slowest_s"])


def run_file(path: Path, seed: int, cases: int) -> tuple[str | None, str, dict[str, Any] | None]:
    """Runs the properties of one file.

    Returns:
        how it failed, None if it did not; its output; and what `fuzzing.write_record` wrote, None after a crash.
    """
    with tempfile.TemporaryDirectory() as folder:
        counts = Path(folder) / "counts.json"
        environment = {
            **os.environ,
            "LDEQ_FUZZ_CASES": str(cases),
            "LDEQ_FUZZ_ROUND": str(seed),
            "LDEQ_FUZZ_RECORD": str(counts),
            "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1"),
        }
        command = [sys.executable, "-X", "faulthandler", "-m", "pytest", str(path), f"--hypothesis-seed={seed}"]
        try:
            ended = subprocess.run(
                [*command, "-p", "no:cacheprovider", f"--basetemp={folder}/pytest"],
                cwd=ROOT,
                env=environment,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=ROUND_LIMIT,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return f"no end after {ROUND_LIMIT} s", "", None
        found = json.loads(counts.read_text()) if counts.exists() else None
    if ended.returncode == 0:
        return None, ended.stdout, found
    how = f"signal {-ended.returncode}" if ended.returncode < 0 else f"exit status {ended.returncode}"
    return how, ended.stdout + ended.stderr, found


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, help="go on until the record holds so many")
    parser.add_argument("--rounds", type=int, help="run so many rounds")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="begin no round after so many")
    parser.add_argument("--each", type=int, default=int(os.environ.get("LDEQ_FUZZ_CASES", "400")), help="of a fast property")
    parser.add_argument("--record", type=Path, help="the record to go on from")
    parser.add_argument("files", nargs="*", type=Path, help="of tests/fuzz; all if absent")
    given = parser.parse_args(arguments)
    record = Record.read(given.record) if given.record else Record()
    files = [path.resolve() for path in given.files] or sorted(FOLDER.glob("test_*.py"))
    failed, rounds, begin = 0, 0, time.monotonic()
    while (given.rounds is None or rounds < given.rounds) and (given.cases is None or record.total < given.cases):
        if time.monotonic() - begin > given.seconds:
            break
        seed, start = record.next_seed, time.monotonic()
        for path in files:
            how, output, found = run_file(path, seed, given.each)
            if found:
                record.add(path.name, found)
            if how:
                failed += 1
                record.failures.append(f"{path.name}, seed {seed}, {given.each} cases each: {how}")
                print(output, file=sys.stderr)
        record.next_seed += 1
        record.seconds = round(record.seconds + time.monotonic() - start, 1)
        if given.record:
            record.write(given.record)
        rounds += 1
        print(f"seed {seed}: {record.total} cases, {len(record.failures)} failures, {record.seconds:.0f} s", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
