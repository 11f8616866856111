"""What can be wrong with data: each error is one sentence that names the file and says what to do."""

from __future__ import annotations

import os
from pathlib import Path

from ldeq.errors import LdeqError


class DataError(LdeqError, ValueError):
    """A data set, an annotation or a specification that cannot be used; the message says what to do."""


class FaceError(DataError):
    """One face that cannot be used, while the others of its set can.

    Attributes:
        path: the picture, or the file of the labels.
        reason: why, in a few words.
    """

    _said = "cannot use the face of {path}: {reason}."

    def __init__(self, path: str | os.PathLike[str], reason: str) -> None:
        super().__init__(self._said.format(path=os.fspath(path), reason=reason))
        self.path = Path(path)
        self.reason = reason

    def __reduce__(self) -> tuple[type[FaceError], tuple[Path, str]]:
        # The default would rebuild it from the message alone, which fails on the way back from a data-loader worker.
        return type(self), (self.path, self.reason)


class ImageError(FaceError):
    """A picture that is missing, incomplete, too large or not a picture."""

    _said = "cannot read the picture {path}: {reason}."


class LabelError(FaceError):
    """Labels that no model can be trained or scored with."""

    _said = "cannot use the labels of {path}: {reason}."
