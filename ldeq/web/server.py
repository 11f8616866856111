"""Serves the folder of the page to this machine alone."""

from __future__ import annotations

import http.server
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from ..errors import LdeqError
from ..files import cause
from .page import known_files

HOST = "127.0.0.1"

POLICY = "; ".join(
    [
        "default-src 'none'",
        "script-src 'self' 'wasm-unsafe-eval'",
        "worker-src 'self' blob:",
        "style-src 'self'",
        "img-src 'self' blob:",
        "media-src 'self' blob:",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
    ]
)
"""Nothing leaves the machine: scripts may open connections to this server alone. index.html says so too, for other servers."""

HEADERS = {
    "Content-Security-Policy": f"{POLICY}; frame-ancestors 'none'",
    # Both together let the page share memory between threads.
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Embedder-Policy": "require-corp",
    "Cross-Origin-Resource-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    # A page that was built anew must not be mixed with the old one.
    "Cache-Control": "no-cache",
}

TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".mjs": "text/javascript; charset=utf-8",
    ".json": "application/json",
    ".txt": "text/plain; charset=utf-8",
    ".svg": "image/svg+xml",
    ".jpg": "image/jpeg",
    ".wasm": "application/wasm",
    ".onnx": "application/octet-stream",
}


class ServeError(LdeqError, RuntimeError):
    """The page cannot be served; the message says why and what to do."""


class PageServer(http.server.ThreadingHTTPServer):
    """A server of one folder, on 127.0.0.1 only.

    ```python
    with PageServer(folder, port=8000) as server:
        server.read_names()
        server.serve_forever()
    ```
    """

    daemon_threads = True

    def __init__(self, folder: Path, port: int = 8000) -> None:
        """
        Args:
            folder: as `build_page` made it.
            port: 0 takes a free one.

        Raises:
            ServeError: if the port cannot be had.
        """
        if not 0 <= port <= 65_535:
            raise ServeError(f"--port must be from 0 to 65535, got {port}")
        try:
            super().__init__((HOST, port), partial(_Handler, directory=str(folder)))
        except OSError as error:
            raise ServeError(
                f"--port {port} cannot be used: {cause(error)}; choose another one, or 0 for a free one"
            ) from error
        self.port = int(self.server_address[1])
        self.folder = folder
        self.names: set[str] = set()

    def read_names(self) -> None:
        """Takes from the folder's list which files there are; nothing else is served."""
        self.names = set(known_files(self.folder) or {})

    @property
    def address(self) -> str:
        """What to open in a browser."""
        return f"http://{HOST}:{self.port}/"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A browser that hangs up is no news."""


class _Handler(http.server.SimpleHTTPRequestHandler):
    server: PageServer
    server_version = "ldeq"
    sys_version = ""
    protocol_version = "HTTP/1.1"

    def send_head(self) -> Any:
        # A page of another site that had its own name resolved to this machine would be of the same origin.
        if self.headers.get("Host", "") not in {f"{name}:{self.server.port}" for name in (HOST, "localhost")}:
            return self.send_error(HTTPStatus.FORBIDDEN)
        name = unquote(urlsplit(self.path).path).lstrip("/") or "index.html"
        if name not in self.server.names:
            return self.send_error(HTTPStatus.NOT_FOUND)
        return super().send_head()

    def guess_type(self, path: Any) -> str:
        return TYPES.get(Path(path).suffix.lower(), "application/octet-stream")

    def end_headers(self) -> None:
        for name, value in HEADERS.items():
            self.send_header(name, value)
        super().end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        """Nobody reads a line for each of a hundred files."""
