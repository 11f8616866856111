"""Containers of video, whatever the encoding of the titles in them."""

from __future__ import annotations

import os
from typing import Any


def open_container(av: Any, path: str | os.PathLike[str], **options: Any) -> Any:
    """A PyAV container to read from.

    Args:
        av: PyAV.
        path: a file, or an address.
        options: of `av.open`.

    Raises:
        av.error.FFmpegError: if FFmpeg cannot open it.
    """
    # Version 19 keeps bytes that are no UTF-8 as they are, and has no such option any more.
    titles = {"metadata_errors": "ignore"} if int(av.__version__.split(".")[0]) < 19 else {}
    return av.open(os.fspath(path), **titles, **options)
