"""`make gpu-day`: all that a GPU is needed for, in parts that take up where the last call stopped.

Builds, tests, sanitizes, measures, and writes one record, build/gpu_day.json. A call ends in time: it starts no part that the
minutes left are too few for, and ends one that takes longer than it may. Call again until it says that nothing is left. Parts
that succeeded are not repeated for the same commit; those that failed or ran out of time are.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RECORD = ROOT / "build" / "gpu_day.json"
DONE, FAILED, LATE = "done", "failed", "out of time"
SANITIZED = "against_float64 or float64_formula or reference_loop or writes_every"
DEVICE_TESTS = ("softargmax", "solves", "launches", "model")
BENCHMARKS = ("gpu.py::test_kernels", "gpu.py::test_replays", "gpu.py::test_graphs", "softargmax.py", "anderson.py",
              "solvers.py", "training_step.py")  # fmt: skip


@dataclass(frozen=True)
class Part:
    name: str
    command: Sequence[str]
    seconds: float
    """That it may take."""
    environment: dict[str, str] = field(default_factory=dict)
    needs: str = ""
    """A program without which the part is left out."""


def parts(device: str) -> list[Part]:
    """What a GPU day consists of; on a CPU the same commands, of which the tests are collected and not run."""
    python = sys.executable
    rehearsed = ["--collect-only"] if device == "cpu" else []
    on_device = {} if device == "cpu" else {"LDEQ_TEST_DEVICE": device}
    tests = [python, "-m", "pytest", *rehearsed]
    install = [python, "-m", "pip", "install", "--no-deps", "--no-build-isolation", "--editable", "."]
    found = [
        Part("machine", ["nvidia-smi"], 30, needs="nvidia-smi"),
        Part("build", install if device != "cpu" else [python, "-c", "import ldeq"], 400, {"LDEQ_BUILD_CUDA": "1"}),
        Part("doctor", [python, "-m", "ldeq", "doctor"], 120),
    ]
    for name in DEVICE_TESTS:
        found.append(Part(f"tests: {name}", [*tests, f"tests/device/test_device_{name}.py", "-rs"], 300, on_device))
    found.append(Part("tests: graphs", [*tests, "tests/device/test_gpu_solve_graphs.py", "-rs"], 300, on_device))
    for tool in (["memcheck", "--report-api-errors", "no"], ["racecheck"]):
        sanitizer = ["compute-sanitizer", "--tool", *tool, "--target-processes", "all", "--error-exitcode", "9"]
        command = [*sanitizer, *tests, "tests/device", "-k", SANITIZED]
        found.append(
            Part(
                f"sanitizer: {tool[0]}", command, 580, on_device | {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}, "compute-sanitizer"
            )
        )
    for name in BENCHMARKS:
        file = f"benchmarks/test_{name}"
        found.append(Part(f"benchmark: {name}", [*tests, file, "-s", "--device", device], 400))
    return [*found, Part("table", [python, "benchmarks/table.py"] if device != "cpu" else [python, "-c", ""], 60)]


def run_parts(parts: Sequence[Part], record: Path, commit: str, seconds: float) -> list[str]:
    """Runs what is not done yet, for at most `seconds`.

    Args:
        parts: in their order.
        record: JSON file that tells what is done; written after each part.
        commit: what is tested. The record of another commit is begun anew.
        seconds: until this call has to end.

    Returns:
        The names of the parts that are left.
    """
    known = json.loads(record.read_text()) if record.exists() else {}
    if known.get("commit") != commit:
        known = {"commit": commit, "parts": {}}
    done: dict[str, dict[str, Any]] = known["parts"]
    end = time.monotonic() + seconds
    for part in parts:
        if done.get(part.name, {}).get("status") == DONE:
            continue
        left = end - time.monotonic()
        # The last time is the best guess of the next; a first try may take what there is.
        if left < min(part.seconds, done.get(part.name, {}).get("seconds", 30)):
            break
        done[part.name] = _ran(part, min(part.seconds, left))
        record.parent.mkdir(parents=True, exist_ok=True)
        record.write_text(json.dumps(known, indent=1) + "\n")
        print(f"{part.name}: {done[part.name]['status']}, {done[part.name]['seconds']:.0f} s", flush=True)
    return [part.name for part in parts if done.get(part.name, {}).get("status") != DONE]


def _ran(part: Part, seconds: float) -> dict[str, Any]:
    if part.needs and shutil.which(part.needs) is None:
        return {"status": DONE, "seconds": 0.0, "output": f"{part.needs} is not installed: left out"}
    begin = time.monotonic()
    try:
        run = subprocess.run(
            part.command, cwd=ROOT, env={**os.environ, **part.environment}, timeout=seconds, check=False,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        status, said = (DONE if run.returncode == 0 else FAILED), run.stdout
    except subprocess.TimeoutExpired as error:
        status, said = LATE, error.stdout.decode() if isinstance(error.stdout, bytes) else error.stdout or ""
    except OSError as error:
        status, said = FAILED, str(error)
    return {"status": status, "seconds": round(time.monotonic() - begin, 1), "output": said[-4000:]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10, help="that this call may take")
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"), help="cpu: a rehearsal, which runs no tests")
    parser.add_argument("--record", type=Path, default=RECORD)
    asked = parser.parse_args()
    git = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False)
    left = run_parts(parts(asked.device), asked.record, git.stdout.strip() or "unknown", 60 * asked.minutes - 10)
    print(f"left: {', '.join(left)}; call again" if left else f"nothing is left; {asked.record} has everything")
    sys.exit(1 if left else 0)


if __name__ == "__main__":
    main()
