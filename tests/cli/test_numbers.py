"""Numbers that no command can use are refused before any work."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("crop", "square"),
        *(("crop-scale", value) for value in ("inf", "nan", "-1", "0", "1e30")),
        *(("batch", value) for value in ("0", "-1", "99999999999999999999")),
        *(("workers", value) for value in ("-1", "100000")),
        ("max-iter", "99999999999999999999"),
        *(("iters", value) for value in ("0", "-1")),
        *(("jitter", value) for value in ("nan", "inf", "-1")),
    ],
)
def test_a_number_that_an_evaluation_cannot_use_is_refused(
    option: str, value: str, weights: Path, refused: Callable[..., str]
) -> None:
    assert f"--{option} must" in refused("eval", weights, "--data", "synthetic:2#size=48", f"--{option}={value}")


@pytest.mark.parametrize("spec", ["2#size=1", "2#size=-5", "2#size=99999999", "1#seed=-1", "0", "-1", "99999999999"])
def test_synthetic_faces_that_cannot_be_drawn_are_refused(spec: str, refused: Callable[..., str]) -> None:
    assert f"synthetic:{spec}" in refused("data", "check", f"synthetic:{spec}")
