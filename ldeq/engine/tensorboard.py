"""The figures of a run for TensorBoard, beside the log."""

from __future__ import annotations

import math
from collections.abc import Iterable
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from .settings import SettingsError

FOLDER = "tensorboard"
"""In the run's folder; ``tensorboard --logdir runs`` shows all runs below."""


class TensorBoard:
    """Writes the numbers of the log's lines as scalars: ``train/loss``, ``val/300-W helen-test/nme``.

    Args:
        run: the run's folder.
        step: where the run begins or goes on; scalars from there on are no longer shown, since they will be done again.
        kept: the lines of that step that the log keeps.
    """

    def __init__(self, run: Path, step: int, kept: Iterable[dict[str, Any]]) -> None:
        self._writer: Any = import_module("torch.utils.tensorboard").SummaryWriter(str(run / FOLDER), purge_step=step)
        for row in kept:
            self.add(row)

    def add(self, row: dict[str, Any]) -> str | None:
        """Adds a line of the log; returns a complaint instead of raising, since a full disk must not end a run."""
        group = f"val/{row['val']}" if "val" in row else "train"
        try:
            for name, value in row.items():
                if isinstance(value, int | float) and name not in ("step", "epoch") and not math.isnan(value):
                    self._writer.add_scalar(f"{group}/{name}", value, row["step"])
            self._writer.flush()
        except OSError as error:
            return f"cannot write {FOLDER}: {error}"
        return None


def check_tensorboard() -> None:
    """
    Raises:
        SettingsError: if the package is missing.
    """
    if find_spec("tensorboard") is None:
        raise SettingsError("run.tensorboard needs the package tensorboard: pip install 'ldeq[tensorboard]', or leave it out")
