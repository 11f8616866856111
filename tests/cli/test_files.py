"""Files are replaced as a whole or not at all, and paths that cannot be used are refused in a sentence."""

from __future__ import annotations

import os
import resource
import signal
import stat
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from ldeq.data import DataError, write_image
from ldeq.engine import CheckpointError, checkpoint
from ldeq.files import FileError, is_special, user_path, write_atomically


def names(folder: Path) -> list[str]:
    return sorted(os.listdir(folder))


def test_a_write_that_fails_half_way_leaves_the_old_file_and_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "x.json"
    target.write_text("whole")

    def fail(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(FileError, match=r"cannot write .*x\.json: the disk is full; whatever was saved before is untouched"):
        write_atomically(target, "partial")
    assert target.read_text() == "whole"
    assert names(tmp_path) == ["x.json"]


def test_ctrl_c_during_a_write_leaves_the_old_file_and_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "x.json"
    target.write_text("whole")

    def interrupt(source: Path, place: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_atomically(target, "partial")
    assert target.read_text() == "whole"
    assert names(tmp_path) == ["x.json"]


def test_a_file_that_finds_no_room_never_replaces_a_whole_one(tmp_path: Path) -> None:
    """A real limit of the system, in a process of its own: the write fails after the first blocks."""
    target = tmp_path / "x.bin"
    target.write_bytes(b"whole")
    code = (
        "import sys; from pathlib import Path; from ldeq.files import FileError, write_atomically\n"
        "try: write_atomically(sys.argv[1], bytes(1 << 20))\n"
        "except FileError as error: print(error)"
    )

    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, 1 << 16))

    done = subprocess.run(
        [sys.executable, "-c", code, str(target)], capture_output=True, text=True, check=True, preexec_fn=limit
    )
    assert "file too large; whatever was saved before is untouched" in done.stdout
    assert target.read_bytes() == b"whole"
    assert names(tmp_path) == ["x.bin"]


def test_a_link_stays_a_link_and_its_file_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    target, link = tmp_path / "deep" / "real.json", tmp_path / "link.json"
    target.write_text("old")
    link.symlink_to(Path("deep") / "real.json")
    write_atomically(link, "new")
    assert link.is_symlink()
    assert target.read_text() == "new"
    dangling = tmp_path / "dangling.json"
    dangling.symlink_to(tmp_path / "deep" / "later.json")
    write_atomically(dangling, "first")
    assert dangling.is_symlink()
    assert (tmp_path / "deep" / "later.json").read_text() == "first"
    assert names(tmp_path / "deep") == ["later.json", "real.json"]


def test_links_in_a_circle_are_an_error_and_not_a_hang(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to(tmp_path / "b")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    with pytest.raises(FileError, match="cannot write"):
        write_atomically(tmp_path / "a", "x")
    assert (tmp_path / "a").is_symlink()


@pytest.mark.parametrize("mode", [0o600, 0o644, 0o640, 0o755])
def test_an_existing_file_keeps_its_permissions(mode: int, tmp_path: Path) -> None:
    target = tmp_path / "private.json"
    target.write_text("old")
    target.chmod(mode)
    write_atomically(target, "new")
    assert stat.S_IMODE(target.stat().st_mode) == mode
    assert target.read_text() == "new"


def test_a_new_file_has_the_permissions_that_the_umask_leaves(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_atomically(tmp_path / "x.json", "x")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "x.json").stat().st_mode) == 0o640


def test_a_write_protected_file_is_not_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "x.json"
    target.write_text("mine")
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may write everything
    with pytest.raises(FileError, match="it is write-protected"):
        write_atomically(target, "new")
    assert target.read_text() == "mine"


