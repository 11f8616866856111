"""What ``--min-score`` comes to with a model that gives no score."""

from __future__ import annotations

from ..engine.settings import SettingsError
from ..engine.weights import Pretrained


def no_score(pretrained: Pretrained, min_score: float | None) -> str | None:
    """What to tell of a model that gives no score; None if it gives one.

    Raises:
        SettingsError: if a limit was asked for, which could not hold.
    """
    if pretrained.calibration is not None:
        return None
    remedy = f"fit one with: ldeq calibrate {pretrained.name}.safetensors --data SPEC"
    if min_score:
        raise SettingsError(f"--min-score needs a score, and the model {pretrained.name} has no calibration; {remedy}")
    return f"the model {pretrained.name} has no calibration: faces have no score, and none is left out; {remedy}"
