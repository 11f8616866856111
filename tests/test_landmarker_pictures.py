"""A picture is a picture, whichever library holds it; and many at once are the same as one after another."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from clips import drawn
from PIL import Image

from ldeq import Landmarker
from ldeq.inputs import InputError, picture_from

PICTURE = drawn(3)[0]


@pytest.fixture(scope="module")
def lm() -> Landmarker:
    return Landmarker.load("small-68", "cpu")


def test_arrays_pillow_images_and_tensors_are_the_same_picture(lm: Landmarker) -> None:
    tensor = torch.from_numpy(PICTURE).permute(2, 0, 1)
    held: list[Any] = [Image.fromarray(PICTURE), tensor, tensor.float() / 255, tensor.double() / 255, tensor[:, :, :].clone()]
    for image in held:
        np.testing.assert_array_equal(picture_from(image), PICTURE)
    (want,), (found,) = lm(PICTURE), lm(held[0])
    np.testing.assert_array_equal(found.points, want.points)


def test_a_pillow_image_is_turned_upright_and_made_rgb() -> None:
    image = Image.fromarray(PICTURE)
    image.getexif()[0x0112] = 6  # turned by a quarter
    np.testing.assert_array_equal(picture_from(image), np.rot90(PICTURE, -1))
    assert picture_from(Image.fromarray(PICTURE[..., 0])).shape == PICTURE.shape
    assert picture_from(Image.fromarray(PICTURE).convert("P")).shape == PICTURE.shape


@pytest.mark.parametrize(
    ("image", "sentence"),
    [
        (torch.zeros(4, 4, 3, dtype=torch.uint8), r"got a tensor of shape \(4, 4, 3\)"),
        (torch.zeros(1, 3, 4, 4), r"got a tensor of shape"),
        (torch.zeros(3, 0, 4), r"got a tensor of shape"),
        (torch.full((3, 4, 4), 2.0), r"must lie between 0 and 1, got 2 to 2; undo its normalisation"),
        (torch.full((3, 4, 4), float("nan")), r"must lie between 0 and 1"),
        (torch.zeros(3, 4, 4, dtype=torch.int64), r"tensor of torch.int64; use uint8"),
        (np.zeros((4, 4)), r"image must be a path, a Pillow image, a tensor \(3, H, W\) or an RGB uint8 array"),
        (None, r"got NoneType"),
    ],
)
def test_what_is_no_picture_is_told_in_a_sentence(image: Any, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        picture_from(image)


def test_a_batch_gives_each_picture_its_own_faces(lm: Landmarker) -> None:
    """Pictures of several sizes, one of them without a face."""
    small = np.ascontiguousarray(drawn(4)[0][20:, 10:])
    blank = np.full((64, 80, 3), 127, np.uint8)
    batch = lm.batch([PICTURE, blank, small])
    assert [len(faces) for faces in batch] == [len(lm(PICTURE)), 0, len(lm(small))]
    for faces, picture in zip(batch, (PICTURE, blank, small), strict=True):
        for a, b in zip(faces, lm(picture), strict=True):
            np.testing.assert_allclose(a.points, b.points, atol=1e-2)
    assert lm.batch([]) == []


def test_boxes_of_a_batch_belong_to_their_pictures(lm: Landmarker) -> None:
    box = [[60.0, 60.0, 190.0, 220.0]]
    one, two = lm.batch([PICTURE, PICTURE], [box, [*box, *box]])
    assert (len(one), len(two)) == (1, 2)
    with pytest.raises(InputError, match="one list for each of the 2 pictures, got 1"):
        lm.batch([PICTURE, PICTURE], [box])
    with pytest.raises(ValueError, match="not both"):
        lm.batch([PICTURE], [box], cropped=True)
