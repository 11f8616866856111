from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from ldeq.data import Augmentation, DataError, FaceRecord, FaceSet, write_image
from ldeq.data.clips import Clip, SequenceDataset, usable
from ldeq.data.layouts import WFLW98
from ldeq.data.synthetic import SyntheticFaces
from ldeq.data.turned import TurnedFaces
from ldeq.data.turned.faces import SIZE


@pytest.fixture(autouse=True)
def drawn_faces_may_touch_the_edge(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ldeq.data.clips.clip.usable", lambda *given, **named: usable(*given, margin=0.0, **named))


@pytest.fixture
def photos(tmp_path: Path) -> FaceSet:
    faces = SyntheticFaces(5, seed=3, size=192)
    records = []
    for i in range(5):
        write_image(tmp_path / f"photo{i}.png", faces.read(i))
        records.append(FaceRecord(tmp_path / f"photo{i}.png", faces.record(i).points))
    return FaceSet("drawn", WFLW98, records)


def frontal(photos: FaceSet) -> int:
    return next(i for i in range(len(photos)) if usable(photos.record(i).points, WFLW98, (192, 192), 0.0) is None)


def test_a_window_has_the_landmarks_of_the_whole_clip(photos: FaceSet) -> None:
    i = frontal(photos)
    arguments: Any = (photos.read(i), photos.record(i).points, WFLW98, "hard", 7, [photos.read(0)])
    whole = Clip(*arguments, frames=40)
    part = Clip(*arguments, frames=40, window=(23, 4))
    assert len(part) == 4
    assert np.array_equal(part.landmarks, whole.landmarks[23:27])
    assert np.array_equal(part.boxes, whole.boxes[23:27])
    assert [frame.shape for frame in part.frames()] == [next(whole.frames()).shape] * 4
    with pytest.raises(ValueError, match="window must lie within the 40 frames, got first 38 and count 4"):
        Clip(*arguments, frames=40, window=(38, 4))


def test_a_clip_without_noise_is_otherwise_the_same(photos: FaceSet) -> None:
    i = frontal(photos)
    arguments: Any = (photos.read(i), photos.record(i).points, WFLW98, "hard", 7)
    noisy, quiet = Clip(*arguments, frames=12), Clip(*arguments, frames=12, noise=False)
    assert np.array_equal(noisy.landmarks, quiet.landmarks)
    assert quiet.settings.noise == 0 and noisy.settings.noise >= 4
    for a, b in zip(noisy.frames(), quiet.frames(), strict=True):
        # Clipping at black and white shifts the mean a little; the deviation is what the settings say of mid-grey.
        difference = a.astype(np.float64) - b
        assert abs(difference.mean()) < 1.0
        assert 0.3 * noisy.settings.noise < difference.std() < 1.5 * noisy.settings.noise


def test_a_sequence_depends_on_seed_epoch_and_index_alone(photos: FaceSet) -> None:
    light = Augmentation.light()
    a, b = (SequenceDataset(photos, 64, 3, augmentation=light, seed=5) for _ in range(2))
    b[1]  # what was drawn before must not matter
    assert torch.equal(a[0]["image"], b[0]["image"]) and torch.equal(a[0]["landmarks"], b[0]["landmarks"])
    b.set_epoch(1)
    assert not torch.equal(a[0]["landmarks"], b[0]["landmarks"])
    other = SequenceDataset(photos, 64, 3, augmentation=light, seed=6)
    assert not torch.equal(a[0]["landmarks"], other[0]["landmarks"])


def test_the_crop_is_that_of_the_first_frame_and_holds_for_all(photos: FaceSet) -> None:
    item = SequenceDataset(photos, 64, 4, crop_scale=1.25, seed=2)[0]
    assert item["image"].shape == (4, 3, 64, 64) and item["image"].dtype == torch.uint8
    assert item["landmarks"].shape == (4, 98, 2) and item["landmarks"].dtype == torch.float32
    extent = item["landmarks"].amax(1) - item["landmarks"].amin(1)
    assert float(extent[0].max()) == pytest.approx(1 / 1.25, abs=1e-3)
    # The face moves in it, and by no more than a face does in a few frames.
    steps = (item["landmarks"][1:] - item["landmarks"][:-1]).norm(dim=-1)
    assert 1e-5 < float(steps.max()) < 0.2


def test_a_mirrored_sequence_swaps_left_and_right(photos: FaceSet) -> None:
    plain = SequenceDataset(photos, 64, 2, seed=4)[0]
    mirrored = SequenceDataset(photos, 64, 2, augmentation=Augmentation(flip_p=1.0), seed=4)[0]
    # OpenCV rounds source places to 1/32 pixel, and a mirrored place the other way.
    difference = (mirrored["image"].float() - plain["image"].flip(-1).float()).abs()
    assert float(difference.mean()) < 1.0
    assert float((mirrored["image"].float() - plain["image"].float()).abs().mean()) > 10.0
    expected = plain["landmarks"][:, WFLW98.mirror_index].clone()
    expected[..., 0] = 63 / 64 - expected[..., 0]
    assert torch.allclose(mirrored["landmarks"], expected, atol=1e-6)


def test_photos_that_cannot_be_moved_or_read_are_left_out(photos: FaceSet, tmp_path: Path) -> None:
    good = SequenceDataset(photos, 64, 2)
    (tmp_path / "broken.png").write_bytes(b"no picture")
    points = photos.record(frontal(photos)).points
    records = [FaceRecord(tmp_path / "broken.png", points), *(photos.record(i) for i in range(len(photos)))]
    dataset = SequenceDataset(FaceSet("with a broken one", WFLW98, records), 64, 2)
    assert len(dataset) == len(good) > 0
    assert dataset.describe(0) == good.describe(0)
    with pytest.raises(DataError, match="none of the photos of cut can be moved"):
        SequenceDataset(FaceSet("cut", WFLW98, [FaceRecord(r.image, r.points - 300) for r in records[1:]]), 64, 2)
    with pytest.raises(ValueError, match="at least 2 frames, not 1"):
        SequenceDataset(photos, 64, 1)


def test_before_a_face_seen_from_the_side_the_camera_alone_moves(photos: FaceSet) -> None:
    turned = TurnedFaces(photos, 8)
    sides = [i for i in range(len(turned)) if usable(turned.record(i).points, WFLW98, (SIZE, SIZE)) is not None]
    assert len(sides) > 8
    sequences = SequenceDataset(turned, 64, 3, seed=2)
    assert len(sequences) == len(turned)
    for index in sides[:3]:
        item = sequences[index]
        frames = item["landmarks"].double().numpy() @ (1, 1j)
        assert np.abs(frames[2] - frames[0]).max() > 1e-4
        for frame in frames[1:]:
            # A camera shifts, turns and resizes: a map z -> a z + b.
            design = np.stack([frames[0], np.ones(len(frame))], 1)
            map_, *_ = np.linalg.lstsq(design, frame, rcond=None)
            assert np.abs(design @ map_ - frame).max() < 1e-6


def test_pixels_of_a_face_seen_from_the_side_move_with_its_labels(photos: FaceSet) -> None:
    turned = TurnedFaces(photos, 8)
    side = next(i for i in range(len(turned)) if usable(turned.record(i).points, WFLW98, (SIZE, SIZE)) is not None)
    given = turned.read(side), turned.record(side).points, WFLW98, "easy", 3
    with pytest.raises(ValueError, match="from the side|folds back"):
        Clip(*given)
    clip = Clip(*given, frames=40, noise=False, rigid=True)
    first, last = (frame.mean(-1) for frame in (list(clip.frames())[k] for k in (0, -1)))
    before, after = (clip.landmarks[k].astype(float) for k in (0, -1))
    matrix, *_ = cv2.estimateAffinePartial2D(before, after, method=cv2.LMEDS)
    assert np.abs(before @ matrix[:, :2].T + matrix[:, 2] - after).max() < 0.02
    moved = cv2.warpAffine(first, matrix, last.shape[::-1], borderMode=cv2.BORDER_REPLICATE)
    (x1, y1), (x2, y2) = after.min(0).astype(int), after.max(0).astype(int)
    alike = [np.corrcoef(image[y1:y2, x1:x2].ravel(), last[y1:y2, x1:x2].ravel())[0, 1] for image in (moved, first)]
    assert alike[0] > 0.97 > alike[1]