def test_a_device_is_written_to_and_stays_a_device(tmp_path: Path) -> None:
    assert is_special(Path("/dev/null"))
    write_atomically("/dev/null", "x")
    assert stat.S_ISCHR(Path("/dev/null").stat().st_mode)
    link = tmp_path / "nowhere"
    link.symlink_to("/dev/null")
    write_atomically(link, "x")
    assert link.is_symlink()
    assert stat.S_ISCHR(Path("/dev/null").stat().st_mode)
    if Path("/dev/full").exists():
        with pytest.raises(FileError, match="cannot write /dev/full: the disk is full"):
            write_atomically("/dev/full", "x")


def test_a_pipe_gets_everything_and_without_a_reader_nothing_hangs(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(FileError, match="cannot write"):
        write_atomically(pipe, "x")
    content, got = bytes(range(256)) * 4096, []  # more than a pipe holds at once
    reader = threading.Thread(target=lambda: got.append(pipe.read_bytes()))
    reader.start()
    while not got:
        try:
            write_atomically(pipe, content)
            break
        except FileError:  # the reader is not there yet
            continue
    reader.join()
    assert got == [content]
    assert stat.S_ISFIFO(pipe.stat().st_mode)


def test_the_output_of_the_shell_is_not_replaced_by_a_new_file(tmp_path: Path) -> None:
    """``ldeq ... --json /dev/stdout > log``: a rename would put a new file in the place of the shell's."""
    code = "print('before', flush=True); from ldeq.files import write_atomically; write_atomically('/dev/stdout', 'x')"
    with open(tmp_path / "log", "wb") as log:
        number = os.fstat(log.fileno()).st_ino
        subprocess.run([sys.executable, "-c", code], stdout=log, check=True)
    assert (tmp_path / "log").stat().st_ino == number
    assert names(tmp_path) == ["log"]


def test_a_name_as_long_as_the_file_system_takes_can_be_written(tmp_path: Path) -> None:
    target = tmp_path / ("x" * 250 + ".json")
    write_atomically(target, "whole")
    assert target.read_text() == "whole"
    accented = tmp_path / ("é" * 125 + ".json")
    write_atomically(accented, "whole")
    assert len(names(tmp_path)) == 2


def test_threads_that_write_one_file_leave_one_whole_file(tmp_path: Path) -> None:
    target = tmp_path / "x"
    contents = [bytes([i]) * 100_000 for i in range(8)]
    threads = [threading.Thread(target=write_atomically, args=(target, content)) for content in contents]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert target.read_bytes() in contents
    assert names(tmp_path) == ["x"]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("a\0b.png", r"holds a NUL character"),
        ("~no_such_user_here/x.png", "names a home folder that does not exist"),
        ("~nobody/x.png", "names a home folder that does not exist"),  # its home is named, and is not there
        ("x" * 300, "has more than 255 bytes"),
        ("deep/" + "é" * 130 + "/x.png", "has more than 255 bytes"),
        ("https://host/x.png", "is an address, and a file is needed here"),
        (str(Path("s3://bucket/x.png")), "is an address"),  # of which a path has left one slash
    ],
)
def test_a_path_that_cannot_be_is_refused_in_a_sentence(text: str, sentence: str, tmp_path: Path) -> None:
    with pytest.raises(FileError, match=sentence) as error:
        user_path(text)
    assert "\n" not in str(error.value)
    with pytest.raises(FileError, match=sentence):
        write_atomically(text, "x")


def test_a_path_below_a_file_is_refused_in_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(FileError, match="cannot write .*; whatever was saved before is untouched"):
        write_atomically(tmp_path / "file" / "x.json", "x")
    with pytest.raises(FileError, match="it is a folder"):
        write_atomically(tmp_path, "x")


def test_pictures_and_checkpoints_keep_their_own_errors(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(DataError, match="cannot write"):
        write_image(tmp_path / "file" / "x.png", np.zeros((4, 4, 3), np.uint8))
    with pytest.raises(CheckpointError, match="cannot write"):
        checkpoint.write_atomically(tmp_path / "file" / "x.safetensors", b"x")
