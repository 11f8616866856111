"""Keeps what a finished run made: rounds its weights to bf16, scores and calibrates those, writes weights, card and report.

python tools/ship_model.py runs/small-300w/step-00006000.safetensors '300w:~/300w#helen-test'
python tools/ship_model.py runs/small-300w-turned/step-00002915.safetensors '300w:~/300w#helen-test'

Several checkpoints, joined by commas, are averaged in equal parts (Wortsman et al., "Model soups", ICML 2022): runs that start
from the same weights err in different ways, and the mean of their weights errs less than each. The first one lies in the folder
of its run.

The calibration behind `Face.score` is fitted on the training split of the same data and on drawn faces, or on the sets that are
named behind it.
`ldeq calibrate` fits it anew without the rest.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, cast

import torch

from ldeq.calibration import add_calibration, calibrate
from ldeq.data import LandmarkDataset, open_faces
from ldeq.data.crop import CropRule
from ldeq.engine import evaluate, load_pretrained
from ldeq.engine.report import write_report
from ldeq.engine.settings import read
from ldeq.engine.weights import Pretrained, save_weights
from ldeq.models import LDEQConfig

ROOT = Path(__file__).parents[1]

CARD = """# {name}

LDEQ `{preset}`: {parameters:.2f} M parameters, {landmarks}, crops of {size} pixels. Weights are stored in bf16.

| | |
| --- | --- |
| trained on | {data} |
| licence | {licence} |
| crop | {crop} |
| made by | {made}; settings, log and report in `docs/results/{run}` |
| score | NME {nme:.2f} %, FR10 {fr10:.2f} %, AUC10 {auc10:.3f} |
| protocol | {protocol} |

{limits}
"""

PHOTOS = "HELEN train and AFW with the 300-W annotation, 1,207 photos"
RESEARCH = "research use only: the photos of HELEN and AFW are for research, and so is this model"
FREE = "Apache-2.0, as the code: no photo and no label of anybody's data set was used, so the model may be used in a product"

LIMITS = """Not for: faces under 30 pixels, identification, or any judgement of a person. The photos are few and not balanced
in age, skin or pose; expect larger errors on what they lack. Of a face that is turned by more than about 60 degrees the far
side is a guess, and in dim light or behind a hand the error is two to three times that of a plain portrait."""

DRAWN_LIMITS = """Not for: identification, or any judgement of a person. It has never seen a photo: beards, glasses, hands,
hats, strong light and large turns of the head are only as they are drawn. Models that were trained on photos are more exact."""


class Run(NamedTuple):
    """Where the weights of a run go, and what their card says.

    Attributes:
        target: file of the weights.
        data: what they were trained on.
        licence: of the weights.
        made: how; one run of the recipe of the same name if empty.
        limits: what they are not for.
    """

    target: Path
    data: str
    licence: str = RESEARCH
    made: str = ""
    limits: str = LIMITS


WEIGHTS = ROOT / "ldeq" / "weights"
CHAIN = (
    "the mean of the weights of three runs, one each of `configs/small-300w-turned.yaml`, `configs/small-300w.yaml` and "
    "`configs/small-300w-motion.yaml`, the first two short and from means of earlier ones"
)
TURNED = "these and copies of them in which the head is turned, blinks or opens its mouth"
RUNS = {
    "small-300w": Run(ROOT / "docs" / "results" / "small-300w" / "weights.safetensors", PHOTOS),
    "small-300w-turned": Run(
        WEIGHTS / "small-68.safetensors",
        f"{PHOTOS}; then {TURNED}, alone and as sequences of six frames; no video",
        made=CHAIN,
    ),
    "small-98-mixed": Run(
        WEIGHTS / "small-98.safetensors",
        f"{PHOTOS}, and copies of them in which the head is turned, blinks or opens its mouth: 88 of the landmarks, from the "
        "68 that 300-W labels; 2,500 drawn faces: all 98",
        made="two runs of `configs/small-98-mixed.yaml`, the second from the first; then a mean with a quarter of "
        "`small-68`, of the weights that both have",
    ),
    "small-98-drawn": Run(WEIGHTS / "small-98-drawn.safetensors", "drawn faces alone", FREE, limits=DRAWN_LIMITS),
    "fast-68": Run(WEIGHTS / "fast-68.safetensors", PHOTOS),
}
"""By the name of the run's folder."""

