"""Writes the parts of the documents that come from committed results, so that no figure is typed by hand."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "docs" / "results"
sys.path.insert(0, str(ROOT / "benchmarks"))

import table as benchmarks  # noqa: E402

from ldeq.engine.weights import load_pretrained, shipped_models  # noqa: E402

OURS = "rwr-4x1 + face-frame"
CLASSIC = "frame + one-euro"


def peers() -> str:
    """The short comparison of the README: flicker, time and memory."""
    pipelines, records = _video()["pipelines"], benchmarks.load()

    def flicker_of(name: str) -> str:
        easy, hard = (pipelines[name][part]["nmf"] for part in ("easy", "hard"))
        return f"{easy:.0f} / {hard:.0f}"

    rows = [
        (
            "flicker (NMF) on easy / hard clips, same weights",
            flicker_of(OURS),
            f"each frame alone + One-Euro {flicker_of(CLASSIC)}",
        ),
        _times("Anderson solve, 16 evaluations", records["solve_anderson"], ("torchdeq", "published loop")),
        _times("soft-argmax, forward", records["softargmax_forward"], ("kornia", "dsntnn")),
        _times("soft-argmax, backward", records["softargmax_backward"], ("kornia", "dsntnn")),
        _times("training step, paper's model", records["training_step_paper"], ("eager baseline",)),
    ]
    memory = records["memory"]["results"]
    most = list(memory["implicit"])[-1]
    mib = {name: f"{memory[name][most] / 2**20:.0f} MiB" for name in ("implicit", "unrolled")}
    rows.append((f"peak memory of a gradient, {most} evaluations", mib["implicit"], f"unrolled {mib['unrolled']}"))
    lines = ["| | ldeq | others |", "| --- | --- | --- |", *(f"| {' | '.join(row)} |" for row in rows)]
    where = records["solve_anderson"]
    machine = f"Times on an {where['device']} CPU with {where['threads']} threads"
    weights = "Flicker is that of the `small-68` before today's ([findings](docs/results/video/findings.md))"
    return "\n".join([*lines, "", f"{machine}. {weights}. What was measured, and how: [results](docs/results.md)."])


def scores() -> str:
    """One row a report, under its protocol."""
    lines = []
    for path in sorted(RESULTS.glob("*/report.json")):
        report = json.loads(path.read_text())
        row = report["subsets"]["full"]
        lines += [
            "| model | NME % | FR10 % | AUC10 | photos |",
            "| --- | --- | --- | --- | --- |",
            f"| [{path.parent.name}](results/{path.parent.name}/report.md) | {row['nme']:.2f} | {row['fr10']:.2f} | "
            f"{row['auc10']:.3f} | {row['images']:.0f} |",
            "",
            f"Protocol: {report['protocol']}.",
            "",
        ]
    return "\n".join(lines).rstrip()


def models() -> str:
    """One row for each model of the package, from its card."""
    lines = ["| model | landmarks | crop, px | parameters, M | NME % | on | licence |", "| --- " * 7 + "|"]
    for name in shipped_models():
        found = load_pretrained(name)
        size = sum(p.numel() for p in found.model.parameters()) / 1e6
        on = f"{str(found.card['protocol']).partition(',')[0]}, {found.card['images']:.0f} faces"
        licence = str(found.card["licence"]).partition(":")[0]
        lines.append(
            f"| [`{name}`](../ldeq/weights/{name}.md) | {found.layout.count} | {found.model.config.image_size} | {size:.2f} | "
            f"{found.card['nme']:.2f} | {on} | {licence} |"
        )
    return "\n".join(lines)


def hard_faces() -> str:
    """One row a model of the package, and its protocol."""
    lines = ["| model | NME % | large poses | FR10 % | protocol |", "| --- " * 5 + "|"]
    for path in sorted((RESULTS / "hard-faces").glob("*.json")):
        report = json.loads(path.read_text())
        whole, pose = report["subsets"]["full"], report["subsets"]["pose"]
        protocol = str(report["protocol"]).partition(";")[0]
        lines.append(f"| `{path.stem}` | {whole['nme']:.2f} | {pose['nme']:.2f} | {whole['fr10']:.1f} | {protocol} |")
    return "\n".join(lines)


def todays_flicker() -> str:
    """Pipelines with the weights of the tables, and with today's."""
    lines = ["| pipeline | flicker, easy / hard | of the tables | NME, easy / hard | of the tables |", "| --- " * 5 + "|"]
    before = _video()["pipelines"]
    for name, now in json.loads((RESULTS / "video" / "today.json").read_text()).items():
        cells = [
            f"{of['easy'][measure]:.{digits}f} / {of['hard'][measure]:.{digits}f}"
            for measure, digits in (("nmf", 1), ("nme", 2))
            for of in (now, before[name])
        ]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def flicker() -> str:
    """The comparisons of the video report, flicker and error, easy and hard."""
    lines = ["| change in %, easy / hard clips | against | flicker (NMF) | NME |", "| --- | --- | --- | --- |"]
    for row in _video()["comparisons"]:
        nmf, nme = (f"{row['easy'][m]:+.1f} / {row['hard'][m]:+.1f}" for m in ("nmf", "nme"))
        lines.append(f"| {row['with']} | {row['without']} | {nmf} | {nme} |")
    return "\n".join([*lines, "", f"Protocol: {_video()['protocol']}."])


def speed() -> str:
    """The short table of the benchmarks, with links as docs/kernels.md needs them."""
    return benchmarks.short(benchmarks.load()).replace("](benchmarks/", "](../benchmarks/")


def _video() -> dict[str, Any]:
    document: dict[str, Any] = json.loads((RESULTS / "video" / "video.json").read_text())
    return document


def _times(what: str, record: dict[str, Any], names: tuple[str, ...]) -> tuple[str, str, str]:
    """Our median, and how many times as long each peer takes."""
    ours = next(iter(record["results"].values()))["median_ms"]
    theirs = ", ".join(f"{name} {record['results'][name]['ratio']:.1f} times as long" for name in names)
    return what, f"{ours:.1f} ms", theirs


PARTS = {
    "README.md": {"peers": peers},
    "docs/results.md": {"models": models, "results": scores, "hard faces": hard_faces, "video": flicker},
    "docs/results/video/findings.md": {"today": todays_flicker},
    "docs/kernels.md": {"benchmarks": speed},
}
"""What stands between ``<!-- NAME -->`` and ``<!-- /NAME -->`` of each document."""


def updated(document: str) -> str:
    """A document with every part in its place."""
    text = (ROOT / document).read_text()
    for name, part in PARTS[document].items():
        head, rest = text.split(f"<!-- {name} -->")
        _, tail = rest.split(f"<!-- /{name} -->")
        text = f"{head}<!-- {name} -->\n{part()}\n<!-- /{name} -->{tail}"
    return text


if __name__ == "__main__":
    for document in PARTS:
        (ROOT / document).write_text(updated(document))
