"""Writes the parts of README.md that come from committed results, so that no figure is typed by hand."""

from __future__ import annotations

import json
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
RESULTS = ROOT / "docs" / "results"
sys.path.insert(0, str(ROOT / "benchmarks"))

import table as benchmarks  # noqa: E402


def scores() -> str:
    """One row a report, under its protocol."""
    lines = []
    for path in sorted(RESULTS.glob("*/report.json")):
        report = json.loads(path.read_text())
        row = report["subsets"]["full"]
        lines += [
            "| model | NME % | FR10 % | AUC10 | photos |",
            "| --- | --- | --- | --- | --- |",
            f"| [{path.parent.name}](docs/results/{path.parent.name}/report.md) | {row['nme']:.2f} | {row['fr10']:.2f} | "
            f"{row['auc10']:.3f} | {row['images']:.0f} |",
            "",
            f"Protocol: {report['protocol']}.",
            "",
        ]
    return "\n".join(lines).rstrip()


def flicker() -> str:
    """The comparisons of the video report, flicker and error, easy and hard."""
    document = json.loads((RESULTS / "video" / "video.json").read_text())
    lines = ["| change in %, easy / hard clips | against | flicker (NMF) | NME |", "| --- | --- | --- | --- |"]
    for row in document["comparisons"]:
        nmf, nme = (f"{row['easy'][m]:+.1f} / {row['hard'][m]:+.1f}" for m in ("nmf", "nme"))
        lines.append(f"| {row['with']} | {row['without']} | {nmf} | {nme} |")
    return "\n".join([*lines, "", f"Protocol: {document['protocol']}."])


PARTS = {"results": scores, "video": flicker, "benchmarks": lambda: benchmarks.short(benchmarks.load())}
"""What stands between ``<!-- NAME -->`` and ``<!-- /NAME -->``."""


def updated(text: str) -> str:
    """README.md with every part in its place."""
    for name, part in PARTS.items():
        head, rest = text.split(f"<!-- {name} -->")
        _, tail = rest.split(f"<!-- /{name} -->")
        text = f"{head}<!-- {name} -->\n{part()}\n<!-- /{name} -->{tail}"
    return text


if __name__ == "__main__":
    README.write_text(updated(README.read_text()))
