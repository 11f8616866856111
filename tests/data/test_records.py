from __future__ import annotations

import pickle
import struct
from pathlib import Path

import cv2
import numpy as np
import pytest

from ldeq.data import ImageError, read_image
from ldeq.data.records import truncated


def encode(suffix: str, image: np.ndarray | None = None) -> bytes:
    if image is None:
        small = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
        image = cv2.resize(small, (80, 60), interpolation=cv2.INTER_CUBIC)
    return cv2.imencode(suffix, image)[1].tobytes()


def with_exif(jpeg: bytes, orientation: int, thumbnail: bytes = b"") -> bytes:
    tiff = b"II*\0" + struct.pack("<IHHHIHHI", 8, 1, 0x0112, 3, 1, orientation, 0, 0)
    body = b"Exif\0\0" + tiff + thumbnail
    return jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body + jpeg[2:]


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp"])
@pytest.mark.parametrize("keep", [0.3, 0.9])
def test_truncated_picture_is_refused(tmp_path: Path, suffix: str, keep: float) -> None:
    data = encode(suffix)
    assert not truncated(data)
    path = tmp_path / f"half{suffix}"
    path.write_bytes(data[: int(keep * len(data))])
    with pytest.raises(ImageError, match=r"half.*truncated, its end is missing"):
        read_image(path)


def test_end_marker_of_a_thumbnail_is_not_the_end_of_the_picture(tmp_path: Path) -> None:
    data = with_exif(encode(".jpg"), 1, thumbnail=encode(".jpg", np.zeros((16, 16, 3), np.uint8)))
    assert not truncated(data)
    assert truncated(data[:-40])


def test_bytes_after_the_end_are_no_fault() -> None:
    assert not truncated(encode(".jpg") + bytes(5000))


def test_progressive_jpeg_is_whole() -> None:
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_PROGRESSIVE, 1, cv2.IMWRITE_JPEG_RST_INTERVAL, 2])[1].tobytes()
    assert not truncated(data)
    assert truncated(data[:-2])


@pytest.mark.parametrize(
    ("content", "reason"),
    [(None, "does not exist"), (b"", "is empty"), (b"<html>not found</html>", "not a picture")],
)
def test_other_faults_are_named(tmp_path: Path, content: bytes | None, reason: str) -> None:
    path = tmp_path / "face.jpg"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ImageError, match=reason) as caught:
        read_image(path)
    assert caught.value.path == path
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


def test_exif_orientation_only_where_asked(tmp_path: Path) -> None:
    path = tmp_path / "turned.jpg"
    path.write_bytes(with_exif(encode(".jpg"), 6))
    assert read_image(path).shape == (60, 80, 3)
    assert read_image(path, exif=True).shape == (80, 60, 3)


def test_channels_become_rgb(tmp_path: Path) -> None:
    red = np.zeros((10, 12, 3), np.uint8)
    red[..., 2] = 255
    for name, picture, expected in (
        ("colour", red, (255, 0, 0)),
        ("alpha", np.dstack([red, np.full((10, 12), 128, np.uint8)]), (255, 0, 0)),
        ("grey", np.full((10, 12), 77, np.uint8), (77, 77, 77)),
        ("deep", np.full((10, 12), 77 * 257, np.uint16), (77, 77, 77)),
    ):
        path = tmp_path / f"{name}.png"
        cv2.imwrite(str(path), picture)
        image = read_image(path)
        assert image.dtype == np.uint8
        assert image.shape == (10, 12, 3)
        assert tuple(image[5, 5]) == expected
