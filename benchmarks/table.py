"""The tables of the JSON files in `results`: all of them, written to `results/TABLE.md`, and the short one of the README."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"

COLUMNS: dict[str, tuple[str, Callable[[Any], str]]] = {
    "median_ms": ("median ms", "{:.2f}".format),
    "best_ms": ("best ms", "{:.2f}".format),
    "p20_ms": ("20 % ms", "{:.2f}".format),
    "p80_ms": ("80 % ms", "{:.2f}".format),
    "ratio": ("times ours, paired median", "{:.2f}".format),
    "best_ratio": ("times ours, best", "{:.2f}".format),
    "floor": ("share of the floor", "{:.0%}".format),
    "iterations_per_s": ("iterations/s", "{:.0f}".format),
    "bytes_per_s": ("useful GB/s", lambda v: f"{v / 1e9:.1f}"),
    "images_per_s": ("images/s", "{:.2f}".format),
    "peak_mb": ("peak MiB", "{:.0f}".format),
    "cell_share": ("cell", "{:.0%}".format),
    "solver_share": ("solver", "{:.1%}".format),
    "rest_share": ("rest", "{:.0%}".format),
    "us": ("H100 us", "{:.1f}".format),
    "h100_share": ("H100", "{:.0%}".format),
    "a100_share": ("A100", "{:.0%}".format),
    "b200_share": ("B200", "{:.0%}".format),
    "narrowest_load": ("narrowest load, bytes", "{:.0f}".format),
    "in_flight_kb": ("KB in flight", "{:.0f}".format),
    "limit": ("limit", str),
    "launches": ("launches", "{:.0f}".format),
    "moved_gb": ("GB", "{:.1f}".format),
    "tflop": ("TFLOP", "{:.2f}".format),
    "norm_share": ("activation and norm", "{:.0%}".format),
    "gpu_ms": ("GPU ms", "{:.1f}".format),
    "host_ms": ("Python ms", "{:.1f}".format),
    "step_ms": ("step ms", "{:.1f}".format),
}

# What `make bench-gpu` writes: until it has, the tables say so.
GPU = {
    "kernels-cuda": "operators by backend on a GPU",
    "replays-cuda": "operators by backend in CUDA graphs",
    "graphs-cuda": "solves as CUDA graphs",
    "training_step_paper-cuda": "training step on a GPU, paper size",
    "memory-cuda": "peak memory against max_iter on a GPU",
    "video_speed-cuda": "a video on a GPU",
}
NOT_MEASURED = "not measured yet"

SHORT = {
    "softargmax_forward": "soft-argmax forward, 16 x 98 x 64 x 64",
    "softargmax_backward": "soft-argmax backward, 16 x 98 x 64 x 64",
    "anderson_step": "Anderson step, 4 x 98 x 64 x 64, m = 6",
    "solve_anderson": "Anderson solve, 16 evaluations",
    "solve_fixed_point": "fixed-point solve, 16 evaluations",
    "training_step_small": "training step, small model",
    "training_step_paper": "training step, paper's model",
    "kernels-cuda": "operators on a GPU",
}


def load() -> dict[str, dict[str, Any]]:
    return {path.stem: json.loads(path.read_text()) for path in sorted(RESULTS.glob("*.json"))}


def section(record: dict[str, Any]) -> list[str]:
    """One record as a heading and a table."""
    if record.get("prediction"):
        machine = record.get("compilers", "operators counted on a CPU")
    else:
        machine = f"{record['threads']} threads" if "threads" in record else f"driver {record['driver']}, CUDA {record['cuda']}"
    heading = f"**{record['what']}** ({record['device']}, {machine}, torch {record['torch']}, commit {record['commit']})"
    results = record["results"]
    keys = list(dict.fromkeys(key for entry in results.values() for key in entry))
    known = [key for key in COLUMNS if key in keys] or keys
    titles = [COLUMNS[key][0] if key in COLUMNS else key for key in known]
    lines = [heading, "", f"| | {' | '.join(titles)} |", "| --- " * (len(known) + 1) + "|"]
    for name, entry in results.items():
        cells = [_cell(key, entry.get(key)) for key in known]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return [*lines, ""]


def _cell(key: str, value: float | None) -> str:
    if value is None:
        return ""
    if key in COLUMNS:
        return COLUMNS[key][1](value)
    return f"{value / 2**20:.1f} MiB" if value > 2**16 else f"{value:.3g}"


def full(records: dict[str, dict[str, Any]]) -> str:
    lines: list[str] = []
    for record in records.values():
        lines += section(record)
    for name, what in GPU.items():
        if name not in records:
            lines += [f"**{what}**: {NOT_MEASURED}", ""]
    return "\n".join(lines)


def short(records: dict[str, dict[str, Any]]) -> str:
    """A row an operation: our time, and how many times longer each peer takes (median of the paired rounds)."""
    lines = ["| fp32 | ours, ms | times as long |", "| --- | --- | --- |"]
    for name, what in SHORT.items():
        if name not in records:
            lines.append(f"| {what} | {NOT_MEASURED} | |")
            continue
        if name.endswith("-cuda"):
            lines.append(f"| {what} | see the full table | |")
            continue
        results = records[name]["results"]
        (_, ours), *peers = results.items()
        rest = ", ".join(f"{peer} {entry['ratio']:.1f}" for peer, entry in peers if not peer.startswith(("ldeq", "ours")))
        lines.append(f"| {what} | {ours['median_ms']:.1f} | {rest} |")
    where = {
        f"{r['device']}, {r['threads']} threads, torch {r['torch']}"
        for n, r in records.items()
        if n in SHORT and "threads" in r
    }
    return "\n".join(
        [*lines, "", f"{'; '.join(sorted(where))}. Everything, with what was run: [TABLE.md](benchmarks/results/TABLE.md)."]
    )


def main() -> None:
    records = load()
    (RESULTS / "TABLE.md").write_text(full(records))
    print(short(records))


if __name__ == "__main__":
    main()
