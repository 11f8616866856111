"""The log of a run: JSON lines, one a logged step or validation, each with its ``step``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ..files import cause
from .checkpoint import write_atomically


class RunLog:
    """Appends to and rewinds a ``.jsonl`` file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def append(self, row: dict[str, Any]) -> str | None:
        """Adds a line; returns a complaint instead of raising, since a full disk must not end a run."""
        line = json.dumps({k: round(v, 6) if isinstance(v, float) else v for k, v in row.items()}) + "\n"
        try:
            with open(self.path, "ab", buffering=0) as file:
                before = file.tell()
                written = file.write(line.encode())
                if written != len(line.encode()):
                    file.truncate(before)  # half a line would spoil the next one
                    return f"cannot write {self.path}: the disk is full"
        except OSError as error:
            return f"cannot write {self.path}: {cause(error)}"
        return None

    def at(self, step: int) -> list[dict[str, Any]]:
        """The lines of a step."""
        if not self.path.exists():
            return []
        rows: list[dict[str, Any]] = [json.loads(line) for line in self.path.read_text().splitlines()]
        return [row for row in rows if row["step"] == step]

    def rewind(self, step: int, validation_due: bool = False) -> None:
        """Drops the lines of what will be done again, so that the log tells one story.

        Args:
            step: where the run goes on; later steps are dropped, all lines for 0.
            validation_due: whether the validation at that step will be done again.
        """
        if not self.path.exists():
            return
        kept = []
        for line in self.path.read_text(errors="replace").splitlines():
            try:
                row = json.loads(line)
                again = row["step"] > step or step == 0 or (validation_due and row["step"] == step and "val" in row)
            except (ValueError, KeyError, TypeError):  # the line that a kill cut short
                continue
            if not again:
                kept.append(line)
        write_atomically(self.path, "".join(f"{line}\n" for line in kept).encode())
