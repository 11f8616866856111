"""What budget training needs: the same short run of the small model for several budgets of the forward and backward solve.

    python benchmarks/train_budgets.py ~/300w --runs runs/budgets

Every run has the seed, data and settings of configs/small-300w.yaml but for the size and the number of epochs given here. Its
weights are scored on HELEN test under its own budget and under 3 evaluations. Results are kept as they come, in
docs/results/evaluations/train.json; runs that are there already are not made again.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from ldeq.data import LandmarkDataset, open_faces
from ldeq.engine import evaluate
from ldeq.engine.settings import read
from ldeq.engine.train import Trainer
from ldeq.models import LDEQ

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "docs" / "results" / "evaluations" / "train.json"
SCORED_AT = 3
"""Evaluations that every run's weights are scored under as well, so that the rows differ in training alone."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", help="folder of 300-W: helen and afw")
    parser.add_argument("--runs", type=Path, default=Path("runs/budgets"))
    parser.add_argument("--image-size", type=int, default=64)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument(
        "--budgets",
        nargs="+",
        default=["3x3", "1x1", "3x1", "2x2", "jfb3", "5x5", "2x1"],
        help="FORWARDxBACKWARD evaluations, or jfbFORWARD for no backward solve",
    )
    arguments = parser.parse_args()
    os.environ["LDEQ_300W"] = str(Path(arguments.data).expanduser())
    for budget in arguments.budgets:
        rows = json.loads(RESULTS.read_text()) if RESULTS.exists() else []
        key = {"budget": budget, "image_size": arguments.image_size, "epochs": arguments.epochs}
        if any({name: row[name] for name in key} == key for row in rows):
            continue
        row = {**key, **train(budget, arguments.image_size, arguments.epochs, arguments.runs / budget)}
        RESULTS.parent.mkdir(parents=True, exist_ok=True)
        RESULTS.write_text(json.dumps([*rows, row], indent=1) + "\n")
        print(row, flush=True)


def train(budget: str, image_size: int, epochs: int, out: Path) -> dict[str, Any]:
    jfb = budget.startswith("jfb")
    forward, backward = (int(budget[3:]), 1) if jfb else map(int, budget.split("x"))
    settings = read(
        ROOT / "configs" / "small-300w.yaml",
        [
            f"model.image_size={image_size}",
            f"model.max_iter={forward}",
            f"model.backward_max_iter={backward}",
            f"model.gradient={'jfb' if jfb else 'implicit'}",
            f"run.epochs={epochs}",
            f"run.validate_every={epochs}",
            f"run.out={out}",
            "run.amp='off'",
            "run.log_every=1",
            "data.workers=0",
        ],
    )
    trainer = Trainer(settings)
    own = trainer.fit()
    assert own is not None
    log = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    steps = [row for row in log if "loss" in row]
    model = LDEQ(replace(trainer.model.config, max_iter=SCORED_AT)).eval()
    model.load_state_dict(trainer.evaluated.state_dict())
    faces = LandmarkDataset(open_faces(settings.data.val[0]), image_size, crop="landmarks", crop_scale=1.2, on_error="replace")
    scored = evaluate(model, faces)
    made_with = asdict(settings)
    del made_with["run"]["out"]  # of this machine
    return {
        "gradient": "jfb" if jfb else "implicit",
        "forward": forward,
        "backward": backward,
        "nme": own.summary["nme"],
        "protocol": own.protocol,
        f"nme_at_{SCORED_AT}": scored.summary["nme"],
        f"residual_at_{SCORED_AT}": scored.residual,
        "residual": steps[-1]["residual"],
        "backward_residual": steps[-1]["backward_residual"],
        "images_per_s": statistics.median(row["images_per_s"] for row in steps),
        "threads": torch.get_num_threads(),
        "settings": made_with,
    }


if __name__ == "__main__":
    main()
