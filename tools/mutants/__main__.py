"""``make mutants``: breaks the code on purpose and says which faults no test notices.

All of `sabotages.SABOTAGES` are tried, and a sample of the faults that `mutations` makes from the source of ldeq/engine,
ldeq/data and ldeq/video. Each fault goes alone into a copy of the tree; the tests that run the changed line are run,
fastest first, until one fails. On Linux they can write below that copy's folder alone (confinement.py). What is known is kept
in tests/mutants.json, so that a run goes on where the last one ended.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

from .equivalents import EQUIVALENTS
from .mutations import Mutant, mutants_of, statement_at
from .sabotages import SABOTAGES, Sabotage
from .tracing import AREAS

ROOT = Path(__file__).parents[2]
RECORD = ROOT / "tests" / "mutants.json"
README = ROOT / "tests" / "README.md"
MARKS = ("<!-- mutants -->", "<!-- end of mutants -->")

UNJUDGED = ("ldeq/data/synthetic/", "ldeq/data/draw.py", "ldeq/video/drawing.py")
"""How drawn faces and lines look: their numbers have no right value that a test could know."""

NUMBERS = "test_tuned_numbers.py"
TESTS = ("tests/engine", "tests/data", "tests/video", "tests/cli", "tests/test_landmarker.py", "tests/test_video_metrics.py")
# Processes that are started and killed, which takes minutes or fails on a busy machine without any fault; what they prove in
# particular, others prove in part.
SLOW = (
    "kill_9", "two_processes", "lost_is_named", "of_every_start_method", "from_their_start_on", "one_changed_bit",
    "whole_group", "lowers_the_error", "score_of_two", "write_that_fails_half_way", "second_ctrl_c",
)  # fmt: skip
BUDGET_SECONDS = 60.0
"""Tests beyond this sum, as they took without a fault, are not run: what they alone would notice counts as survived."""


class Runner:
    """A copy of the tree and the worker that runs tests in it."""

    def __init__(self) -> None:
        self.folder = tempfile.TemporaryDirectory(prefix="ldeq-mutants-")
        self.tree = Path(self.folder.name) / "tree"
        names = _git("ls-files").split("\n")
        built = [str(p.relative_to(ROOT)) for p in (ROOT / "ldeq").glob("_*") if p.is_file()]
        for name in {*filter(None, names), *built}:
            if (ROOT / name).is_file() and not name.startswith("benchmarks/results"):
                (self.tree / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, self.tree / name)
        environment = {
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "TMPDIR": str(self.tree.parent / "tmp"),
            "PYTHONPATH": os.pathsep.join((str(self.tree), str(ROOT / "tools"))),
        }
        (self.tree.parent / "tmp").mkdir()
        shared = ROOT.parent / "shared"
        if shared.is_dir():
            (self.tree.parent / "shared").symlink_to(shared)
        command = [sys.executable, "-m", "mutants.worker", str(self.tree)]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=environment
        )

    def ask(self, **job: Any) -> dict[str, Any]:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(json.dumps(job) + "\n")
        self.process.stdin.flush()
        answer: dict[str, Any] = json.loads(self.process.stdout.readline())
        return answer

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()
        self.folder.cleanup()


def main() -> int:
    parser = argparse.ArgumentParser(prog="make mutants", description=__doc__)
    parser.add_argument("--sample", type=int, default=150, help="faults made from the source; 0 for none, -1 for all")
    parser.add_argument("--seed", type=int, default=0, help="which sample")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--again", action="store_true", help="try survivors of earlier runs once more")
    options = parser.parse_args()
    runners = [Runner() for _ in range(options.jobs)]
    try:
        tests = _traced(runners[0])
        known: dict[str, Any] = json.loads(RECORD.read_text()) if RECORD.exists() else {}
        chosen = [_as_mutant(s) for s in SABOTAGES] + _sample(options.sample, options.seed)
        verdicts = _tried(runners, chosen, tests, known.get("verdicts", {}), options.again)
    finally:
        for runner in runners:
            runner.close()
    total = sum(len(mutants_of(ROOT, file)) for file in _files())
    _report(chosen, verdicts, total, options.seed)
    return int(any(verdicts[_key(m)]["verdict"] == "survived" for m in chosen[: len(SABOTAGES)]))


def _git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True).stdout


def _files() -> list[str]:
    names = _git("ls-files", *(f"ldeq/{a}" for a in AREAS)).split()
    return sorted(n for n in names if n.endswith(".py") and not n.startswith(UNJUDGED))


def _sample(count: int, seed: int) -> list[Mutant]:
    everything = [m for file in _files() for m in mutants_of(ROOT, file)]
    return everything if count < 0 else random.Random(seed).sample(everything, min(count, len(everything)))


def _as_mutant(sabotage: Sabotage) -> Mutant:
    text = (ROOT / sabotage.file).read_text()
    if text.count(sabotage.old) != 1:
        raise SystemExit(
            f"{sabotage.name!r} no longer fits {sabotage.file}: {sabotage.old!r} is there {text.count(sabotage.old)} times"
        )
    place = text.index(sabotage.old)
    line = text.count("\n", 0, place) + 1
    function, begin, end = statement_at(text, line)
    changed = text.replace(sabotage.old, sabotage.new)
    return Mutant(sabotage.file, line, function, sabotage.name, changed, begin, end)


def _traced(runner: Runner) -> dict[str, Any]:
    """Which test runs which lines. Kept in build/ for each file of tests, until that file or the package changes."""
    record = ROOT / "build" / "mutants-lines.json"
    record.parent.mkdir(exist_ok=True)
    named = [n for n in _git("ls-files", *TESTS).split("\n") if Path(n).name.startswith("test_")]
    shared = [n for n in _git("ls-files", "ldeq", "tests").split("\n") if n.endswith(".py") and n not in named]
    state = _digest(shared)
    digests = {name: _digest([name]) for name in named}
    kept: dict[str, Any] = json.loads(record.read_text()) if record.exists() else {}
    files: dict[str, Any] = kept["files"] if kept.get("state") == state else {}
    stale = [name for name, digest in digests.items() if files.get(name, {}).get("digest") != digest]
    if stale:
        print(f"noting which lines are run by the tests of {len(stale)} files ...", flush=True)
        answer = record.with_suffix(".new")
        runner.ask(trace=str(answer), tests=[*stale, "-k", f"not ({' or '.join(SLOW)})"], limit=3600)
        found = json.loads(answer.read_text())
        for name in stale:
            files[name] = {"digest": digests[name], "tests": {t: e for t, e in found.items() if t.split("::")[0] == name}}
        record.write_text(json.dumps({"state": state, "files": files}))
    tests = {test: entry for name in named for test, entry in files[name]["tests"].items()}
    failing = [name for name, entry in tests.items() if not entry["passed"]]
    if failing:
        print(f"left out, since they fail without any fault: {', '.join(failing)}", flush=True)
    return {name: entry for name, entry in tests.items() if entry["passed"]}


def _digest(names: list[str]) -> str:
    content = hashlib.sha256()
    for name in names:
        content.update(name.encode() + (ROOT / name).read_bytes())
    return content.hexdigest()[:16]


def _fitting(mutant: Mutant, tests: dict[str, Any]) -> dict[str, float]:
    """Tests that run the changed statement, or anything in the file where it is in no function, and their seconds.

    The fastest come first, as many as the budget allows.
    """

    def judges(name: str) -> bool:
        """Constants and defaults are read when a module is loaded: no line tells who knows them."""
        return NUMBERS in name and f"[{mutant.file.removesuffix('.py').replace('/', '.')}]" in name

    chosen: dict[str, float] = {}
    left = BUDGET_SECONDS
    for name, entry in sorted(tests.items(), key=lambda item: item[1]["seconds"]):
        lines = entry["lines"].get(mutant.file, [])
        runs = any(mutant.begin <= line <= mutant.end for line in lines) if mutant.begin else bool(lines)
        if (runs or judges(name)) and entry["seconds"] <= left:
            chosen[name] = entry["seconds"]
            left -= entry["seconds"]
    return chosen


def _key(mutant: Mutant) -> str:
    content = hashlib.sha256(mutant.text.encode()).hexdigest()[:12]
    return f"{mutant.file}:{mutant.line}: {mutant.what} [{content}]"


def _tried(
    runners: list[Runner], chosen: list[Mutant], tests: dict[str, Any], known: dict[str, Any], again: bool
) -> dict[str, Any]:
    wanted = {_key(m): m for m in chosen}
    verdicts = {k: v for k, v in known.items() if k in wanted and not (again and v["verdict"] == "survived")}
    waiting = [(k, m) for k, m in wanted.items() if k not in verdicts]
    lock = threading.Lock()
    total = len(waiting)

    def work(runner: Runner) -> None:
        while True:
            with lock:
                if not waiting:
                    return
                key, mutant = waiting.pop(0)
            seconds = _fitting(mutant, tests)
            if seconds:
                limit = 120 + 10 * sum(seconds.values())
                answer = runner.ask(file=mutant.file, text=mutant.text, tests=list(seconds), seconds=seconds, limit=limit)
            else:
                answer = {"verdict": "survived", "by": "no test runs it", "seconds": 0.0}
            with lock:
                verdicts[key] = {"verdict": answer["verdict"], "by": answer["by"]}
                print(
                    f"{total - len(waiting)}/{total} {answer['verdict']:8} {answer['seconds']:5.1f} s  {key}  {answer['by']}",
                    flush=True,
                )
                RECORD.write_text(json.dumps({"verdicts": dict(sorted(verdicts.items()))}, indent=1) + "\n")

    threads = [threading.Thread(target=work, args=(runner,)) for runner in runners]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return verdicts


def _report(chosen: list[Mutant], verdicts: dict[str, Any], total: int, seed: int) -> None:
    by_hand, made = chosen[: len(SABOTAGES)], chosen[len(SABOTAGES) :]

    same = {(e.file, e.function, e.fault): e.reason for e in EQUIVALENTS}

    def reason(mutant: Mutant) -> str:
        """Why a survivor changes nothing; empty where it does change something."""
        survived = verdicts[_key(mutant)]["verdict"] == "survived"
        return same.get((mutant.file, mutant.function, mutant.what), "") if survived else ""

    def share(mutants: list[Mutant]) -> str:
        mutants = [m for m in mutants if not reason(m)]
        caught = sum(verdicts[_key(m)]["verdict"] != "survived" for m in mutants)
        return f"{caught} of {len(mutants)}" + (f" ({100 * caught / len(mutants):.0f} %)" if mutants else "")

    lines = [f"- Faults chosen by hand: {share(by_hand)} are caught."]
    lines += [f"- Faults made from the source: {share(made)} are caught, a sample (seed {seed}) of {total}."]
    for area in AREAS:
        lines.append(f"  - ldeq/{area}: {share([m for m in made if m.file.startswith(f'ldeq/{area}/')])}.")
    equivalent = [m for m in made if reason(m)]
    survivors = [m for m in chosen if verdicts[_key(m)]["verdict"] == "survived" and not reason(m)]
    lines += ["", "Survivors:", ""] if survivors else []
    lines += [f"- `{m.file}:{m.line}`: `{m.what}`" for m in sorted(survivors)]
    lines += ["", "Not counted, since they change nothing:", ""] if equivalent else []
    lines += [f"- `{m.file}:{m.line}`: `{m.what}`: {reason(m)}" for m in sorted(equivalent)]
    print("\n".join(lines))
    if README.exists():
        text = README.read_text()
        begin, end = text.index(MARKS[0]) + len(MARKS[0]), text.index(MARKS[1])
        README.write_text(text[:begin] + "\n" + "\n".join(lines) + "\n" + text[end:])


if __name__ == "__main__":
    sys.exit(main())
