"""A disk of one mebibyte that can be filled to the last page."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

# A tmpfs gives room by the page.
PAGE = os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 4096


class SmallDisk:
    """A mounted file system.

    Attributes:
        folder: where it is mounted.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._ballast = folder / "ballast"

    def leave(self, room: int) -> None:
        """Fills the disk up to `room` bytes."""
        self._ballast.unlink(missing_ok=True)
        state = os.statvfs(self.folder)
        rest = state.f_bavail * state.f_frsize - room
        assert rest > 0, "the disk is too small for this test"
        with self._ballast.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, rest)

    def files(self) -> dict[str, bytes]:
        """What lies on it, by name."""
        found = (p for p in self.folder.rglob("*") if p.is_file() and p != self._ballast)
        return {str(p.relative_to(self.folder)): p.read_bytes() for p in found}


@contextmanager
def small_disk(folder: Path, size: int = 2**20) -> Iterator[SmallDisk]:
    """Mounts a tmpfs of `size` bytes in a new folder; skips the test where that is not permitted."""
    folder.mkdir()
    try:
        command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
        mounted = subprocess.run(command, capture_output=True, text=True)
    except OSError as error:
        pytest.skip(f"needs mount: {error}")
    if mounted.returncode:
        pytest.skip(f"needs the right to mount a small disk: {mounted.stderr.strip()}")
    try:
        yield SmallDisk(folder)
    finally:
        # Fails if a file on it is still open: its room would be lost until the process ends.
        if subprocess.run(["umount", str(folder)], capture_output=True).returncode:
            subprocess.run(["umount", "--lazy", str(folder)], check=True)
            pytest.fail("a file on the full disk was left open")
