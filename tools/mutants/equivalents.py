"""Faults of the sample that change nothing that anyone can see, judged one by one, each with its reason."""

from __future__ import annotations

from typing import NamedTuple


class Equivalent(NamedTuple):
    """A fault, named as `Mutant` names it (file, function, what), and why the program stays the same."""

    file: str
    function: str
    fault: str
    reason: str


_FLOOR = "a floor against division by zero, thirty decimal places below anything that is measured"

_FLOORED = ("Walk.step", "FaceFrame._next", "FaceFrame._solve", "FaceFrame._pose_variance", "FaceFrame._mode_variance")

EQUIVALENTS: tuple[Equivalent, ...] = (
    Equivalent(
        "ldeq/data/axis.py",
        "asymmetry",
        "frame[layout.mirror_index] * (-1.0, 1.0) -> (frame[layout.mirror_index] / (-1.0, 1.0))",
        "a number divided by -1 or 1 is the number multiplied by it",
    ),
    Equivalent(
        "ldeq/video/writing.py",
        "VideoWriter.write",
        "self.size[1] % 2 -> (self.size[1] + 2)",
        "frames of even size are padded by nothing",
    ),
    Equivalent(
        "ldeq/engine/run_lock.py",
        "RunLock.__enter__",
        "self._file.close() -> pass",
        "the next line lets go of the file, which closes it",
    ),
    Equivalent(
        "ldeq/video/filters/face_frame.py",
        "_wrap",
        "angle + math.pi -> (angle - math.pi)",
        "both are the same modulo a full turn",
    ),
    *(Equivalent("ldeq/video/filters/face_frame.py", function, "1e-30 -> (2e-30)", _FLOOR) for function in _FLOORED),
)
