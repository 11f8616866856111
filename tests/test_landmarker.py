"""The face of the library: a picture in, points in the picture's pixels out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from ldeq import Landmarker, LDEQConfig
from ldeq.data import IBUG68, WFLW98, ImageError, LandmarkDataset, crop_box, normalise, open_faces, write_image
from ldeq.engine import CheckpointError, load_pretrained, shipped_models
from ldeq.engine.settings import TrainSettings
from ldeq.engine.weights import find_weights, save_weights
from ldeq.models import LDEQ


@pytest.fixture(scope="module")
def small() -> Landmarker:
    return Landmarker.load("small-68", "cpu")


def test_the_shipped_model_is_small_and_states_what_it_was_trained_on() -> None:
    assert "small-68" in shipped_models()
    assert find_weights("small-68").stat().st_size <= 8 * 2**20
    pretrained = load_pretrained("small-68")
    assert pretrained.layout is IBUG68
    assert pretrained.model.config == LDEQConfig.small(landmarks=68)
    assert "HELEN" in pretrained.card["data"]
    assert "research" in pretrained.card["licence"]
    assert 2.0 < pretrained.card["nme"] <= 3.2
    assert not pretrained.model.training
    assert find_weights("small-68").with_suffix(".md").is_file()


def test_a_model_trained_on_photos_finds_the_eyes_of_drawn_faces(small: Landmarker) -> None:
    """Works without any photo: eye centres of drawn faces, whose labels are exact, from tight boxes."""
    faces = open_faces("synthetic:12#seed=3,size=256", "test")
    errors = []
    for i in range(len(faces)):
        truth = faces.record(i).points
        if faces.record(i).attributes.get("pose") or faces.record(i).attributes.get("occlusion"):
            continue
        (face,) = small(faces.read(i), [[*truth.min(0), *truth.max(0)]])
        for ours, theirs in ((range(36, 42), range(60, 68)), (range(42, 48), range(68, 76))):
            distance = np.linalg.norm(face.points[list(ours)].mean(0) - truth[list(theirs)].mean(0))
            errors.append(distance / WFLW98.inter_ocular(truth))
    assert len(errors) >= 8
    # Half an eye is 0.15 of the inter-ocular distance.
    assert np.median(errors) < 0.08


def test_points_follow_the_picture_when_it_is_shifted(small: Landmarker) -> None:
    faces = open_faces("synthetic:1#seed=5,size=256")
    image, truth = faces.read(0), faces.record(0).points
    box = np.array([*truth.min(0), *truth.max(0)])
    (a,) = small(image, [box])
    shifted = np.zeros((300, 310, 3), np.uint8)
    shifted[30 : 30 + 256, 40 : 40 + 256] = image
    (b,) = small(shifted, [box + [40, 30, 40, 30]])
    # The same pixels in the same crop, so far as the crop lies inside the picture.
    assert np.abs(b.points - a.points - [40, 30]).max() < 0.5


def test_a_face_alone_and_among_others_gives_the_same_points(small: Landmarker) -> None:
    faces = open_faces("synthetic:1#seed=5,size=256")
    box = [60.0, 60.0, 190.0, 200.0]
    others = [[10.0 * i, 5.0, 100.0 + 10 * i, 120.0] for i in range(7)]
    alone = small(faces.read(0), [box])[0]
    among = small(faces.read(0), [*others, box])[-1]
    np.testing.assert_allclose(alone.points, among.points, atol=1e-3)  # pixels; 1e-5 of the crop
    np.testing.assert_allclose(alone.std, among.std, atol=1e-3)


def test_a_trained_model_gives_a_sample_the_same_answer_alone_and_in_a_batch_of_eight() -> None:
    pretrained = load_pretrained("small-68")
    dataset = LandmarkDataset(open_faces("synthetic:8#seed=3,size=256", "test"), pretrained.model.config.image_size)
    images = normalise(torch.stack([dataset[i]["image"] for i in range(8)]))
    with torch.no_grad():
        together = pretrained.model(images)
        for i in range(8):
            alone = pretrained.model(images[i : i + 1])
            assert (alone.landmarks[0] - together.landmarks[i]).abs().max() < 1e-5
            assert (alone.z[0] - together.z[i]).abs().max() < 1e-5
            assert alone.solution.iterations[0] == together.solution.iterations[i]


def test_a_crop_is_taken_whole(small: Landmarker) -> None:
    faces = open_faces("synthetic:1#seed=5,size=256")
    truth = faces.record(0).points
    square = crop_box("landmarks", points=truth)
    x0, y0, side = round(square.x0), round(square.y0), round(square.side)
    image = np.ascontiguousarray(faces.read(0)[max(y0, 0) : y0 + side, max(x0, 0) : x0 + side])
    (cropped,) = small(image, cropped=True)
    assert cropped.points.shape == (68, 2)
    assert cropped.std.shape == (68,)
    assert (cropped.std > 0).all()


def test_a_picture_without_a_face_gives_an_empty_list(small: Landmarker) -> None:
    assert small(np.full((120, 160, 3), 90, np.uint8)) == []


def test_bad_input_is_named(small: Landmarker, tmp_path: Path) -> None:
    image = np.zeros((64, 64, 3), np.uint8)
    with pytest.raises(ImageError, match="absent.jpg"):
        small(tmp_path / "absent.jpg")
    with pytest.raises(ValueError, match=r"RGB uint8 array \(H, W, 3\)"):
        small(np.zeros((64, 64), np.uint8))
    with pytest.raises(ValueError, match=r"boxes must have shape \(N, 4\)"):
        small(image, [1, 2, 3, 4])
    with pytest.raises(ValueError, match="x1 < x2"):
        small(image, [[30, 10, 20, 40]])
    with pytest.raises(ValueError, match="not both"):
        small(image, [[1, 1, 20, 20]], cropped=True)
    with pytest.raises(CheckpointError, match="no shipped model"):
        Landmarker.load("small-86")
    path = tmp_path / "cut.jpg"
    write_image(path, np.random.default_rng(0).integers(0, 255, (64, 64, 3)).astype(np.uint8))
    path.write_bytes(path.read_bytes()[:900])
    with pytest.raises(ImageError, match=r"cut\.jpg"):
        small(path)


def test_weights_in_bf16_come_back_within_their_rounding(tmp_path: Path) -> None:
    settings = TrainSettings(model=LDEQConfig.tiny(landmarks=68))
    model = LDEQ(settings.model)
    save_weights(tmp_path / "a.safetensors", model, IBUG68, settings, {"card": {"data": "none"}}, torch.bfloat16)
    back = load_pretrained(tmp_path / "a.safetensors")
    assert back.card == {"data": "none"}
    assert (back.crop_rule, back.crop_scale) == ("landmarks", 1.2)
    for name, tensor in back.model.state_dict().items():
        if tensor.is_floating_point():
            # bf16 keeps 8 bits: half a unit in the last place is 2**-9 of the value.
            assert tensor.dtype == torch.float32
            torch.testing.assert_close(tensor, model.state_dict()[name], rtol=2**-8, atol=1e-38)


def test_the_three_lines_of_the_readme(tmp_path: Path) -> None:
    faces = open_faces("synthetic:1#seed=5,size=256")
    write_image(tmp_path / "face.jpg", faces.read(0))
    lm = Landmarker.load("small-68")
    found = lm(str(tmp_path / "face.jpg"))
    assert isinstance(found, list)
