"""Where results go: `results/NAME.json`, with everything that says where the numbers come from."""

from __future__ import annotations

import hashlib
import json
import subprocess
from pathlib import Path
from typing import Any

from ldeq.cli.timing import machine

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"


def save(name: str, what: str, results: dict[str, dict[str, float]], device: str = "cpu", **more: Any) -> None:
    """Writes `results/<name>.json`, on a GPU `results/<name>-cuda.json`.

    Args:
        name: of the file.
        what: one line that says what was measured.
        results: what `paired` returned, or other figures by name.
        device: torch device that they were taken on.
        more: entries beside them, such as the copy bandwidth.
    """
    RESULTS.mkdir(exist_ok=True)
    record = {"what": what, **machine(device), "commit": commit(), "kernel_sources": source_hash(), **more, "results": results}
    (RESULTS / f"{name}{'-cuda' if device.startswith('cuda') else ''}.json").write_text(json.dumps(record, indent=1) + "\n")


def commit() -> str:
    """Short hash, with a plus where what is measured has uncommitted changes."""
    return _git("rev-parse", "--short", "HEAD") + ("+" if _git("status", "--porcelain", "csrc", "kernels", "ldeq") else "")


def source_hash() -> str:
    """The hash that setup.py writes into the build's report."""
    digest = hashlib.sha256()
    for path in sorted(p for p in (ROOT / "csrc").rglob("*") if p.suffix in (".cpp", ".h", ".cu", ".cuh")):
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def _git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True).stdout.strip()
