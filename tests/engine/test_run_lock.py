"""One training at a time in a folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from ldeq.engine.run_lock import FolderInUse, RunLock, _alive, _holder


def test_two_locks_of_a_folder_exclude_each_other(tmp_path: Path) -> None:
    """Locks belong to open files, so that a second one of this process is refused as another process's is."""
    pytest.importorskip("fcntl")
    refused = pytest.raises(FolderInUse, match=r"^process \d+ on .* trains in .*; wait for it or stop it, or choose another")
    with RunLock(tmp_path), refused:
        RunLock(tmp_path).__enter__()
    (tmp_path / ".lock").write_text("x" * 500)  # of a longer name before
    with RunLock(tmp_path) as lock:
        assert lock.warning is None
        assert len((tmp_path / ".lock").read_text().split()) == 2
        assert (tmp_path / ".lock").read_text().count("x" * 100) == 0
    assert (tmp_path / ".lock").read_text() == ""
    with pytest.raises(FolderInUse, match="cannot write .*; choose another run.out"):
        RunLock(tmp_path / "absent").__enter__()


def test_a_lock_names_its_holder(tmp_path: Path) -> None:
    for text, expected in (("12 host\n", (12, "host")), ("", (0, "")), ("12", (0, "")), ("a b", (0, "")), ("1 2 3", (0, ""))):
        (tmp_path / "lock").write_text(text)
        with open(tmp_path / "lock", "r+b") as file:
            file.read()
            assert _holder(file) == expected
    assert not _alive(0)
    assert _alive(1)  # another user's, or one's own
