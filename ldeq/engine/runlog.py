"""The log of a run: JSON lines, one a logged step or validation, each with its ``step``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from .checkpoint import write_atomically


class RunLog:
    """Appends to and rewinds a ``.jsonl`` file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def append(self, row: dict[str, Any]) -> str | None:
        """Adds a line; returns a complaint instead of raising, since a full disk must not end a run."""
        line = json.dumps({k: round(v, 6) if isinstance(v, float) else v for k, v in row.items()})
        try:
            with open(self.path, "a") as file:
                file.write(line + "\n")
        except OSError as error:
            return f"cannot write {self.path}: {error.strerror}"
        return None

    def rewind(self, step: int) -> None:
        """Drops the lines of later steps, which will be done again, so that the log tells one story; all for step 0."""
        if not self.path.exists():
            return
        kept = []
        for line in self.path.read_text().splitlines():
            try:
                if step > 0 and json.loads(line)["step"] <= step:
                    kept.append(line)
            except (ValueError, KeyError):  # the line that a kill cut short
                continue
        write_atomically(self.path, "".join(f"{line}\n" for line in kept).encode())
