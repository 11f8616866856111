"""The samples of a data set and a seed stay what they were: what a model was trained and scored on can be made again.

golden/samples.json holds their labels and some of their pixels; ``LDEQ_RECORD=1`` writes it anew.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ldeq.data import IBUG68, Augmentation, FaceRecord, FaceSet, LandmarkDataset, write_image
from ldeq.data.clips import SequenceDataset
from ldeq.data.layouts import WFLW98

GOLDEN = Path(__file__).parent / "golden"
KINDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "rect": {"crop": "rect", "crop_scale": 1.1},
    "hih": {"crop": "hih"},
    "varied": {"augmentation": Augmentation.strong(), "seed": 4},
    "wide": {"crop_scale": 3.0, "augmentation": Augmentation(shift=0.4, shift_p=1, rotation=40, rotation_p=1), "seed": 1},
    "small": {"size": 16},
}


@pytest.fixture
def faces(tmp_path: Path) -> FaceSet:
    """Three pictures of waves with a face's landmarks, two of them near an edge; in one the face is large."""
    face = np.array(json.loads((GOLDEN / "points.json").read_text()))
    records = []
    for number, (scale, dx, dy, size) in enumerate(((0.5, 10.0, 20.0, 150), (0.7, -30.0, 90.0, 260), (2.2, 0.0, 0.0, 600))):
        points = (face * scale + (dx, dy)).astype(np.float32)
        y, x = np.mgrid[:size, :size] / 40
        picture = np.dstack([128 + 90 * np.sin(x + 0.3 * number), 128 + 90 * np.sin(y), 128 + 90 * np.cos(x - y)])
        path = tmp_path / f"{number}.png"
        write_image(path, picture.astype(np.uint8))
        low, high = points.min(0), points.max(0)
        records.append(FaceRecord(path, points, rect=(*(low + 3).tolist(), *(high - 5).tolist())))
    return FaceSet("waves", WFLW98, records)


def compared(name: str, found: list[dict[str, Any]]) -> None:
    path = GOLDEN / "samples.json"
    if os.environ.get("LDEQ_RECORD"):
        record = json.loads(path.read_text()) if path.exists() else {}
        record[name] = found
        path.write_text("{\n" + ",\n".join(f"{json.dumps(k)}: {json.dumps(record[k])}" for k in sorted(record)) + "\n}\n")
    before = json.loads(path.read_text())[name]
    for now, was in zip(found, before, strict=True):
        for key, value in was.items():
            if key == "pixels":
                # Another build of a library may round a level the other way.
                assert np.abs(np.subtract(now[key], value)).max() <= 2
            else:
                np.testing.assert_allclose(now[key], value, atol=2e-5, rtol=1e-6, err_msg=key)


@pytest.mark.parametrize("kind", list(KINDS))
@pytest.mark.parametrize("cache", [False, True])
def test_a_sample_is_what_it_was(faces: FaceSet, kind: str, cache: bool) -> None:
    options = {"size": 48, **KINDS[kind], "cache": cache}
    dataset = LandmarkDataset(faces, **options)
    if cache:
        assert dataset.preload() == 3
    found = []
    for epoch in (0, 3):
        dataset.set_epoch(epoch)
        for index in range(3):
            item = dataset[index]
            found.append(
                {
                    "landmarks": np.round(item["landmarks"].numpy()[::9].astype(float), 6).tolist(),
                    "matrix": np.round(item["matrix"].numpy(), 6).tolist(),
                    "pixels": item["image"].numpy()[:, 3::9, 3::9].tolist(),
                    "told": [item["index"], item["source"], item["flipped"], item["skipped"]],
                }
            )
    compared(kind, found)


def test_a_sequence_is_what_it_was(faces: FaceSet) -> None:
    movable = FaceSet("waves", WFLW98, faces.records[::2])
    found = []
    for axis, augmentation, seed in ((0.0, None, 0), (0.0, Augmentation.strong(), 2), (0.02, Augmentation(flip_p=1.0), 2)):
        set_ = SequenceDataset(
            FaceSet("waves", WFLW98, movable.records, axis=axis), 40, 3, augmentation=augmentation, seed=seed
        )
        for epoch in (0, 1):
            set_.set_epoch(epoch)
            item = set_[len(set_) - 1]
            found.append(
                {
                    "landmarks": np.round(item["landmarks"].numpy()[:, ::20].astype(float), 5).tolist(),
                    "told": [item["index"], item["source"], item["skipped"], len(set_)],
                    # Noise is another library's.
                    "pixels": [],
                }
            )
            assert item["image"].shape == (3, 3, 40, 40)
    for entry in found:
        entry.pop("pixels")
    compared("sequence", found)


def test_a_cache_takes_what_fits_to_the_byte(faces: FaceSet) -> None:
    whole = LandmarkDataset(faces, 48, cache=True)
    assert whole.preload() == 3
    assert whole._cache is not None
    sizes = [whole._cache[i][0].nbytes for i in range(3)]
    for room, kept in ((sizes[0], [0]), (sizes[0] - 1, []), (sum(sizes), [0, 1, 2]), (sum(sizes) - 1, [0, 1])):
        dataset = LandmarkDataset(faces, 48, cache=True, cache_bytes=room)
        for i in range(3):
            dataset[i]
        assert dataset._cache is not None
        assert list(dataset._cache) == [i for i in kept if i in dataset._cache] and set(kept[:1]) <= set(dataset._cache)
        assert sum(region[0].nbytes for region in dataset._cache.values()) <= room


def test_arguments_at_their_bounds(faces: FaceSet) -> None:
    assert LandmarkDataset(faces, 8, seed=0)[0]["image"].shape == (3, 8, 8)
    for options, message in (
        ({"size": 7}, "the crop's side must be at least 8 pixels, not 7."),
        ({"size": 8, "seed": -1}, "the seed must not be negative, but is -1."),
        ({"size": 8, "on_error": "skip"}, "on_error must be 'raise' or 'replace', not 'skip'."),
        ({"size": 8, "crop": "box"}, "crop rule 'box' is for boxes that a caller gives: choose 'landmarks', 'hih' or 'rect'."),
    ):
        with pytest.raises(ValueError) as caught:
            LandmarkDataset(faces, **options)  # type: ignore[arg-type]
        assert str(caught.value) == message
    dataset = LandmarkDataset(faces, 8)
    assert dataset[-1]["index"] == dataset[2]["index"] == 2
    assert dataset[-3]["index"] == 0
    for index in (3, -4):
        with pytest.raises(IndexError, match=f"^face {index} of 3.$"):
            dataset[index]
    with pytest.raises(ValueError, match="at least 2 frames, not 1"):
        SequenceDataset(faces, 40, 1)
    with pytest.raises(ValueError, match="holds no face"):
        LandmarkDataset(FaceSet("none", IBUG68, []), 8)
