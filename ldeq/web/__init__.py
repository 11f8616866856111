"""The page that shows flicker and its removal in a browser: what it is made of, and a server for this machine alone."""

from __future__ import annotations

from .page import PageError, build_page, check_folder
from .server import PageServer

__all__ = ["PageError", "PageServer", "build_page", "check_folder"]
