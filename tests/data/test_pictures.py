from __future__ import annotations

import os
import pickle
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from ldeq.data import LARGEST_PICTURE, ImageError, pictures, read_header, read_image
from ldeq.data.pictures import truncated


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


def png_header(width: int, height: int) -> bytes:
    """A whole PNG file by its chunks, whose header states any size; its pixels are a few bytes."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = chunk(b"IDAT", zlib.compress(bytes(64)))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + pixels + chunk(b"IEND", b"")


@pytest.mark.parametrize(("width", "height"), [(20_000, 20_000), (11_001, 10_000), (2**31 - 1, 2**31 - 1)])
def test_a_picture_that_does_not_fit_into_memory_is_refused_by_its_header(width: int, height: int, tmp_path: Path) -> None:
    path = tmp_path / "huge.png"
    path.write_bytes(png_header(width, height))
    with pytest.raises(ImageError, match=r"huge.png: .*more than the 110 million.* that are read: make it smaller"):
        read_image(path)


_PEAK = """
import resource, sys
import cv2, numpy
from ldeq.data import read_image
cv2.setNumThreads(0)
read_image(sys.argv[2])  # the libraries are warm
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
image = read_image(sys.argv[1], exif=True)
print(image.nbytes, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024)
"""


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_reading_takes_no_second_copy_of_a_picture(suffix: str, tmp_path: Path) -> None:
    side = 5000
    large, small = tmp_path / f"large{suffix}", tmp_path / f"small{suffix}"
    cv2.imwrite(str(large), np.zeros((side, side, 3), np.uint8))
    cv2.imwrite(str(small), np.zeros((300, 300, 3), np.uint8))
    out = subprocess.run([sys.executable, "-c", _PEAK, large, small], capture_output=True, text=True, check=True).stdout
    size, peak = map(int, out.split())
    assert size == 3 * side * side
    # The pixels themselves, the file and a band; a copy would make it 2.
    assert peak < 1.3 * size


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_a_large_picture_is_the_same_as_a_small_one(suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / f"face{suffix}"
    path.write_bytes(encode(suffix))
    expected = read_image(path)
    calls = []
    monkeypatch.setattr(pictures, "_LARGE", 1)
    monkeypatch.setattr(pictures, "_decode", lambda *given: calls.append(given))
    np.testing.assert_array_equal(read_image(path), expected)
    assert not calls


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_a_large_picture_that_is_damaged_is_not_half_noise(
    suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """OpenCV says nothing when it fails to read into an array."""
    rng = np.random.default_rng(1)
    data, path = encode(suffix, rng.integers(0, 256, (64, 64, 3), np.uint8)), tmp_path / f"face{suffix}"
    same = 0
    for _ in range(60):
        damaged = bytearray(data)
        for place in rng.integers(60, len(data) - 20, 4):
            damaged[place] = rng.integers(256)
        path.write_bytes(damaged)
        answers = []
        for large in (1 << 24, 1):
            monkeypatch.setattr(pictures, "_LARGE", large)
            try:
                answers.append(read_image(path))
            except ImageError:
                answers.append(None)
        assert (answers[0] is None) == (answers[1] is None)
        if answers[0] is not None:
            np.testing.assert_array_equal(*answers)
            same += 1
    assert same < 60 or suffix == ".jpg"  # JPEG has no checksum: damage shows in the picture


def test_a_file_of_absurd_size_is_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "huge.jpg"
    with path.open("wb") as file:
        file.truncate(pictures.LARGEST_FILE + 1)
    with pytest.raises(ImageError, match="the file has more than 536870912 bytes"):
        read_image(path)


def test_pipes_devices_and_odd_names_are_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    for path, reason in (
        (tmp_path / "pipe.jpg", "it is not a plain file"),
        (Path("/dev/zero"), "it is not a plain file"),
        (tmp_path, "it is a folder"),
        (tmp_path / "nul\0.jpg", "NUL"),
        (Path("~nobody-of-this-name/face.jpg"), "home folder"),
        (tmp_path / ("x" * 300 + ".jpg"), "more than 255 bytes"),
    ):
        for read in (read_image, read_header):
            with pytest.raises(ImageError, match=reason):
                read(path)


def test_a_picture_without_pixels_or_of_numbers_is_told(tmp_path: Path) -> None:
    (tmp_path / "empty.png").write_bytes(png_header(0, 0))
    with pytest.raises(ImageError, match=r"empty.png: "):
        read_image(tmp_path / "empty.png")
    Image.fromarray(np.zeros((4, 4), np.float32)).save(tmp_path / "float.tiff")
    with pytest.raises(ImageError, match="its pixels are floating numbers: save it with 8 bits"):
        read_image(tmp_path / "float.tiff")
    (tmp_path / "phone.heic").write_bytes(b"\0\0\0\x18ftypheic" + bytes(100))
    with pytest.raises(ImageError, match="it is HEIC, which cannot be read: save it as JPEG or PNG"):
        read_image(tmp_path / "phone.heic")


def test_one_pixel_is_a_picture(tmp_path: Path) -> None:
    for suffix in (".png", ".jpg", ".bmp", ".webp"):
        path = tmp_path / f"one{suffix}"
        path.write_bytes(encode(suffix, np.full((1, 1, 3), 200, np.uint8)))
        assert read_image(path).shape == (1, 1, 3)


def test_cmyk_has_the_colours_that_other_readers_show(tmp_path: Path) -> None:
    path = tmp_path / "print.jpg"
    colours = np.zeros((48, 64, 3), np.uint8)
    colours[:, :32], colours[:, 32:] = (220, 40, 30), (20, 90, 200)
    Image.fromarray(colours).convert("CMYK").save(path, quality=98)
    assert read_header(path).mode == "CMYK"
    expected = np.asarray(Image.open(path).convert("RGB"), np.float64)
    assert np.abs(read_image(path) - expected).mean() < 3


def test_of_an_animation_the_first_frame_is_read(tmp_path: Path) -> None:
    frames = [Image.fromarray(np.full((20, 30, 3), v, np.uint8)) for v in (40, 120, 220)]
    for name, options in (("a.gif", {}), ("a.png", {}), ("a.webp", {"lossless": True})):
        path = tmp_path / name
        frames[0].save(path, save_all=True, append_images=frames[1:], duration=40, **options)
        image = read_image(path)
        assert image.shape == (20, 30, 3)
        assert np.abs(image.astype(int) - 40).max() <= 2


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_exif_orientation_is_that_of_pillow(orientation: int, tmp_path: Path) -> None:
    from PIL import ImageOps

    path = tmp_path / "turned.jpg"
    path.write_bytes(with_exif(encode(".jpg"), orientation))
    assert read_header(path).orientation == orientation
    with Image.open(path) as image:
        upright = np.asarray(ImageOps.exif_transpose(image).convert("RGB"), np.float64)
    mine = read_image(path, exif=True)
    assert mine.shape == upright.shape
    # The decoders round differently.
    assert np.abs(mine - upright).mean() < 3


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".bmp", ".gif", ".tiff"])
def test_a_damaged_picture_ends_in_a_sentence(suffix: str, tmp_path: Path) -> None:
    rng, data = np.random.default_rng(0), encode(suffix)
    path = tmp_path / f"damaged{suffix}"
    refused = 0
    for _ in range(150):
        damaged = bytearray(data)
        for place in rng.integers(0, min(len(data), 400), 3):
            damaged[place] = rng.integers(256)
        path.write_bytes(damaged)
        try:
            assert read_image(path).ndim == 3
        except ImageError as error:
            refused += 1
            assert "damaged" in str(error)  # the file's name
    assert refused > 0


def test_the_limit_is_that_of_the_documentation() -> None:
    assert LARGEST_PICTURE >= 12_000 * 9_000
