"""Writes `results/TABLE.md` from the JSON files beside it."""

from __future__ import annotations

import json

from paired import RESULTS


def main() -> None:
    lines: list[str] = []
    for path in sorted(RESULTS.glob("*.json")):
        r = json.loads(path.read_text())
        lines += [
            f"**{r['what']}** ({r['device']}, {r['threads']} threads, torch {r['torch']}, commit {r['commit']})",
            "",
            "| | median ms | best ms | times ours, paired median | times ours, best |",
            "| --- | --- | --- | --- | --- |",
        ]
        for name, t in r["results"].items():
            lines.append(f"| {name} | {t['median_ms']:.2f} | {t['best_ms']:.2f} | {t['ratio']:.2f} | {t['best_ratio']:.2f} |")
        lines.append("")
    (RESULTS / "TABLE.md").write_text("\n".join(lines))
    print("\n".join(lines))


if __name__ == "__main__":
    main()
