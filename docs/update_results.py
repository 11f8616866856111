"""Writes the results table of README.md from the reports under docs/results, so that no figure is typed by hand."""

from __future__ import annotations

import json
from pathlib import Path

DOCS = Path(__file__).parent
README = DOCS.parent / "README.md"
START, END = "<!-- results -->", "<!-- /results -->"


def table() -> str:
    """One row a report, under its protocol."""
    lines = []
    for path in sorted(DOCS.glob("results/*/report.json")):
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


def updated(text: str) -> str:
    """README.md with the table in its place."""
    head, rest = text.split(START)
    _, tail = rest.split(END)
    return f"{head}{START}\n{table()}\n{END}{tail}"


if __name__ == "__main__":
    README.write_text(updated(README.read_text()))
