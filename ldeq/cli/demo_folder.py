"""The folder of ``ldeq demo``: what a demo may delete, and how it knows that an earlier demo made it."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path

from ..engine.settings import SettingsError
from ..files import write_atomically
from .outputs import Outputs

MARKER = "demo.json"
"""A file in the folder that says who made it."""

# What a training run leaves in its folder. Anything else there is somebody's own.
_RUN_FILES = re.compile(
    r"config\.yaml|log\.jsonl|batch\.png|worst\.png|last\.json|best\.safetensors|step-\d+\.safetensors|\.lock|\..+\.tmp"
)


def check_folder(folder: Path, names: Sequence[str]) -> None:
    """Refuses a folder in which a demo would replace or delete what no demo made.

    Args:
        folder: of the demo; it need not exist.
        names: of the files that the demo writes.

    Raises:
        SettingsError: if something there is unknown, or cannot be written.
    """
    Outputs().folder("--out", folder, [MARKER, *names])
    run = folder / "run"
    if not _is_own(folder):
        for name in (MARKER, "run", *names):
            if (folder / name).exists() or (folder / name).is_symlink():
                raise SettingsError(f"{folder / name} exists, and ldeq demo did not make it; choose another folder with --out")
    if run.is_symlink() or (run.exists() and not run.is_dir()):
        raise SettingsError(f"{run} is not the folder that ldeq demo made; choose another folder with --out")
    unknown = [path for path in (run.iterdir() if run.is_dir() else ()) if not _is_run_file(path)]
    if unknown:
        raise SettingsError(f"{min(unknown)} is not from ldeq demo, which would empty {run}; move it, or choose another --out")


def prepare_folder(folder: Path, facts: dict[str, object]) -> None:
    """Marks the folder, and deletes the run of an earlier demo file by file. Call `check_folder` first.

    Args:
        folder: of the demo.
        facts: what the demo was asked for.

    Raises:
        FileError: if the folder cannot be written.
    """
    write_atomically(folder / MARKER, json.dumps({"made_by": "ldeq demo", **facts}, indent=1) + "\n")
    run = folder / "run"
    for path in run.iterdir() if run.is_dir() else ():
        if _is_run_file(path):
            path.unlink(missing_ok=True)


def _is_run_file(path: Path) -> bool:
    return _RUN_FILES.fullmatch(path.name) is not None and path.is_file() and not path.is_symlink()


def _is_own(folder: Path) -> bool:
    try:
        document = json.loads((folder / MARKER).read_bytes())
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(document, dict) and document.get("made_by") == "ldeq demo"
