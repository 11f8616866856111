"""What a new user does in the first ten minutes, done and timed: from the built wheel, in an empty environment.

    python tools/first_ten_minutes.py dist/ldeq-0.1.0-*.whl torch==2.13.0

It works in a new folder outside of the source tree and writes docs/first-ten-minutes.md.
"""

from __future__ import annotations

import os
import platform
import shlex
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "first-ten-minutes.md"

EXTRAS = "video,export,web"
"""What the steps need besides the base."""

SETTINGS = """\
model: {preset: tiny, landmarks: 98}
data:
  train: ["synthetic:600"]
  val: ["synthetic:64"]
  augmentation: light
  cache: true
optim: {lr: 3.0e-3, ema: 0.99}
run: {out: runs/first, epochs: 5, batch: 16, validate_every: 5}
"""
"""train.yaml of the record."""


@dataclass(frozen=True)
class Step:
    """One thing that a new user does.

    Attributes:
        title: what for.
        commands: one a line.
        leaves: files that must be there afterwards, and must not be empty.
        quick: what a test appends to the commands that begin with the key, so that it takes seconds.
    """

    title: str
    commands: str
    leaves: tuple[str, ...] = ()
    quick: tuple[tuple[str, str], ...] = ()


STEPS = (
    Step("See what this machine can do", "ldeq doctor"),
    Step(
        "Landmarks in a picture",
        "ldeq data make-faces faces --count 5\n"
        "ldeq predict faces/WFLW_images/train/000000.png -o face.png --json face.json\n"
        "ldeq predict faces/WFLW_images/train --labels found.csv",
        ("face.png", "face.json", "found.csv"),
        (("ldeq data make-faces", "--size 128"),),
    ),
    Step(
        "A video without flicker",
        'ldeq data make-clips --data "synthetic:6#seed=4,size=384" --part all --easy 1 --hard 1 --out clips\n'
        "ldeq video clips/videos/hard-000.mp4 -o out.mp4 --compare --csv out.csv",
        ("out.mp4", "out.csv"),
        (("ldeq data make-clips", "--frames 10"),),
    ),
    Step(
        "How steady it is",
        "ldeq video clips/videos/hard-000.mp4 --csv raw.csv --no-rwr --views 1 --smooth none\n"
        "ldeq score raw.csv out.csv --raw raw.csv --video clips/videos/hard-000.mp4 --report score.html",
        ("score.html",),
    ),
    Step(
        "Train for a while, and score",
        "ldeq train train.yaml\nldeq eval runs/first/best.safetensors --data synthetic:64 --report report",
        ("runs/first/best.safetensors", "report/report.md"),
        (("ldeq train", "--set run.epochs=1 --set run.validate_every=1 --set data.train=[synthetic:32]"),),
    ),
    Step(
        "Use it outside of PyTorch",
        "ldeq export small-68 --onnx small-68.onnx --verify",
        ("small-68.onnx",),
    ),
    Step(
        "A page to see it move, with your camera",
        "ldeq web page",
        ("page/index.html", "page/model/evaluation.onnx"),
    ),
)


@dataclass(frozen=True)
class Record:
    """What became of a step: how long it took, and the last lines that it printed."""

    step: Step
    seconds: float
    printed: str


def run_steps(run: Callable[[str], str], folder: Path, quick: bool = False, skip: tuple[str, ...] = ()) -> list[Record]:
    """Does the steps in a folder.

    Args:
        run: runs one line of a shell in the folder and returns what it printed; raises if it fails.
        folder: where files are left.
        quick: whether to append what a test appends.
        skip: commands of ldeq that are left out.

    Raises:
        AssertionError: if a step leaves a file out.
    """
    (folder / "train.yaml").write_text(SETTINGS)
    records = []
    for step in STEPS:
        lines = step.commands.splitlines()
        if any(shlex.split(line)[1] in skip for line in lines):
            continue
        begin, printed = time.monotonic(), ""
        for line in lines:
            more = [words for start, words in step.quick if quick and line.startswith(start)]
            printed += run(" ".join([line, *more]))
        for name in step.leaves:
            assert (folder / name).is_file() and (folder / name).stat().st_size, f"{step.title}: {name} is missing"
        records.append(Record(step, time.monotonic() - begin, printed))
    return records


def page(records: list[Record], install: str, seconds: float, about: str) -> str:
    """The document."""
    total = seconds + sum(record.seconds for record in records)
    lines = [
        "# The first ten minutes",
        "",
        "Everything here was done by `tools/first_ten_minutes.py`: from the built wheel, in an empty environment, outside of",
        f"the source tree. {about} All of it took {total / 60:.1f} minutes.",
        "",
        f"## Install: {seconds:.0f} s",
        "",
        "<!-- not run: it installs -->",
        "```bash",
        install,
        "```",
        "",
    ]
    for record in records:
        lines += [f"## {record.step.title}: {record.seconds:.0f} s", ""]
        if "train.yaml" in record.step.commands:
            lines += ["`train.yaml`:", "", "```yaml", SETTINGS.rstrip(), "```", ""]
        lines += ["<!-- not run: tests/docs/test_first_ten_minutes.py runs it -->", "```bash", record.step.commands, "```", ""]
        tail = [line[:150].rstrip() for line in record.printed.splitlines() if line.strip()][-12:]
        lines += ["```text", *tail, "```", ""]
    return "\n".join(lines)


def main(wheel: str, *torch: str) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder, begin = Path(name), time.monotonic()
        venv.create(folder / "venv", with_pip=True)
        wanted = [*torch, f"{Path(wheel).resolve()}[{EXTRAS}]"]
        subprocess.run([folder / "venv/bin/python", "-m", "pip", "install", "--quiet", *wanted], check=True)
        seconds = time.monotonic() - begin
        work = folder / "work"
        work.mkdir()
        environment = {**os.environ, "PATH": f"{folder / 'venv/bin'}{os.pathsep}{os.environ['PATH']}", "COLUMNS": "120"}
        environment.pop("PYTHONPATH", None)

        def run(line: str) -> str:
            print(f"$ {line}", flush=True)
            ways: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "check": False}
            done: subprocess.CompletedProcess[str] = subprocess.run(line, shell=True, cwd=work, env=environment, **ways)
            if done.returncode:
                raise SystemExit(f"{line}\n{done.stdout}")
            return done.stdout.replace(str(work), ".").replace(str(Path.home()), "~")

        records = run_steps(run, work)
        load = f"load {os.getloadavg()[1]:.0f} in the last five minutes"
        about = f"Python {platform.python_version()}, {os.cpu_count()} {platform.machine()} cores without a GPU, {load}."
        packages = " ".join([*torch, f'"{Path(wheel).name}[{EXTRAS}]"'])
        install = f"python -m venv venv && . venv/bin/activate\npip install {packages}"
        PAGE.write_text(page(records, install, seconds, about))
        print(f"wrote {PAGE}")


if __name__ == "__main__":
    main(*sys.argv[1:])
