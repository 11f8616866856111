"""What each option of training is worth: the same short run of the small model with one thing changed, two seeds each.

    python benchmarks/train_options.py ~/300w --runs runs/options
    python benchmarks/train_options.py --table

Every run has the data and settings of configs/small-300w.yaml but for the crop of 64 pixels, 10 epochs without bf16, and what
the option changes; every option sees as many pictures. Scored is HELEN test, every second epoch. Results are kept as they come,
in docs/results/options/options.json; runs that are there already are not made again. Beside it lies the table.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ldeq.engine.settings import read
from ldeq.engine.train import Trainer

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "docs" / "results" / "options"
EPOCHS = 10
PHOTOS = "300w:$LDEQ_300W#train"
DRAWN = "synthetic:1207#seed=11,size=160"
"""As many drawn faces as there are photos."""

SCORED = ("2", "4", "6", "8", "10")
"""Epochs after which a run is scored."""

HEAD = """# What the options of training are worth

Made by `benchmarks/train_options.py`: the small model, 68 landmarks, crops of 64 pixels, 12,070 pictures of HELEN train and AFW
in all, one thing changed in each row. NME in percent of the distance of the outer corners of the eyes, HELEN test (330 photos),
after the last epoch. *Change*: of the mean over the seeds. *Time*: of a picture in a step, in that of the base, medians on a
shared machine: an order, not a measurement. With one seed, differences below about 0.1 may be luck.
"""

COMMON = (
    "model.image_size=64",
    f"run.epochs={EPOCHS}",
    "run.validate_every=2",
    "run.amp='off'",
    "run.log_every=1",
    "data.workers=0",
)


@dataclass(frozen=True)
class Option:
    """What is changed, in words and as settings; `before` are those of a first run, from whose weights this one starts."""

    words: str
    settings: tuple[str, ...] = ()
    before: tuple[str, ...] = ()


OPTIONS = {
    "base": Option("L2 on landmarks, 3 + 1 evaluations, 3 back"),
    "l1": Option("L1 on landmarks", ("optim.loss=l1",)),
    "wing": Option("Wing loss on landmarks", ("optim.loss=wing",)),
    "adaptive_wing": Option("adaptive Wing loss on heatmaps", ("optim.loss=adaptive_wing",)),
    "cross_entropy": Option("cross entropy on heatmaps, no soft-argmax", ("optim.loss=structured", "optim.margin=0")),
    "structured": Option("structured hinge on heatmaps, no soft-argmax", ("optim.loss=structured",)),
    "openings": Option("openings weighed 0.25 beside L2", ("optim.openings=0.25",)),
    "stochastic": Option("budget drawn from 1 to 3", ("optim.stochastic_iter=true",)),
    "jfb": Option("phantom gradient, 1 step", ("model.gradient=jfb",)),
    "phantom2": Option("phantom gradient, 2 steps", ("model.gradient=jfb", "model.phantom_steps=2")),
    "unrolled": Option("gradient of the unrolled solve", ("model.gradient=unrolled",)),
    "anderson": Option("Anderson mixing, 3 + 1 evaluations, 3 back", ("model.solver=anderson",)),
    "beta": Option("beta 0.3 in place of 1", ("model.beta=0.3",)),
    "light": Option("light augmentation", ("data.augmentation={preset: light}",)),
    "strong": Option("strong augmentation", ("data.augmentation={preset: strong}",)),
    "drawn_first": Option(
        "first 5 epochs on drawn faces, then 5 on photos",
        ("run.epochs=5", "run.validate_every=1"),
        ("run.epochs=5", "run.validate_every=5", f"data.train=['{DRAWN}']"),
    ),
    "drawn_beside": Option(
        "5 epochs of photos and drawn faces together",
        ("run.epochs=5", "run.validate_every=1", f"data.train=['{PHOTOS}', '{DRAWN}']"),
    ),
    "sequences": Option(
        "sequences of 5 frames made from photos, 2 epochs",
        ("data.sequence=5", "data.cache=false", "run.epochs=2", "run.validate_every=1", "run.batch=4"),
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", nargs="?", help="folder of 300-W: helen and afw")
    parser.add_argument("--runs", type=Path, default=Path("runs/options"))
    parser.add_argument("--options", nargs="+", default=list(OPTIONS), choices=list(OPTIONS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1])
    parser.add_argument("--table", action="store_true", help="write the table of the results that are there, and train nothing")
    arguments = parser.parse_args()
    if not arguments.table:
        os.environ["LDEQ_300W"] = str(Path(arguments.data).expanduser())
        for seed in arguments.seeds:
            for name in arguments.options:
                if not any((row["option"], row["seed"]) == (name, seed) for row in results()):
                    keep({"option": name, "seed": seed, **train(name, seed, arguments.runs / f"{name}-{seed}")})
    (FOLDER / "README.md").write_text(table(results()))


def results() -> list[dict[str, Any]]:
    file = FOLDER / "options.json"
    rows: list[dict[str, Any]] = json.loads(file.read_text()) if file.exists() else []
    return rows


def keep(row: dict[str, Any]) -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    (FOLDER / "options.json").write_text(json.dumps([*results(), row], indent=1) + "\n")
    print(row, flush=True)


def train(name: str, seed: int, out: Path) -> dict[str, Any]:
    """Makes the run of an option, and the one before it.

    Returns:
        NME in percent at its end and after each validation by epochs; seconds of its steps, since those of others beside count.
    """
    option = OPTIONS[name]
    start: list[str] = []
    seconds = 0.0
    if option.before:
        _, rows = fit([*option.before, f"run.seed={seed}", f"run.out={out}-before"])
        start = [f"run.start={newest(Path(f'{out}-before'))}"]
        seconds += sum(row["seconds"] for row in rows)
    trainer, rows = fit([*option.settings, *start, f"run.seed={seed}", f"run.out={out}"])
    seconds += sum(row["seconds"] for row in rows)
    scores = [row for row in log_of(out) if "val" in row]
    return {
        "nme": scores[-1]["nme"],
        "fr10": scores[-1]["fr10"],
        "curve": {str(round(row["epoch"])): row["nme"] for row in scores},
        "ms_an_image": 1000 / statistics.median(row["images_per_s"] for row in rows),
        "seconds": seconds,
        "threads": torch.get_num_threads(),
        "parameters": sum(p.numel() for p in trainer.model.parameters()),
        "settings": [*option.settings],
    }


def fit(settings: Iterable[str]) -> tuple[Trainer, list[dict[str, Any]]]:
    """A run of the common settings and these; its trainer and the log of its steps, with the seconds of each."""
    trainer = Trainer(read(ROOT / "configs" / "small-300w.yaml", [*COMMON, *settings]))
    trainer.fit("auto" if any(Path(trainer.settings.run.out).glob("step-*.safetensors")) else None)
    rows = [row for row in log_of(Path(trainer.settings.run.out)) if "loss" in row]
    pictures = trainer.settings.run.batch * max(1, trainer.settings.data.sequence)
    return trainer, [{**row, "seconds": pictures / row["images_per_s"]} for row in rows]


def log_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def newest(folder: Path) -> Path:
    return max(folder.glob("step-*.safetensors"))


def table(rows: list[dict[str, Any]]) -> str:
    """One row an option: NME of each seed, their mean less that of the base, and the time of a picture beside the base's."""
    by_option = {name: [row for row in rows if row["option"] == name] for name in OPTIONS}
    base = by_option["base"]
    lines = [HEAD, "| option | NME of each seed | mean | change | time |", "| --- | --- | --- | --- | --- |"]
    for name, found in by_option.items():
        if not found:
            continue
        mean = statistics.mean(row["nme"] for row in found)
        change = mean - statistics.mean(row["nme"] for row in base)
        time = statistics.median(row["ms_an_image"] for row in found) / statistics.median(row["ms_an_image"] for row in base)
        scores = ", ".join(f"{row['nme']:.2f}" for row in found)
        lines.append(f"| {OPTIONS[name].words} | {scores} | {mean:.2f} | {change:+.2f} | {time:.2f} |")
    lines += ["", "NME by epoch, mean over the seeds:", "", f"| option | {' | '.join(SCORED)} |", "| --- " * 6 + "|"]
    for name, found in by_option.items():
        if found and all(set(row["curve"]) == set(SCORED) for row in found):
            means = (statistics.mean(row["curve"][epoch] for row in found) for epoch in SCORED)
            lines.append(f"| {OPTIONS[name].words} | {' | '.join(f'{mean:.2f}' for mean in means)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
