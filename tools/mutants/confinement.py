"""Lets a process, and all that it starts, write below one folder alone: broken code may take any path for its own.

By Landlock, which Linux has since 5.13 and which needs no rights: https://docs.kernel.org/userspace-api/landlock.html.
"""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Sequence
from pathlib import Path

# Numbers of the system calls, the same on all architectures, and of the rights.
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_PATH_BENEATH, _VERSION, _NO_NEW_PRIVILEGES = 1, 1, 38
_WRITE_FILE, _TRUNCATE, _OF_FILES = 1 << 1, 1 << 14, 1 << 1 | 1 << 14
_CHANGES = _WRITE_FILE | sum(1 << bit for bit in range(4, 13))  # remove and make files and folders of every kind
_SINCE_2, _SINCE_3 = 1 << 13, _TRUNCATE  # move files between folders; truncate

DEVICES = ("/dev/null", "/dev/shm", "/dev/tty", "/dev/zero", "/dev/full", "/proc/self")


def confine(folders: Sequence[Path]) -> bool:
    """Forbids this process to change any file that is not below one of the folders, or one of `DEVICES`.

    Returns:
        Whether the system can do that; if not, nothing is forbidden.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    version = libc.syscall(_CREATE_RULESET, None, 0, _VERSION)
    if version < 1:
        return False
    changes = _CHANGES | (_SINCE_2 if version >= 2 else 0) | (_SINCE_3 if version >= 3 else 0)
    ruleset = _checked(libc.syscall(_CREATE_RULESET, struct.pack("Q", changes), 8, 0))
    for place in (*map(str, folders), *DEVICES):
        if not os.path.exists(place):
            continue
        descriptor = os.open(place, os.O_PATH | os.O_CLOEXEC)
        rights = changes if os.path.isdir(place) else changes & _OF_FILES
        _checked(libc.syscall(_ADD_RULE, ruleset, _PATH_BENEATH, struct.pack("=Qi", rights, descriptor), 0))
        os.close(descriptor)
    _checked(libc.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0))
    _checked(libc.syscall(_RESTRICT_SELF, ruleset, 0))
    os.close(ruleset)
    return True


def _checked(answer: int) -> int:
    if answer < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return answer
