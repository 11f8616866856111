"""Every filter gives what it gave: the published figures of steadiness and error are those of its formulas and defaults.

golden/filters.json holds what came out when this was written. A change that means to change a filter writes it anew with
``LDEQ_RECORD=1``, measures again, and says so in the changelog.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

from ldeq.data import IBUG68, WFLW98, Layout
from ldeq.video.filters import FILTERS, filter_track, make_filter

GOLDEN = Path(__file__).parent / "golden" / "filters.json"
SHOWN = (1, 5, 8, 13)
FACE = Path(__file__).parents[1] / "data" / "golden" / "points.json"
# The landmarks of WFLW that lie where those of 300-W do: contour, brows, nose, eyes, lips.
AS_68 = (
    *range(0, 33, 2), *range(33, 38), *range(42, 47), *range(51, 60), 60, 61, 63, 64, 65, 67, 68, 69, 71, 72, 73, 75,
    *range(76, 96),
)  # fmt: skip
CASES = [*((name, IBUG68) for name in FILTERS), ("face-frame", WFLW98)]


def moving_face(layout: Layout) -> tuple[np.ndarray, np.ndarray]:
    """A face that turns, speaks, blinks and is hidden in part for three frames: `(T, K, 2)` pixels and `(T, K)`."""
    face = np.array(json.loads(FACE.read_text()))
    face = face if layout is WFLW98 else face[list(AS_68)]
    rng = np.random.default_rng(7)
    t = np.arange(14.0)
    angle, size = 0.1 * np.sin(t / 3), 1 + 0.05 * np.cos(t / 4)
    turn = np.stack([np.cos(angle), -np.sin(angle), np.sin(angle), np.cos(angle)], -1).reshape(-1, 2, 2) * size[:, None, None]
    points = np.repeat(face[None], len(t), 0)
    for name, opening in layout.openings.items():
        lower = list(opening.lower[1:-1])
        points[:, lower, 1] += (4 if name == "mouth" else 2) * np.abs(np.sin(t / 2))[:, None]
    centre = face.mean(0)
    points = (points - centre) @ np.swapaxes(turn, 1, 2) + centre + np.stack([3 * t, 5 * np.sin(t / 2)], -1)[:, None]
    points += rng.normal(size=points.shape) * 0.8
    points[4, 10] += 30  # a landmark that jumps away and back
    std = rng.uniform(1.5, 4.0, points.shape[:2])
    std[6:9, : layout.count // 2] *= 2.5
    return points, std


@pytest.mark.parametrize(("name", "layout"), CASES, ids=lambda v: v if isinstance(v, str) else v.name)
def test_a_filter_is_what_it_was(name: str, layout: Layout) -> None:
    points, std = moving_face(layout)
    found = filter_track(make_filter(name, layout), points, std, 25.0)[list(SHOWN)] - points[list(SHOWN)]
    key = f"{name} {layout.name}"
    if os.environ.get("LDEQ_RECORD"):
        record = json.loads(GOLDEN.read_text()) if GOLDEN.exists() else {}
        record[key] = np.round(found, 6).tolist()
        GOLDEN.parent.mkdir(exist_ok=True)
        GOLDEN.write_text(json.dumps(record) + "\n")
    before = np.array(json.loads(GOLDEN.read_text())[key])
    np.testing.assert_allclose(found, before, atol=1e-5)
