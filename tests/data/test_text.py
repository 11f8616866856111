"""Text files of every reader: what is no text, or absurdly large, ends in a sentence that names the file and the line."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from ldeq.data import DataError, load_300w, load_wflw, load_wflw_v
from ldeq.data import text as text_module
from ldeq.data.text import decimal, decimals, read_lines, read_text
from ldeq.errors import LdeqError

LIST = Path("WFLW_annotations") / "list_98pt_rect_attr_train_test" / "list_98pt_rect_attr_test.txt"


def lines(path: Path) -> list[tuple[int, str]]:
    return list(read_lines(path))


def test_every_line_end_and_a_byte_order_mark_are_taken(tmp_path: Path) -> None:
    path = tmp_path / "list.txt"
    for data in (b"one\ntwo\n", b"one\r\ntwo\r\n", b"one\rtwo", b"\xef\xbb\xbfone\ntwo"):
        path.write_bytes(data)
        assert lines(path)[:2] == [(1, "one"), (2, "two")]
    assert read_text(path) == "one\ntwo"
    path.write_bytes(b"")
    assert lines(path) == []


@pytest.mark.parametrize("read", [lines, read_text])
@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"one\nca\xe9\n", r"byte 3 of line 2 of .*list.txt is 0xe9, which is not UTF-8: save the file as UTF-8"),
        (b"one\nt\0o\n", r"line 2 of .*list.txt holds a NUL byte"),
        ("one\ntwo".encode("utf-16"), r"list.txt is UTF-16: save it as UTF-8"),
        ("one\ntwo".encode("utf-16-be"), r"line 1 of .*list.txt holds a NUL byte"),
    ],
)
def test_what_is_no_utf_8_names_line_and_byte(
    read: Callable[[Path], object], data: bytes, message: str, tmp_path: Path
) -> None:
    path = tmp_path / "list.txt"
    path.write_bytes(data)
    with pytest.raises(DataError, match=message):
        read(path)


def test_a_line_without_an_end_does_not_fill_the_memory(tmp_path: Path) -> None:
    path = tmp_path / "list.txt"
    path.write_bytes(b"one\n" + b"7" * (text_module.LONGEST_LINE + 1))
    with pytest.raises(DataError, match=r"line 2 of .*list.txt has more than 1048576 bytes"):
        lines(path)
    path.write_bytes(b"one\n" + b"7" * text_module.LONGEST_LINE)
    assert [len(text) for _, text in lines(path)] == [3, text_module.LONGEST_LINE]


@pytest.mark.parametrize("read", [lines, read_text])
def test_a_file_of_absurd_size_is_refused_unread(read: Callable[[Path], object], tmp_path: Path) -> None:
    path = tmp_path / "list.txt"
    with path.open("wb") as file:
        file.truncate(text_module.LARGEST_LIST + 1)  # a hole: no bytes on the disk
    with pytest.raises(DataError, match=r"list.txt has 536870913 bytes, more than the \d+ that are read"):
        read(path)


@pytest.mark.parametrize("read", [lines, read_text])
def test_pipes_devices_and_folders_are_refused_without_waiting(read: Callable[[Path], object], tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path, message in (
        (tmp_path / "pipe", "is not a plain file"),
        (Path("/dev/zero"), "is not a plain file"),
        (tmp_path, "is a folder"),
        (tmp_path / "nowhere", "cannot read .*nowhere: no such file or directory; check the path"),
        (Path(tmp_path / "nul\0"), "NUL"),
        (Path("~nobody-of-this-name/list.txt"), "names a home folder that does not exist"),
        (tmp_path / ("x" * 300), "more than 255 bytes"),
    ):
        with pytest.raises(LdeqError, match=message):
            read(path)


def test_a_wflw_list_with_a_byte_that_is_no_text(tree_wflw: Path) -> None:
    path = tree_wflw / LIST
    path.write_bytes(path.read_bytes().replace(b"Parade/two", b"Parade/tw\xf6"))
    with pytest.raises(DataError, match=r"of line 3 of .*list_98pt_rect_attr_test.txt is 0xf6, which is not UTF-8"):
        load_wflw(tree_wflw, "test")


def test_a_pts_file_that_is_no_text_is_one_face_left_out(tree_300w: Path) -> None:
    path = tree_300w / "helen" / "trainset" / "a.pts"
    path.write_bytes(b"\xff" + path.read_bytes())
    faces = load_300w(tree_300w, "helen-train")
    assert len(faces) == 3
    assert [(Path(p).name, "byte 1 of line 1" in reason) for p, reason in faces.skipped] == [("a.pts", True)]


def test_a_list_of_videos_that_is_no_text(tmp_path: Path) -> None:
    for folder in ("videos", "bboxes", "landmarks"):
        (tmp_path / folder).mkdir()
    (tmp_path / "easy.txt").write_bytes(b"a\n\xe9\n")
    with pytest.raises(DataError, match=r"byte 1 of line 2 of .*easy.txt"):
        load_wflw_v(tmp_path, "easy")


@pytest.mark.parametrize("word", ["1_0", "١٢", "１２", "1,5", "0x10", "ten", ""])
def test_a_number_that_only_python_reads_is_no_label(word: str) -> None:
    with pytest.raises(ValueError):
        decimals(["1.5", word])


def test_numbers_of_labels_are_decimals_with_sign_and_exponent() -> None:
    assert decimals(["1.5", "-2", "+3e2", ".25"]).tolist() == [1.5, -2.0, 300.0, 0.25]
    assert np.isnan(decimal("nan"))
