"""Arguments of ``ldeq doctor``."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class DoctorArguments:
    """Say what this installation can do, and why not where it cannot."""

    json: bool = False
    """Print JSON."""

    def run(self) -> int:
        from ..doctor import Doctor

        return Doctor(**vars(self)).run()
