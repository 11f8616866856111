from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from ldeq import LDEQConfig

PRESETS = {
    "paper": LDEQConfig.paper,
    "paper_video": LDEQConfig.paper_video,
    "small": LDEQConfig.small,
    "tiny": LDEQConfig.tiny,
}


def fields(config: LDEQConfig, names: str) -> dict[str, object]:
    return {name: getattr(config, name) for name in names.split()}


def test_the_stills_model_has_the_published_values() -> None:
    config = LDEQConfig.paper()
    assert fields(config, "landmarks image_size heatmap_size width width_increment depth groups") == {
        "landmarks": 98, "image_size": 256, "heatmap_size": 64, "width": 264, "width_increment": 24, "depth": 4, "groups": 8,
    }  # fmt: skip
    assert fields(config, "beta eps solver max_iter tol m mixing stop gradient phantom_steps final_evaluation") == {
        "beta": 0.3, "eps": 1e-4, "solver": "anderson", "max_iter": 5, "tol": 1e-4, "m": 6, "mixing": 1.0, "stop": "relative",
        "gradient": "implicit", "phantom_steps": 1, "final_evaluation": True,
    }  # fmt: skip
    # The backward solve shares the budget and the tolerance of the forward one.
    assert config.backward_max_iter is None
    assert config.backward_tol is None
    # What was a fault is not a default: one ridge for all scales, and no sample waits for its neighbours.
    assert fields(config, "ridge stop_scope returns safeguards") == {
        "ridge": 1e-8, "stop_scope": "sample", "returns": "f", "safeguards": True,
    }  # fmt: skip
    assert LDEQConfig() == config


def test_parity_brings_the_published_loop_back() -> None:
    config = LDEQConfig.paper(parity=True)
    changed = {
        f.name: getattr(config, f.name)
        for f in dataclasses.fields(config)
        if getattr(config, f.name) != getattr(LDEQConfig.paper(), f.name)
    }
    # Five evaluations and two start-up ones; lambda 1e-4 is absolute.
    assert changed == {"max_iter": 7, "ridge": -1e-4, "stop_scope": "batch", "returns": "x", "safeguards": False}


def test_the_video_model_has_the_published_values() -> None:
    config, stills = LDEQConfig.paper_video(), LDEQConfig.paper()
    changed = {
        f.name: getattr(config, f.name)
        for f in dataclasses.fields(config)
        if getattr(config, f.name) != getattr(stills, f.name)
    }
    assert changed == {"solver": "fixed_point", "beta": 0.4, "tol": 5e-4}
    assert config.max_iter == 5
    parity = LDEQConfig.paper_video(parity=True)
    assert parity == dataclasses.replace(config, stop_scope="batch", returns="x")


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_take_overrides_and_stay_frozen(preset: str) -> None:
    config = PRESETS[preset](landmarks=68, tol=1e-3)
    assert (config.landmarks, config.tol) == (68, 1e-3)
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.landmarks = 5  # type: ignore[misc]
    with pytest.raises(TypeError, match="landmark_count"):
        PRESETS[preset](landmark_count=68)


@pytest.mark.parametrize(
    ("preset", "size", "nearest"),
    [
        ("paper", 250, 256), ("paper", 224 + 16, 256), ("paper", 1, 64), ("small", 120, 128), ("small", 100, 96),
        ("tiny", 60, 64), ("tiny", 8, 16), ("tiny", 0, 16), ("tiny", -64, 16),
    ],
)  # fmt: skip
def test_a_size_that_does_not_divide_names_the_nearest_that_does(preset: str, size: int, nearest: int) -> None:
    with pytest.raises(ValueError, match=rf"image_size .* {size}; the nearest is {nearest}$"):
        PRESETS[preset](image_size=size)
    PRESETS[preset](image_size=nearest)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"landmarks": 0}, "landmarks .*0"),
        ({"groups": 7}, "groups = 7"),
        ({"width": 260}, "groups = 8.*260 at level 0"),
        ({"width_increment": 20}, "groups = 8.*284 at level 1"),
        ({"width": 6, "groups": 2, "width_increment": 2}, "the first by 4, got 6"),
        ({"solver": "newton"}, "solver 'newton'.*anderson"),
        ({"gradient": "implict"}, "gradient 'implict'.*implicit"),
        ({"stop": "rel"}, "stop 'rel'.*relative"),
        ({"stop_scope": "mean"}, "stop_scope 'mean'.*sample"),
        ({"returns": "z"}, "returns 'z'"),
        ({"max_iter": 0}, "max_iter must be >= 1, got 0"),
        ({"backward_max_iter": -1}, "backward_max_iter must be >= 1, got -1"),
        ({"tol": -0.1}, "tol must be a finite number >= 0, got -0.1"),
        ({"tol": float("nan")}, "tol must be a finite number >= 0, got nan"),
        ({"mixing": 0.0}, r"mixing must lie in \(0, 1\], got 0.0"),
        ({"mixing": float("nan")}, r"mixing must lie in \(0, 1\], got nan"),
        ({"backward_tol": float("inf")}, "backward_tol must be a finite number >= 0, got inf"),
        ({"stop": "motion"}, "stop 'motion'.*landmarks"),
        (
            {"solver": "fixed_point", "m": 5},
            "m = 5 has no effect with solver 'fixed_point', only with anderson or broyden; .* 6$",
        ),
        ({"solver": "fixed_point", "ridge": -1e-4}, "ridge = -0.0001 has no effect .*'fixed_point', only with anderson"),
        ({"solver": "broyden", "safeguards": False}, "safeguards = False has no effect .*'broyden', only with anderson"),
        ({"solver": "broyden", "mixing": 0.5}, "mixing = 0.5 has no effect .*'broyden', only with anderson or fixed_point"),
        ({"phantom_steps": 3}, "phantom_steps = 3 has no effect with gradient 'implicit', only with jfb; leave it at 1"),
    ],
    ids=str,
)
def test_bad_settings_are_refused_in_one_line_that_names_them(options: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says) as caught:
        LDEQConfig.paper(**options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "options",
    [
        {"solver": "broyden", "m": 9},
        {"solver": "fixed_point", "mixing": 0.5},
        {"m": 5, "ridge": 1e-6, "safeguards": False, "mixing": 0.9, "backward_tol": 1e-3},
        {"gradient": "jfb", "phantom_steps": 3},
        {"stop": "landmarks", "tol": 0.25},
    ],
    ids=str,
)
def test_settings_that_have_an_effect_are_taken(options: dict[str, Any]) -> None:
    assert fields(LDEQConfig.paper(**options), " ".join(options)) == options
