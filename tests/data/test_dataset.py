from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from ldeq.data import (
    IBUG68,
    IMAGENET_MEAN,
    IMAGENET_STD,
    Augmentation,
    FaceRecord,
    FaceSet,
    ImageError,
    LandmarkDataset,
    Layout,
    crop_box,
    crop_matrix,
    normalise,
    warp,
)
from ldeq.data.synthetic import SyntheticFaces

Make = Callable[..., FaceSet]


class Spots:
    """Generated faces: black pictures with a bright spot on one landmark."""

    name = "spots"
    layout: Layout = IBUG68

    def __init__(self, landmark: int, side: int = 400) -> None:
        self.landmark, self.side = landmark, side

    def __len__(self) -> int:
        return 6

    def record(self, index: int) -> FaceRecord:
        points = np.random.default_rng(index).uniform(0.4 * self.side, 0.6 * self.side, (68, 2))
        return FaceRecord(None, points.astype(np.float32))

    def read(self, index: int) -> np.ndarray:
        x, y = self.record(index).points[self.landmark]
        ys, xs = np.mgrid[: self.side, : self.side]
        spot = 255 * np.exp(-((xs - x) ** 2 + (ys - y) ** 2) / (2 * (self.side / 100) ** 2))
        return np.dstack([spot.astype(np.uint8)] * 3)


def same(a: dict, b: dict) -> bool:
    return all(torch.equal(torch.as_tensor(a[key]), torch.as_tensor(b[key])) for key in a)


def test_item(make_faces: Make) -> None:
    item = LandmarkDataset(make_faces(), 64)[1]
    assert item["image"].shape == (3, 64, 64)
    assert item["image"].dtype == torch.uint8
    assert item["landmarks"].shape == item["points"].shape == (98, 2)
    assert item["landmarks"].dtype == torch.float32
    assert (item["index"], item["source"], item["skipped"], item["flipped"]) == (1, 1, False, False)
    # Unit coordinates are index / S: the matrix brings picture points to indices.
    points = item["points"].double() @ item["matrix"][:, :2].T + item["matrix"][:, 2]
    torch.testing.assert_close(item["landmarks"], (points / 64).float())
    # Landmarks of a tight crop with scale 1.2 keep a margin of a twelfth.
    extent = item["landmarks"].amax(0) - item["landmarks"].amin(0)
    assert extent.max().item() == pytest.approx(1 / 1.2, abs=1e-5)


@pytest.mark.parametrize("side", [120, 400, 1600])
@pytest.mark.parametrize("landmark", [8, 36, 54])
def test_labels_move_with_pixels_through_the_whole_path(side: int, landmark: int) -> None:
    geometry = Augmentation(shift=0.05, shift_p=1, rotation=30, rotation_p=1, scale=0.1, scale_p=1, flip_p=0.5)
    data = LandmarkDataset(Spots(landmark, side), 64, crop_scale=2.0, augmentation=geometry)
    flips = set()
    for index in range(6):
        item = data[index]
        grey = item["image"][0].double()
        found = torch.stack([(grey.sum(0) * torch.arange(64)).sum(), (grey.sum(1) * torch.arange(64)).sum()])
        found = (found / grey.sum()).numpy()
        name = IBUG68.mirror[landmark] if item["flipped"] else landmark
        assert np.linalg.norm(found - item["landmarks"][name].numpy() * 64) < 0.6
        flips.add(item["flipped"])
    assert flips == {True, False}


def test_variation_depends_on_seed_epoch_and_index_alone(make_faces: Make) -> None:
    faces = make_faces(4)
    first, second, other = (LandmarkDataset(faces, 64, augmentation=Augmentation.strong(), seed=s) for s in (1, 1, 2))
    for _ in range(3):
        second[0]
    assert same(first[2], second[2])
    assert not same(first[2], other[2])
    first.set_epoch(1)
    assert not same(first[2], second[2])
    second.set_epoch(1)
    assert same(first[2], second[2])


@pytest.mark.parametrize("side", [160, 900])
def test_cache_changes_nothing(make_faces: Make, side: int) -> None:
    faces = make_faces(3, side=side)
    plain, cached = (LandmarkDataset(faces, 64, augmentation=Augmentation.strong(), cache=c) for c in (False, True))
    assert cached.preload() == 3
    for epoch in range(3):
        plain.set_epoch(epoch)
        cached.set_epoch(epoch)
        assert all(same(plain[i], cached[i]) for i in range(3))


def test_cache_is_bounded(make_faces: Make) -> None:
    data = LandmarkDataset(make_faces(4), 64, cache=True, cache_bytes=60_000)
    assert 0 < data.preload() < 4
    assert data[3]["image"].shape == (3, 64, 64)


