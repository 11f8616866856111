"""Arguments of ``ldeq web``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from ._optional import OptionalCount, OptionalPath


@dataclass
class WebArguments:
    """Make a page that shows flicker and its removal in a browser, with a camera, a file or drawn faces.

    The page is a folder that works without a network, and nothing leaves the machine. Example: ldeq web --serve
    """

    out: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="[OUT]")] = Path("ldeq-web")
    """The folder: new, empty, or made by an earlier ldeq web."""
    model: str = "small-68"
    """A shipped model or a ``.safetensors`` file."""
    onnxruntime_web: OptionalPath = None
    """A folder with the npm package onnxruntime-web. If absent, npm fetches it once, and the user's cache keeps it."""
    serve: bool = False
    """Serve the page to this machine alone, until Ctrl-C."""
    port: OptionalCount = None
    """Port of --serve, 8000 if absent; 0 takes a free one."""

    def run(self) -> int:
        from ..web import Web

        return Web(**vars(self)).run()
