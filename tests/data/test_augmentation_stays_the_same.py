"""A seed varies a crop in the same way in every version: a training can be repeated, and its published score with it.

golden/augmentation.json holds what was drawn when this was written. A change that means to vary crops in another way writes
it anew with ``LDEQ_RECORD=1``, and says so in the changelog.
"""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ldeq.data import Augmentation

GOLDEN = Path(__file__).parent / "golden" / "augmentation.json"
PRESETS = ("none", "light", "paper", "strong")
SIZE = 96


def picture() -> np.ndarray:
    y, x = np.mgrid[:SIZE, :SIZE] / SIZE
    channels = [128 + 100 * np.sin(2 * np.pi * (a * x + b * y)) for a, b in ((2, 1), (-1, 3), (3, -2))]
    return np.clip(np.dstack(channels), 0, 255).astype(np.uint8)


def drawn(preset: str, seed: int) -> dict[str, Any]:
    sample = Augmentation.preset(preset).sample(np.random.default_rng(seed), SIZE)
    shown = sample.photometric(picture())
    return {
        "matrix": np.round(sample.matrix, 6).tolist(),
        "flip": sample.flip,
        "lut": None if sample.lut is None else sample.lut[0, ::51].astype(int).tolist(),
        "saturation": round(sample.saturation, 6),
        "blur": round(sample.blur, 6),
        "noise": [round(sample.noise, 6), sample.noise_offset],
        "occluder": [list(sample.occluder or ()), list(sample.occluder_colour)],
        "pixels": shown[5::17, 5::17].astype(int).tolist(),
    }


@pytest.mark.parametrize("preset", PRESETS)
def test_a_variation_is_what_it_was(preset: str) -> None:
    found = [drawn(preset, seed) for seed in range(1 if preset == "none" else 10)]
    if os.environ.get("LDEQ_RECORD"):
        record = json.loads(GOLDEN.read_text()) if GOLDEN.exists() else {}
        GOLDEN.write_text(json.dumps({**record, preset: found}) + "\n")
    before = json.loads(GOLDEN.read_text())[preset]
    for now, was in zip(found, before, strict=True):
        for name in ("flip", "occluder"):
            assert now[name] == was[name], name
        for name in ("matrix", "saturation", "blur", "noise"):
            np.testing.assert_allclose(now[name], was[name], atol=2e-6, err_msg=name)
        assert (now["lut"] is None) == (was["lut"] is None)
        # Another build of a library may round a level the other way.
        if now["lut"] is not None:
            assert np.abs(np.subtract(now["lut"], was["lut"])).max() <= 1
        assert np.abs(np.subtract(now["pixels"], was["pixels"])).max() <= 2


def test_the_presets_are_those_of_the_documents() -> None:
    none = {f.name: 0.0 for f in dataclasses.fields(Augmentation)}
    assert vars(Augmentation()) == vars(Augmentation.none()) == none
    paper = {
        "shift": 30 / 256, "shift_p": 0.5, "flip_p": 0.5, "rotation": 30, "rotation_p": 0.5, "blur": 5, "blur_p": 0.3,
        "occlusion": 0.4, "occlusion_p": 0.5,
    }  # fmt: skip
    assert vars(Augmentation.paper()) == none | paper
    light = {
        "shift": 0.06, "shift_p": 0.8, "rotation": 20, "rotation_p": 0.6, "scale": 0.05, "scale_p": 0.8, "flip_p": 0.5,
        "gamma": 0.2, "brightness": 0.1, "contrast": 0.2, "colour": 0.1, "saturation": 0.3, "jitter_p": 0.5,
    }  # fmt: skip
    assert vars(Augmentation.light()) == none | light
    strong = {
        "shift_p": 0.7, "rotation_p": 0.7, "scale": 0.1, "scale_p": 0.8, "gamma": 0.5, "brightness": 0.15, "contrast": 0.3,
        "colour": 0.15, "saturation": 0.5, "jitter_p": 0.7, "gray_p": 0.1, "noise": 0.06, "noise_p": 0.25,
    }  # fmt: skip
    assert vars(Augmentation.strong()) == none | paper | strong


@pytest.mark.parametrize("name", [f.name for f in dataclasses.fields(Augmentation)])
def test_a_strength_or_probability_is_taken_to_its_bound_and_not_beyond(name: str) -> None:
    bounds = {"scale": 0.35999, "contrast": 1.0, "colour": 1.0, "saturation": 1.0, "occlusion": 1.0}
    top = 1.0 if name.endswith("_p") else bounds.get(name, 1000.0)
    for value in (0.0, top):
        assert getattr(Augmentation(**{name: value}), name) == value
    beyond = [-1e-9, float("nan"), float("inf")]
    if top < 1000:
        beyond.append(top + 2e-5)
    for value in beyond:
        with pytest.raises(ValueError, match=f"^augmentation {name} "):
            Augmentation(**{name: value})


def test_a_change_of_size_is_held_within_its_limit() -> None:
    with pytest.raises(ValueError, match="standard deviation below 0.36"):
        Augmentation(scale=0.3601)
    wide = Augmentation(scale=0.1, scale_p=1)
    factors = [float(np.hypot(*wide.sample(np.random.default_rng(s), 64).matrix[:, 0])) for s in range(800)]
    assert min(factors) == pytest.approx(0.75) and max(factors) == pytest.approx(1.25)


def test_the_region_that_is_read_holds_every_crop() -> None:
    """The corners of the varied crop, seen in the plain one, at the largest shift, turn and the smallest size."""
    for change in (
        Augmentation(shift=0.2, shift_p=1), Augmentation(rotation=30, rotation_p=1), Augmentation(rotation=80, rotation_p=1),
        Augmentation(scale=0.1, scale_p=1), Augmentation(shift=0.1, shift_p=1, rotation=20, rotation_p=1, scale=0.05,
                     scale_p=1),
    ):  # fmt: skip
        farthest = 0.0
        for seed in range(3000):
            matrix = change.sample(np.random.default_rng(seed), 101).matrix
            corners = np.array([[-0.5, -0.5], [100.5, -0.5], [-0.5, 100.5], [100.5, 100.5]]) - matrix[:, 2]
            there = np.linalg.solve(matrix[:, :2], corners.T).T - 50.0
            farthest = max(farthest, float(np.abs(there).max()) / 50.5)
        assert 0.9 * change.reach < farthest <= change.reach + 1e-9
    # What cannot happen reaches nowhere.
    assert Augmentation(shift=0.2, rotation=30, scale=0.1).reach == 1.0