def test_region_gives_the_same_crop_as_the_whole_picture(make_faces: Make) -> None:
    faces = make_faces(2, side=500)
    data = LandmarkDataset(faces, 64)
    for i in range(2):
        square = crop_box("landmarks", points=faces.record(i).points)
        expected = warp(faces.read(i), crop_matrix(square, 64), 64)
        difference = data[i]["image"].permute(1, 2, 0).numpy().astype(int) - expected
        assert np.abs(difference).max() <= 2


def test_workers_give_the_same_samples(make_faces: Make) -> None:
    data = LandmarkDataset(make_faces(4), 32, augmentation=Augmentation.strong())
    loader = DataLoader(data, batch_size=2, num_workers=1, persistent_workers=True)
    seen = []
    for epoch in range(2):
        data.set_epoch(epoch)
        batches = list(loader)
        alone = list(DataLoader(data, batch_size=2))
        assert all(same(a, b) for a, b in zip(batches, alone, strict=True))
        seen.append(batches)
    # Workers that outlive the epoch have to learn of the new one.
    assert not same(seen[0][0], seen[1][0])


def test_unreadable_picture_raises_where_it_must_not_pass(make_faces: Make) -> None:
    data = LandmarkDataset(make_faces(3, broken=(1,)), 32)
    assert data[0]["index"] == 0
    for _ in range(2):
        with pytest.raises(ImageError, match=r"face1.jpg: the file is truncated"):
            data[1]
    assert len(data.skipped) == 1


def test_unreadable_picture_is_replaced_and_marked(make_faces: Make) -> None:
    data = LandmarkDataset(make_faces(4, broken=(1, 2)), 32, on_error="replace")
    item = data[1]
    assert (item["index"], item["source"], item["skipped"]) == (1, 3, True)
    assert torch.equal(item["image"], data[3]["image"])
    assert [path.endswith(f"face{i}.jpg") for i, (path, _) in enumerate(data.skipped, 1)] == [True, True]
    batch = next(iter(DataLoader(data, batch_size=4, num_workers=1)))
    assert batch["skipped"].tolist() == [False, True, True, False]
    assert data.describe(1).endswith("face1.jpg")


def test_no_readable_picture_at_all(make_faces: Make) -> None:
    data = LandmarkDataset(make_faces(2, broken=(0, 1)), 32, on_error="replace")
    for _ in range(2):
        with pytest.raises(ImageError):
            data[0]


def test_labels_are_not_clipped(make_faces: Make) -> None:
    faces = make_faces(1)
    faces.record(0).points[5] = -40, 500
    data = LandmarkDataset(faces, 32, crop="rect")
    assert data[0]["landmarks"][5, 0] < 0
    assert data[0]["landmarks"][5, 1] > 1


def test_precropped_faces_are_taken_whole(make_faces: Make) -> None:
    faces = make_faces(1, side=64)
    record = faces.record(0)
    faces = FaceSet("crops", faces.layout, [FaceRecord(record.image, record.points, precropped=True)])
    item = LandmarkDataset(faces, 64, crop="hih")[0]
    np.testing.assert_array_equal(item["image"].permute(1, 2, 0).numpy(), faces.read(0))
    torch.testing.assert_close(item["landmarks"] * 64, item["points"])


def test_rule_that_the_faces_cannot_serve_is_refused_at_once() -> None:
    with pytest.raises(ValueError, match="crop rule 'rect' needs a rectangle, and this face has none"):
        LandmarkDataset(Spots(0), 64, crop="rect")
    with pytest.raises(ValueError, match="crop rule 'box' is for boxes"):
        LandmarkDataset(Spots(0), 64, crop="box")


def test_face_outside_its_picture_gives_a_black_crop(make_faces: Make) -> None:
    faces = make_faces(1)
    faces.record(0).points[:] += 300
    assert LandmarkDataset(faces, 32)[0]["image"].max() == 0


def test_normalise() -> None:
    images = torch.randint(0, 256, (2, 3, 5, 5), dtype=torch.uint8)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (IMAGENET_MEAN, IMAGENET_STD))
    torch.testing.assert_close(normalise(images), (images.float() / 255 - mean) / std)
    # As pictures lie in memory: pixel by pixel.
    lying = images.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)
    assert torch.equal(normalise(lying), normalise(images))
    assert normalise(lying).stride() == lying.stride()
    with pytest.raises(ValueError, match="takes uint8 images"):
        normalise(images.float())


def test_opencv_reads_what_we_write(make_faces: Make) -> None:
    faces = make_faces(1)
    read = cv2.imread(str(faces.record(0).image))
    assert read is not None
    np.testing.assert_array_equal(faces.read(0), read[..., ::-1])


def test_a_worker_leaves_the_cores_to_the_other_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    monkeypatch.setattr("ldeq.data.dataset.cv2.setNumThreads", asked.append)
    LandmarkDataset(SyntheticFaces(1, size=32), 32)[0]
    assert asked == []
    monkeypatch.setattr("ldeq.data.dataset.get_worker_info", object)
    data = LandmarkDataset(SyntheticFaces(1, size=32), 32)
    data[0], data[0]
    assert asked == [0]
