"""Labels that lie beside the pictures' mirror axis: the offset is found, and mirrored samples keep it on its side."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest

from ldeq.data import WFLW98, Augmentation, DataError, FaceRecord, LandmarkDataset, Layout, estimate_axis, open_faces
from ldeq.data.axis import CROP, FEWEST
from ldeq.data.synthetic import SyntheticFaces

COUNT, SIZE = 160, 128


@lru_cache(maxsize=1)
def drawn() -> tuple[list[np.ndarray], list[np.ndarray]]:
    faces = SyntheticFaces(COUNT, seed=5, size=SIZE, difficulty="easy")
    return [faces.read(i) for i in range(COUNT)], [faces.record(i).points for i in range(COUNT)]


class Planted:
    """Drawn faces whose labels lie `offset` of the face's longer side to the right of where they are."""

    name = "planted"
    layout: Layout = WFLW98

    def __init__(self, offset: float, axis: float = 0.0, count: int = COUNT) -> None:
        self.offset, self.axis, self.count = offset, axis, count

    def __len__(self) -> int:
        return self.count

    def read(self, index: int) -> np.ndarray:
        return drawn()[0][index]

    def truth(self, index: int) -> np.ndarray:
        return drawn()[1][index].astype(np.float64)

    def record(self, index: int) -> FaceRecord:
        points = self.truth(index)
        return FaceRecord(None, (points + (self.offset * np.ptp(points, axis=0).max(), 0)).astype(np.float32))


@pytest.mark.parametrize("offset", [-0.01, 0.0044])
def test_a_planted_offset_is_found(offset: float) -> None:
    plain, found = estimate_axis(Planted(0.0)), estimate_axis(Planted(offset))
    assert plain is not None and found is not None
    # Exact labels of faces that are drawn alike on both sides: what chance leaves is within its deviation.
    assert abs(plain.offset) < 3 * plain.deviation
    assert not plain.clear
    # The same faces and their chance: 0.05 pixels of a 128-pixel crop is a tenth of the offset of 300-W.
    assert (found.offset - plain.offset) * CROP == pytest.approx(offset * CROP, abs=0.05)
    assert plain.deviation * CROP < 0.25
    assert ("right" if offset > 0 else "left") in found.text()


def test_too_few_faces_and_no_pairs_give_no_estimate() -> None:
    assert estimate_axis(Planted(0.0, count=FEWEST)) is None
    faces = Planted(0.0)
    faces.layout = Layout("single", 98, tuple(range(98)), (60, 72), {})
    assert estimate_axis(faces) is None


def signed_errors(faces: Planted, augmentation: Augmentation, samples: int = 60) -> tuple[np.ndarray, list[bool]]:
    """Mean of label minus truth along the face's right, of each sample, in pixels of the crop."""
    data = LandmarkDataset(faces, SIZE, augmentation=augmentation)
    errors, flips = [], []
    for index in range(samples):
        item = data[index]
        matrix = item["matrix"].numpy()
        truth = faces.truth(index) @ matrix[:, :2].T + matrix[:, 2]
        right = matrix[:, 0] / np.linalg.norm(matrix[:, 0])
        if item["flipped"]:
            truth, right = truth[WFLW98.mirror_index], -right
        errors.append(float(((item["landmarks"].numpy() * SIZE - truth) @ right).mean()))
        flips.append(item["flipped"])
    return np.array(errors), flips


@pytest.mark.parametrize("turned", [False, True])
def test_mirrored_labels_lie_where_the_others_do(turned: bool) -> None:
    """Before, a label 0.47 pixels to the right of its landmark lay 0.47 pixels to the left of it in every mirrored sample."""
    augmentation = Augmentation(flip_p=0.5, rotation=30 * turned, rotation_p=1.0 * turned, shift=0.1, shift_p=1.0)
    offset = 0.47 / CROP
    errors, flips = signed_errors(Planted(offset, axis=offset), augmentation)
    assert set(flips) == {True, False}
    # Relative to the labels' own place the mean signed error is 0, to float32.
    np.testing.assert_allclose(errors, 0.47, atol=2e-4)
    contradicting, _ = signed_errors(Planted(offset), augmentation)
    assert np.abs(contradicting[flips] + 0.47).max() < 2e-4


def test_the_estimate_makes_mirrored_labels_agree() -> None:
    offset = 0.01
    found = estimate_axis(Planted(offset))
    assert found is not None
    errors, flips = signed_errors(Planted(offset, axis=found.offset), Augmentation(flip_p=0.5))
    gap = errors[flips].mean() - errors[np.logical_not(flips)].mean()
    assert abs(gap) < 6 * found.deviation * CROP  # twice three deviations
    assert abs(gap) < 0.3 * 2 * offset * CROP


def test_sequences_keep_the_labels_on_their_side(tmp_path: Path) -> None:
    from dataclasses import replace

    import torch

    from ldeq.data import FaceSet, write_image
    from ldeq.data.clips import SequenceDataset

    records = []
    for i in range(4):
        picture = np.pad(drawn()[0][i], ((64, 64), (64, 64), (0, 0)))
        write_image(tmp_path / f"{i}.png", picture)
        records.append(FaceRecord(tmp_path / f"{i}.png", drawn()[1][i] + np.float32(64)))
    faces = FaceSet("photos", WFLW98, records)
    mirror = Augmentation(flip_p=1.0)
    plain, moved = (SequenceDataset(replace(faces, axis=a), 64, 2, augmentation=mirror) for a in (0.0, 0.01))
    difference = moved[0]["landmarks"] - plain[0]["landmarks"]
    # Twice the offset, of a face that takes 1 / 1.2 of the crop.
    torch.testing.assert_close(difference[..., 0], torch.full((2, 98), 0.02 / 1.2), atol=1e-5, rtol=0)
    torch.testing.assert_close(difference[..., 1], torch.zeros(2, 98), atol=1e-6, rtol=0)


def test_a_source_says_or_asks_for_its_axis(tree_300w: Path, tree_wflw: Path) -> None:
    assert open_faces(f"300w:{tree_300w}").axis == 0.005  # type: ignore[attr-defined]
    assert open_faces(f"300w:{tree_300w}#axis=0").axis == 0.0  # type: ignore[attr-defined]
    assert open_faces(f"wflw:{tree_wflw}#test,axis=-0.01").axis == -0.01  # type: ignore[attr-defined]
    for bad in ("1", "nan", "right"):
        with pytest.raises(DataError, match="axis in .* is auto or a fraction of the face from -0.05 to 0.05"):
            open_faces(f"wflw:{tree_wflw}#test,axis={bad}")
    with pytest.raises(DataError, match="needs mirror pairs and 40 faces seen from the front"):
        open_faces(f"wflw:{tree_wflw}#test,axis=auto")


def test_real_labels_lie_to_the_right(real_300w: Path) -> None:
    """A model trained with mirrored pictures errs by 0.47, 0.65 and 0.49 pixels to the left on these three."""
    for split in ("helen-train", "afw", "helen-test"):
        found = estimate_axis(open_faces(f"300w:{real_300w}#{split}"), most=400)
        assert found is not None
        assert found.clear
        assert 0.25 < found.offset * CROP < 1.1
    faces = open_faces(f"300w:{real_300w}#helen-test,axis=auto")
    assert 0.003 < faces.axis < 0.008  # type: ignore[attr-defined]
    assert "to the right" in faces.notes[-1]  # type: ignore[attr-defined]
