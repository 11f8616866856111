"""Where a picture file ends: what is whole, what stops one byte early, and what a header says."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ldeq.data import ImageError
from ldeq.data.pictures import read_header, truncated


def encoded(kind: str, **options: object) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 256, (24, 30, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind, **options)
    return file.getvalue()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_a_file_is_whole_to_its_last_byte_and_not_before(kind: str) -> None:
    data = encoded(kind)
    assert not truncated(data)
    assert not truncated(data + b"behind")
    for stop in (len(data) - 1, len(data) - 2, len(data) // 2):
        assert truncated(data[:stop])
    assert not truncated(b"BM" + data[2:10])  # of another format nothing is said


def test_an_end_inside_of_a_thumbnail_is_not_the_end() -> None:
    data = encoded("JPEG")
    thumbnail = encoded("JPEG")
    head = b"\xff\xd8\xff\xe1" + (len(thumbnail) + 2).to_bytes(2, "big") + thumbnail
    assert not truncated(head + data[2:])
    assert truncated(head + data[2:-2])
    # TEM and a second SOI have no length; fill bytes stand before a marker.
    assert not truncated(b"\xff\xd8\xff\x01\xff\xd8\xff\xff\xff\xd9")
    assert truncated(b"\xff\xd8\xff\x01\xff\xd8\xff\xff")
    assert not truncated(b"\xff\xd8\xff\x00\xff\xd0\xff\xd7\xff\xd9")


def test_a_png_ends_behind_the_checksum_of_its_last_chunk() -> None:
    data = encoded("PNG")
    assert data.endswith(b"IEND\xaeB`\x82")
    for cut in range(1, 13):
        assert truncated(data[:-cut])
    assert truncated(b"\x89PNG\r\n\x1a\n")


def test_the_orientation_of_a_header_is_the_one_that_exif_gives(tmp_path: Path) -> None:
    for value in (1, 3, 6, 8):
        exif = Image.Exif()
        exif[0x0112] = value
        (tmp_path / "a.jpg").write_bytes(encoded("JPEG", exif=exif))
        header = read_header(tmp_path / "a.jpg")
        assert (header.height, header.width, header.orientation) == (24, 30, value)
    (tmp_path / "b.png").write_bytes(encoded("PNG"))
    assert read_header(tmp_path / "b.png").orientation == 1


def test_an_orientation_that_is_no_number_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.jpg").write_bytes(encoded("JPEG"))
    for wrong in ("left", None, (6, 8), 6.0):
        monkeypatch.setattr(Image.Image, "getexif", lambda self, wrong=wrong: {0x0112: wrong})
        assert read_header(tmp_path / "a.jpg").orientation == 1


def test_what_is_no_picture_says_what_it_is(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    for content, said in (
        (b"\0\0\0\x18ftypheic" + bytes(20), "it is HEIC, which cannot be read: save it as JPEG or PNG"),
        (b"\0\0\0\x18ftypmif1" + bytes(20), "it is HEIC, which cannot be read: save it as JPEG or PNG"),
        (b"\0\0\0\x18ftypisom" + bytes(20), "it is a video: use ldeq video, or Landmarker.stream"),
        (b"\x1a\x45\xdf\xa3" + bytes(20), "it is a video: use ldeq video, or Landmarker.stream"),
        (b"RIFF\0\0\0\0AVI " + bytes(20), "it is a video: use ldeq video, or Landmarker.stream"),
        (b"words", "it is not a picture in a known format"),
    ):
        path.write_bytes(content)
        with pytest.raises(ImageError) as caught:
            read_header(path)
        assert caught.value.reason == said
    with pytest.raises(ImageError, match="it is a folder"):
        read_header(tmp_path)
    with pytest.raises(ImageError, match="the file does not exist"):
        read_header(tmp_path / "absent.jpg")
    floating = io.BytesIO()
    Image.fromarray(np.zeros((4, 4), np.float32)).save(floating, "TIFF")
    path.write_bytes(floating.getvalue())
    with pytest.raises(ImageError, match="floating numbers: save it with 8 bits a channel"):
        read_header(path)
