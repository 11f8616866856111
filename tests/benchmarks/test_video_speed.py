"""The benchmark of a video's speed once, at a tiny size."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from ldeq.models import LDEQ, LDEQConfig


@pytest.fixture(autouse=True, scope="module")
def benchmarks_on_the_path():
    folder = str(Path(__file__).parents[2] / "benchmarks")
    sys.path.insert(0, folder)
    yield
    sys.path.remove(folder)


def test_every_pipeline_and_every_stage() -> None:
    import video

    model = LDEQ(LDEQConfig.tiny(landmarks=68, width=16)).eval()
    found = video.speed(model, 3, (96, 64), tell=lambda line: None)
    assert list(found) == list(video.PIPELINES)
    for entry in found.values():
        stages = [entry[f"{stage} ms"] for stage in video.STAGES]
        assert min(stages) > 0
        assert entry["frames/s"] == pytest.approx(1000 / sum(stages))
        assert entry["of the model alone"] == pytest.approx(1000 / entry["model ms"])
    # One evaluation a view with RwR, whatever the budget of a full solve.
    assert [found[name]["evaluations"] for name in ("RwR, 1 view", "RwR, 4 views")] == [1, 4]
    assert found["each frame alone"]["evaluations"] > 1


def test_the_boxes_of_the_clip_are_those_of_its_face(tmp_path: Path) -> None:
    import numpy as np
    import video

    from ldeq.video.reading import VideoReader

    boxes = video.make_clip(tmp_path / "a.mp4", 4, (160, 120))
    with VideoReader(tmp_path / "a.mp4") as reader:
        frames = list(reader)
    assert len(frames) == len(boxes) == 4
    for frame, (x1, y1, x2, y2) in zip(frames, boxes, strict=True):
        assert 0 < x1 < x2 < 160 and 0 < y1 < y2 < 120
        outside = frame.image.copy()
        outside[int(y1) : int(y2), int(x1) : int(x2)] = 0
        inside = frame.image[int(y1) : int(y2), int(x1) : int(x2)]
        assert np.mean(inside) > 60
