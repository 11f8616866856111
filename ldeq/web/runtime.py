"""onnxruntime-web, which runs the model in the browser: 14 MB, fetched by npm once and packed into the folder of each page.

npm knows its user's registry and proxies. The package that it brings is kept in the user's cache, and its checksum is compared
whenever it is read.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import urllib.parse
from pathlib import Path

from ..errors import LdeqError
from ..files import FileError, user_path, write_atomically

PACKAGE = "onnxruntime-web"
VERSION = "1.30.0"
INTEGRITY = "sha512-q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ=="
"""Of the package of that version, as lock files of npm have it."""

FILES = ("ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm")
"""What the page needs of the package's folder ``dist``: the part that runs on any CPU."""

_PATIENCE = 600
"""Seconds that npm may take."""


class RuntimeFilesError(LdeqError, RuntimeError):
    """onnxruntime-web cannot be had; the message says what to do."""


def from_folder(option: str, folder: str | Path) -> dict[str, bytes]:
    """The files from a package that is there already.

    Args:
        option: what named the folder, for the sentence.
        folder: a `node_modules` folder, the package's own folder, or its ``dist``.

    Raises:
        RuntimeFilesError: if the files are not there.
        FileError: if the path cannot be one.
    """
    base = user_path(folder)
    for dist in (base / PACKAGE / "dist", base / "dist", base):
        if all((dist / name).is_file() for name in FILES):
            return {name: (dist / name).read_bytes() for name in FILES}
    raise RuntimeFilesError(
        f"{option} {base} does not hold {' and '.join(FILES)}; give the folder that npm install {PACKAGE}@{VERSION} made, "
        f"node_modules/{PACKAGE}"
    )


def cached_package() -> Path:
    """Where the package is kept: in the folder that the system has for what can be fetched again."""
    if folder := os.environ.get("XDG_CACHE_HOME"):
        base = Path(folder)
    elif sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    else:
        base = Path.home() / ("Library/Caches" if sys.platform == "darwin" else ".cache")
    return base / "ldeq" / f"{PACKAGE}-{VERSION}.tgz"


def from_cache() -> dict[str, bytes] | None:
    """The files from the cache; None if they are not there, or damaged."""
    try:
        return unpacked(cached_package().read_bytes())
    except (OSError, RuntimeError):  # a user may have no home, and a package another checksum
        return None


def keep(package: bytes) -> Path | None:
    """Puts a package into the cache; None if that cannot be, since pages are made without a cache, too."""
    try:
        return write_atomically(cached_package(), package)
    except (OSError, RuntimeError, FileError):
        return None


def registry() -> str:
    """Where npm fetches from, without a password that its address may hold."""
    npm = shutil.which("npm")
    command = [npm or "npm", "config", "get", "registry"]
    try:
        said = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout.strip()
        address = urllib.parse.urlsplit(said)
        return f"{address.scheme}://{address.hostname}" if address.hostname else "npm's registry"
    except (OSError, ValueError, subprocess.SubprocessError):
        return "npm's registry"


def from_npm() -> dict[str, bytes]:
    """The files from npm, checked.

    Raises:
        RuntimeFilesError: as `fetched` says.
    """
    return unpacked(fetched())


def fetched() -> bytes:
    """The package from npm's cache or its registry, checked.

    Raises:
        RuntimeFilesError: if npm is missing or fails, or what it brings is not the package that was published.
    """
    npm = shutil.which("npm")
    remedy = f"give a package that is there with --onnxruntime-web node_modules/{PACKAGE}"
    if npm is None:
        raise RuntimeFilesError(
            f"the page needs {PACKAGE}, which npm fetches, and npm is not installed: install Node.js, or {remedy}"
        )
    with tempfile.TemporaryDirectory() as folder:
        command = [npm, "pack", f"{PACKAGE}@{VERSION}", "--pack-destination", folder, "--prefer-offline", "--ignore-scripts"]
        # Without a network npm would try for a minute by default.
        command += ["--fetch-retries=1", "--fetch-retry-mintimeout=2000"]
        try:
            done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=_PATIENCE, check=False)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise RuntimeFilesError(f"npm cannot fetch {PACKAGE}: {error}; try again, or {remedy}") from error
        packages = sorted(Path(folder).glob("*.tgz"))
        if done.returncode or len(packages) != 1:
            raise RuntimeFilesError(f"npm cannot fetch {PACKAGE} {VERSION}: {_reason(done.stderr)}; try again, or {remedy}")
        package = packages[0].read_bytes()
        unpacked(package)
        return package


def unpacked(package: bytes, integrity: str | None = None) -> dict[str, bytes]:
    """The files of a package as npm packs it, whose checksum must be `integrity`, by default `INTEGRITY`.

    Raises:
        RuntimeFilesError: if its checksum is another one.
    """
    integrity = integrity or INTEGRITY
    found = "sha512-" + base64.b64encode(hashlib.sha512(package).digest()).decode()
    if found != integrity:
        raise RuntimeFilesError(
            f"what npm brought as {PACKAGE} {VERSION} has the checksum {found} and must have {integrity}; clean npm's cache "
            "(npm cache clean --force) and check which registry npm uses (npm config get registry)"
        )
    with tarfile.open(fileobj=io.BytesIO(package), mode="r:gz") as archive:
        members = {name: archive.extractfile(f"package/dist/{name}") for name in FILES}
        return {name: member.read() for name, member in members.items() if member is not None}


def version_of(folder: str | Path) -> str:
    """The version that a package says it has, ``"of unknown version"`` if it says none."""
    base = user_path(folder)
    for place in (base / PACKAGE, base, base.parent):
        try:
            document = json.loads((place / "package.json").read_bytes())
        except (OSError, ValueError):
            continue
        if isinstance(document, dict) and document.get("name") == PACKAGE:
            return str(document.get("version"))
    return "of unknown version"


def _reason(text: str) -> str:
    """The first line of npm's complaints that says something."""
    lines = [line.removeprefix("npm error").removeprefix("npm ERR!").strip() for line in text.splitlines()]
    return next((line for line in lines if line and not line.startswith(("code ", "errno ", "syscall "))), "it gives no reason")
