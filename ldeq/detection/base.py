"""What all detectors share: their type, their error, and the lending of native objects to threads."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Generic, TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

from ..errors import LdeqError

Detector = Callable[[NDArray[np.uint8]], NDArray[np.float64]]
"""An RGB picture `(H, W, 3)` uint8 to the tight landmark boxes of its faces, `(N, 4)`, x1 y1 x2 y2, largest first."""


class DetectorError(LdeqError, RuntimeError):
    """No detector can be used here; the message says what to install or to pass instead."""


Native = TypeVar("Native")


class OneThreadAtATime(Generic[Native]):
    """Lends native objects that only one thread may use at a time, such as OpenCV's detectors.

    A cascade that two threads share raises from inside OpenCV, or returns the boxes of another picture. Each call borrows an
    object of its own instead; there are as many as there were calls at the same time, and they are used again.
    """

    def __init__(self, make: Callable[[], Native]) -> None:
        self._make = make
        self._free: deque[Native] = deque()  # its methods are atomic

    @contextmanager
    def borrow(self) -> Iterator[Native]:
        """An object that no other thread uses; after an error it is not lent again."""
        try:
            thing = self._free.pop()
        except IndexError:
            thing = self._make()
        yield thing
        self._free.append(thing)


def shrunk(image: NDArray[Any], side: int) -> tuple[NDArray[Any], float]:
    """The picture with at most `side` pixels on its longer side, and the factor; a long thin one keeps at least a pixel."""
    height, width = image.shape[:2]
    factor = min(1.0, side / max(height, width))
    if factor < 1.0:
        size = max(1, round(width * factor)), max(1, round(height * factor))
        image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    return image, factor


def largest_first(boxes: NDArray[np.float64]) -> NDArray[np.float64]:
    """Boxes `(N, 4)` by their width."""
    return boxes[np.argsort(boxes[:, 0] - boxes[:, 2], kind="stable")]
