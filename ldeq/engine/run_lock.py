"""One training at a time in a folder: a lock that the system lets go when its process ends, however it ends."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import weakref
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

from ..errors import LdeqError
from ..files import cause

LOCK_NAME = ".lock"
# Windows locks a range of bytes, which nobody can then read: a byte far behind the text.
_LOCKED_BYTE = 1 << 20
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)
"""What a disk answers that knows no locks."""

_held: weakref.WeakSet[RunLock] = weakref.WeakSet()


class FolderInUse(LdeqError, RuntimeError):
    """Another process trains in the folder; the message says which."""


class RunLock:
    """Holds a folder for one process, as a context.

    The lock belongs to an open file, so the system drops it when the process dies: a file that was left behind blocks
    nobody. On a network disk it holds as far as the disk passes locks on. Where there are none, a file that names a living
    process of this machine is respected, and `warning` tells the rest.

    Args:
        folder: of the run; it must exist.

    Raises:
        FolderInUse: on entering, if another process holds it, or the lock's file cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / LOCK_NAME
        self.warning: str | None = None
        self._file: BinaryIO | None = None

    def __enter__(self) -> RunLock:
        try:
            self._file = open(self.path, "a+b")
        except OSError as error:
            raise FolderInUse(f"cannot write {self.path}: {cause(error)}; choose another run.out") from error
        try:
            self._take(self._file)
        except BaseException:
            self._file.close()
            self._file = None
            raise
        self._file.seek(0)
        with contextlib.suppress(OSError):  # on a full disk the lock holds without its text
            self._file.truncate()
            self._file.write(f"{os.getpid()} {socket.gethostname()}\n".encode())
            self._file.flush()
        _held.add(self)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        _held.discard(self)
        if self._file:
            # The file stays: whoever waits for its lock would else hold one that nobody can see.
            with contextlib.suppress(OSError):
                self._file.truncate(0)
            self.close()

    def close(self) -> None:
        """Closes this process's copy of the file."""
        if self._file:
            with contextlib.suppress(OSError):
                self._file.close()
            self._file = None

    def _take(self, file: BinaryIO) -> None:
        try:
            lock_file(file)
        except BlockingIOError:
            raise self._in_use(*_holder(file)) from None
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise FolderInUse(f"cannot lock {self.path}: {cause(error)}; choose another run.out") from error
            process, host = _holder(file)
            if host == socket.gethostname() and process != os.getpid() and _alive(process):
                raise self._in_use(process, host) from None
            self.warning = f"the disk of {self.folder} knows no locks; make sure that no second training uses this folder"

    def _in_use(self, process: int, host: str) -> FolderInUse:
        who = f"process {process} on {host}" if process else "another process"
        return FolderInUse(f"{who} trains in {self.folder}; wait for it or stop it, or choose another run.out")


def lock_file(file: BinaryIO) -> None:
    """Locks a file for its process without waiting.

    Raises:
        BlockingIOError: if another process holds it.
    """
    if os.name == "nt":
        import msvcrt

        file.seek(_LOCKED_BYTE)
        try:
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined, unused-ignore]
        except OSError as error:
            raise BlockingIOError(error.errno, error.strerror) from error
        return
    import fcntl

    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _holder(file: BinaryIO) -> tuple[int, str]:
    """Process and machine that the lock's file names; 0 where it names none."""
    try:
        file.seek(0)
        process, host = file.read(300).decode(errors="replace").split()
        return int(process), host
    except (OSError, ValueError):
        return 0, ""


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except OSError as error:
        return error.errno == errno.EPERM
    return process > 0


def _let_go_in_child() -> None:
    # A forked loader process shares the open file, and would hold the lock of a parent that was killed.
    for lock in list(_held):
        lock.close()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_let_go_in_child)