DRAWN = "synthetic:1000#seed=7"
"""Drawn faces behind a calibration, beside photos."""


def averaged(checkpoints: Sequence[Path]) -> Pretrained:
    """The model of the first checkpoint with the mean of the weights of all."""
    models = [load_pretrained(path) for path in checkpoints]
    first = models[0]
    if any(m.layout != first.layout or m.model.config != first.model.config for m in models):
        raise SystemExit("checkpoints of different models cannot be averaged: name those of one configuration.")
    states = [m.model.state_dict() for m in models]
    mean = {name: torch.stack([s[name].double() for s in states]).mean(0).to(value) for name, value in states[0].items()}
    first.model.load_state_dict(mean)
    return first


def main(checkpoints: Sequence[Path], spec: str, *calibrating: str) -> None:
    """Keeps the weights of checkpoints, the first of them in the folder of its run, scored on the faces of `spec`.

    Args:
        checkpoints: one, or several that are averaged.
        spec: faces that it is scored on.
        calibrating: sets that its calibration is fitted on; the training split of `spec` and drawn faces if none is named.
    """
    trained = checkpoints[0]
    run = trained.resolve().parent.name
    target, data, licence, made, limits = RUNS[run]
    name = target.stem if target.parent.parent.name == "ldeq" else run
    settings = read(trained.parent / "config.yaml")
    source = averaged(checkpoints)
    with tempfile.TemporaryDirectory() as folder:
        rounded = Path(folder) / "rounded.safetensors"
        save_weights(rounded, source.model, source.layout, settings, dtype=torch.bfloat16)
        kept = load_pretrained(rounded)
    faces = LandmarkDataset(
        open_faces(spec, "test"),
        kept.model.config.image_size,
        cast(CropRule, kept.crop_rule),
        kept.crop_scale,
        on_error="replace",
    )
    evaluation = evaluate(kept.model, faces, weights=f"model {name} (bf16 weights, moving average)")
    card = {"data": data, "licence": licence, **evaluation.summary, "protocol": evaluation.protocol}
    save_weights(target, kept.model, kept.layout, settings, {"card": card}, torch.bfloat16)
    sets = [open_faces(each, "train") for each in calibrating or (f"{spec.partition('#')[0]}#train", DRAWN)]
    add_calibration(target, target, calibrate(kept, sets))
    facts = {
        **card,
        "parameters": sum(p.numel() for p in kept.model.parameters()) / 1e6,
        "size": kept.model.config.image_size,
        "crop": f"{kept.crop_rule} x {kept.crop_scale:g}",
        "run": run,
        "name": name,
        "preset": "small" if kept.model.config.width == LDEQConfig.small().width else f"of width {kept.model.config.width}",
        "landmarks": f"{kept.layout.count} landmarks ({kept.layout.name})",
        "limits": limits,
        "made": made or f"`ldeq train configs/{run}.yaml`",
    }
    target.with_suffix(".md").write_text(CARD.format(**facts))

    results = ROOT / "docs" / "results" / run
    results.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        for path in write_report(evaluation, faces, Path(folder)):
            if path.name != "worst.png":  # shows research photos
                shutil.copy(path, results / path.name)
    for file in ("config.yaml", "log.jsonl"):
        shutil.copy(trained.parent / file, results / file)
    print(json.dumps(card, indent=1))


if __name__ == "__main__":
    main([Path(name) for name in sys.argv[1].split(",")], *sys.argv[2:])
