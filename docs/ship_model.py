"""Makes a shipped model from a finished run: rounds to bf16, scores that, writes weights, card and report.

python docs/ship_model.py small-68 runs/small-300w/step-00006000.safetensors '300w:~/300w#helen-test'
python docs/ship_model.py small-68-video runs/small-300w-video/step-00003096.safetensors '300w:~/300w#helen-test'
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from pathlib import Path

import torch

from ldeq.data import LandmarkDataset, open_faces
from ldeq.engine import checkpoint, evaluate, load_pretrained
from ldeq.engine.report import write_report
from ldeq.engine.settings import from_mapping
from ldeq.engine.weights import save_weights

ROOT = Path(__file__).parents[1]

CARD = """# {name}

LDEQ `small`: {parameters:.2f} M parameters, 68 landmarks (300-W), crops of {size} pixels. Weights are stored in bf16.

| | |
| --- | --- |
| trained on | {data} |
| licence of that data | {licence} |
| crop | {crop} |
| made by | `ldeq train configs/{run}.yaml`; settings, log and report in `docs/results/{run}` |
| score | NME {nme:.2f} %, FR10 {fr10:.2f} %, AUC10 {auc10:.3f} |
| protocol | {protocol} |

Not for: faces turned by more than about 60 degrees, faces under 30 pixels, identification, or any judgement of a person. The
photos are few and not balanced in age, skin or pose; expect larger errors on what they lack.
"""

PHOTOS = "HELEN train and AFW with the 300-W annotation, 1,207 photos"
MODELS = {
    "small-68": ("small-300w", PHOTOS),
    "small-68-video": (
        "small-300w-video",
        f"{PHOTOS}; then, from small-68, those of them that can be set in motion, as sequences of six frames; no video",
    ),
}
"""Name -> the run that made it, and what it was trained on."""

FACTS = {
    "licence": "research use only: the photos of HELEN and AFW are for research, and so is this model",
}


def main(name: str, trained: Path, spec: str) -> None:
    """Ships `trained` as `name`, scored on the faces of `spec`."""
    run, data = MODELS[name]
    _, document = checkpoint.load(trained)
    settings = from_mapping(document["settings"])
    source = load_pretrained(trained)
    with tempfile.TemporaryDirectory() as folder:
        rounded = Path(folder) / f"{name}.safetensors"
        save_weights(rounded, source.model, source.layout, settings, dtype=torch.bfloat16)
        shipped = load_pretrained(rounded)
    faces = LandmarkDataset(
        open_faces(spec, "test"), shipped.model.config.image_size, shipped.crop_rule, shipped.crop_scale, on_error="replace"
    )
    evaluation = evaluate(shipped.model, faces, weights=f"model {name} (bf16 weights, moving average)")
    score = evaluation.summary
    card = {"data": data, **FACTS, **score, "protocol": evaluation.protocol}
    target = ROOT / "ldeq" / "weights" / f"{name}.safetensors"
    save_weights(target, shipped.model, shipped.layout, settings, {"card": card}, torch.bfloat16)
    parameters = sum(p.numel() for p in shipped.model.parameters()) / 1e6
    crop = f"{shipped.crop_rule} x {shipped.crop_scale:g}"
    facts = {**card, "parameters": parameters, "size": shipped.model.config.image_size, "crop": crop, "run": run, "name": name}
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
    main(sys.argv[1], Path(sys.argv[2]), sys.argv[3])
