"""Frames a second of a video with RwR and without, small and paper size, every stage apart."""

from __future__ import annotations

from functools import partial

import torch
from record import save
from video import speed

from ldeq.engine.weights import load_pretrained
from ldeq.models import LDEQ, LDEQConfig

# On a CPU a frame of the paper's model takes seconds.
FRAMES = {"cpu": {"small": 100, "paper": 8}, "cuda": {"small": 300, "paper": 300}}

CLIP = (1280, 720)


def test_speed(device):
    torch.manual_seed(0)
    models = {"small": load_pretrained("small-68", device).model, "paper": LDEQ(LDEQConfig.paper_video()).to(device).eval()}
    results: dict[str, dict[str, float]] = {}
    for size, model in models.items():
        found = speed(model, FRAMES[device][size], CLIP, tell=partial(print, f"{size},"))
        results |= {f"{size} ({model.config.image_size} px), {name}": entry for name, entry in found.items()}
    what = f"a video of {CLIP[0]} x {CLIP[1]} with one face, fp32; small-68 and the paper's size with weights at random"
    save("video_speed", what, results, device)
