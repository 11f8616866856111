"""Inference of small-68 and of the paper's size by each engine, against onnxruntime on the exported model."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from inference import accuracy, compare
from record import save

from ldeq.data import crop_box, load_300w, transform_points, warp
from ldeq.data.crop import crop_matrix
from ldeq.engine import load_pretrained
from ldeq.models import LDEQ, LDEQConfig

ROUNDS = {1: 31, 4: 15, 16: 7}


def test_engines(device: str) -> None:
    if device != "cpu":
        pytest.skip("the engines serve CPUs")
    torch.manual_seed(0)
    small = load_pretrained("small-68").model.with_solver(tol=0.0)
    paper = LDEQ(LDEQConfig.paper_video(tol=0.0)).eval().requires_grad_(False)
    results = {}
    for count in (1, 2):
        for batch, rounds in ROUNDS.items():
            for what, evaluations in (("forward", 1), ("full solve", 4)):
                row = compare(small, batch, evaluations, count, rounds)
                results[f"small-68, {what}, batch {batch}, {count} thread{'s' * (count > 1)}"] = row
        for batch, rounds in ((1, 7), (4, 3)):
            row = compare(paper, batch, 1, count, rounds)
            results[f"paper's size, forward, batch {batch}, {count} thread{'s' * (count > 1)}"] = row
    isa = torch.backends.cpu.get_cpu_capability()
    # With two threads an operator waits for the slower one: beside busy processes these rows say how an engine bears that.
    load = os.getloadavg()[1]
    # Spinning threads of torch take the cores from onnxruntime's in the same process; commands let them sleep (ldeq.waiting).
    waiting = "asleep" if os.environ.get("OMP_WAIT_POLICY", "").lower() == "passive" else "spinning"
    what = (
        f"inference by engine, fp32, {isa}, load {load:.0f} in the last five minutes, torch's threads wait {waiting}; forward: "
        "stem and one evaluation; full solve: four; processor time with one thread"
    )
    save("inference" if waiting == "spinning" else "inference_asleep", what, results, isa=isa, load=load)


def test_engines_agree_on_photos(device: str) -> None:
    given = os.environ.get("LDEQ_300W")
    root = Path(given).expanduser() if given else Path(__file__).resolve().parents[1].parent / "shared" / "data" / "300w"
    if device != "cpu" or not root.is_dir():
        pytest.skip("needs a CPU and the photos of 300-W: set LDEQ_300W to its folder")
    pretrained, faces = load_pretrained("small-68"), load_300w(root, "helen-test")
    records = [faces.record(i) for i in range(len(faces))]
    maps = [crop_matrix(crop_box("landmarks", points=r.points, scale=pretrained.crop_scale), 128) for r in records]
    crops = np.stack([warp(faces.read(i), m, 128) for i, m in enumerate(maps)])
    truth = np.stack([transform_points(m, r.points) for m, r in zip(maps, records, strict=True)])
    results = accuracy(pretrained.model, crops, truth, pretrained.layout.outer_eyes)
    save("inference_accuracy", f"engines of small-68 on the {len(crops)} photos of HELEN test", results)
