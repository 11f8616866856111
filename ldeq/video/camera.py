"""Cameras of this machine, by OpenCV."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from .reading import VideoError, VideoFrame

DEVICES = Path("/dev")


def camera_devices() -> list[Path] | None:
    """The devices of cameras, by number; None where the system has no files for them. None is opened, which lights its lamp."""
    if not sys.platform.startswith("linux"):
        return None
    found = [path for path in DEVICES.glob("video[0-9]*") if path.name[5:].isdigit()]
    return sorted(found, key=lambda path: int(path.name[5:]))


def open_camera(number: int) -> cv2.VideoCapture:
    """A camera, by its number.

    Raises:
        VideoError: if it cannot be opened; the message tells why, as far as that can be known.
    """
    with _silent_opencv():
        capture = cv2.VideoCapture(number)
        if capture.isOpened():
            return capture
    raise VideoError(f"{_reason(number)}, or give a file: ldeq video FILE")


def camera_frames(capture: cv2.VideoCapture) -> Iterator[VideoFrame]:
    """What a camera sees, until it ends."""
    begin, index = time.perf_counter(), 0
    while True:
        with _silent_opencv():
            good, picture = capture.read()
        if not good:
            return
        image: NDArray[np.uint8] = np.asarray(cv2.cvtColor(picture, cv2.COLOR_BGR2RGB), np.uint8)
        yield VideoFrame(index, time.perf_counter() - begin, image)
        index += 1


def _reason(number: int) -> str:
    """Why a camera cannot be opened, and what to do."""
    devices, wanted = camera_devices(), DEVICES / f"video{number}"
    if devices is None:
        return f"there is no camera {number}, or another program holds it; close that program, or try --camera {number + 1}"
    if not devices:
        return f"there is no camera {number}: this machine has no {DEVICES}/video*; plug one in"
    if wanted not in devices:
        return f"there is no camera {number}; try --camera {devices[0].name[5:]}, of {', '.join(map(str, devices))}"
    if not os.access(wanted, os.R_OK | os.W_OK):
        return f"camera {number} cannot be used: you may not read {wanted}; join the group that may (often video)"
    others = [f", or try --camera {path.name[5:]}" for path in devices if path != wanted]
    return f"camera {number} gives no pictures, or another program holds it; close that program{''.join(others[:1])}"


@contextmanager
def _silent_opencv() -> Iterator[None]:
    """OpenCV writes warnings of its own about every driver that it tries."""
    logging = cv2.utils.logging
    before = logging.getLogLevel()
    logging.setLogLevel(logging.LOG_LEVEL_SILENT)
    try:
        yield
    finally:
        logging.setLogLevel(before)
