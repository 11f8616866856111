"""``ldeq web``."""

from __future__ import annotations

from pathlib import Path

from ..engine.console import Console
from ..engine.settings import SettingsError
from ..engine.weights import load_pretrained
from ..export import need
from ..files import user_path
from ..web import runtime
from ..web.page import INSTALL, MARKER, build_page, check_folder, kept_runtime
from ..web.server import PageServer
from .arguments.web import WebArguments
from .outputs import Outputs

PORT = 8000
"""Where --serve listens."""


class Web(WebArguments):
    def run(self) -> int:
        if self.port is not None and not self.serve:
            raise SettingsError("--port is of no use without --serve; add --serve")
        folder = Outputs().folder("OUT", self.out, [MARKER])
        check_folder(folder)
        need("onnx", INSTALL)
        if not self.serve:
            self._build(folder)
            print(f"look at it with: ldeq web {folder} --serve")
            return 0
        # The port first: what takes seconds must not end in an error that was there before.
        with PageServer(folder, PORT if self.port is None else self.port) as server:
            self._build(folder)
            server.read_names()
            print(f"open {server.address} in a browser; Ctrl-C ends the server", flush=True)
            try:
                server.serve_forever()
            except KeyboardInterrupt:
                print(f"\nthe server has ended; the page stays in {folder}")
        return 0

    def _build(self, folder: Path) -> None:
        runtime_files, version, source = self._runtime(folder)
        pretrained = load_pretrained(self.model)
        build_page(pretrained, folder, runtime_files, version)
        size = sum(each.stat().st_size for each in folder.rglob("*") if each.is_file()) / 2**20
        print(f"wrote {folder}: {size:.0f} MiB, {pretrained.name}, {runtime.PACKAGE} {version} {source}", flush=True)

    def _runtime(self, folder: Path) -> tuple[dict[str, bytes], str, str]:
        """The files of onnxruntime-web, its version, and where it comes from."""
        if self.onnxruntime_web is not None:
            files = runtime.from_folder("--onnxruntime-web", self.onnxruntime_web)
            return files, runtime.version_of(self.onnxruntime_web), f"from {user_path(self.onnxruntime_web)}"
        if kept := kept_runtime(folder):
            return kept, runtime.VERSION, "from the folder itself"
        if cached := runtime.from_cache():
            return cached, runtime.VERSION, f"from {runtime.cached_package()}"
        return runtime.unpacked(self._fetched()), runtime.VERSION, "from npm"

    def _fetched(self) -> bytes:
        console, place = Console(), runtime.cached_package()
        told = f"fetching {runtime.PACKAGE} {runtime.VERSION}, 33 MB, from {runtime.registry()} by npm"
        console.say(f"{told}, once: {place} keeps it")
        with console.rich.status(told):  # moves on a terminal, and is nothing elsewhere
            package = runtime.fetched()
        if runtime.keep(package) is None:
            console.warn(f"{place} cannot be written, so that the next page fetches it again")
        return package
