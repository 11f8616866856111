"""Landmarks of a video as JSON or CSV, written frame by frame: what was computed is in the file whatever comes after."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .. import label_files
from ..data import Layout
from ..face import Face
from ..files import followed, is_special, user_path
from ..pose import HeadPose
from .reading import VideoError


class LandmarkWriter:
    """Appends frames to a file beside its place, which takes its place when it is whole.

    A file that was there before is only ever replaced by a whole one. A device, such as ``/dev/stdout``, is written to.
    """

    def __init__(self, path: str | Path) -> None:
        """
        Raises:
            VideoError: if the file cannot be written.
        """
        self.path = user_path(path)
        if self.path.is_dir():
            raise VideoError(f"cannot write {self.path}: it is a folder; give the name of a file")
        self.partial = landmarks_partial(self.path)
        self.frames = 0
        try:
            self.partial.parent.mkdir(parents=True, exist_ok=True)
            self._file = self.partial.open("w", newline="")
        except OSError as error:
            raise VideoError(f"cannot write {self.path}: {error.strerror}; choose another place") from error

    def write(self, frame: int, time: float, faces: Sequence[Face]) -> None:
        """Appends the faces of a frame; `time` in seconds.

        Raises:
            VideoError: when the disk is full.
        """
        try:
            self._append(frame, time, faces)
            self._file.flush()  # a frame that is told of is in the file, even if the process is killed
            self.frames += 1
        except OSError as error:
            raise VideoError(
                f"cannot go on writing {self.partial}: {error.strerror}; make room or choose another place"
            ) from error

    def close(self, complete: bool = True) -> Path:
        """Ends the file; a second call does nothing.

        Args:
            complete: whether every frame is in it. If not, the file stays partial where there is an older one, and nothing is
                left of a file without a frame.

        Returns:
            Where it is.

        Raises:
            VideoError: if the end cannot be written; the partial file stays.
        """
        if not self._file.closed:
            try:
                with self._file:
                    self._end(complete)
                self._put_in_place(complete)
            except OSError as error:
                raise VideoError(
                    f"cannot write the end of {self.path}: {error.strerror}; {self.partial} holds what there was room for"
                ) from error
        return self.partial

    def _put_in_place(self, complete: bool) -> None:
        target = followed(self.path)
        if is_special(self.path):
            return
        if complete or (self.frames and not target.exists()):
            os.replace(self.partial, target)
            self.partial = self.path
        elif not self.frames:
            self.partial.unlink()

    def _append(self, frame: int, time: float, faces: Sequence[Face]) -> None:
        raise NotImplementedError

    def _end(self, complete: bool) -> None:
        pass


class JsonLandmarks(LandmarkWriter):
    """A document with the given facts, ``"frames"``, and whether it is ``"complete"``.

    A frame a line: ``{"frame": 0, "time": 0.0, "faces": [{"id", "box", "points", "std", "deviation", "reset", "score",
    "pose", "openings"}, ...]}``. Points and deviations are in pixels.
    """

    def __init__(self, path: str | Path, facts: dict[str, Any]) -> None:
        super().__init__(path)
        head = json.dumps(facts)
        self._file.write(head[:-1] + (", " if facts else "") + '"frames": [')
        self._separator = "\n"

    def _append(self, frame: int, time: float, faces: Sequence[Face]) -> None:
        entry = {"frame": frame, "time": round(time, 6), "faces": [face_record(face) for face in faces]}
        self._file.write(self._separator + json.dumps(entry))
        self._separator = ",\n"

    def _end(self, complete: bool) -> None:
        self._file.write(f'\n], "complete": {json.dumps(complete)}}}\n')


class CsvLandmarks(LandmarkWriter):
    """A row a face: frame, time, face, reset, score, its box x1, y1, x2, y2; x, y and std of each landmark, in pixels; yaw,
    pitch and roll in degrees; the openings of mouth and eyes (`Face.openings`)."""

    def __init__(self, path: str | Path, layout: Layout) -> None:
        super().__init__(path)
        self._rows = csv.writer(self._file)
        names = [f"{what}_{i}" for i in range(layout.count) for what in ("x", "y", "std")]
        self._openings = list(layout.openings)
        told = [*HeadPose._fields, *(f"{name}_open" for name in self._openings)]
        self._rows.writerow(["frame", "time", "face", "reset", "score", "x1", "y1", "x2", "y2", *names, *told])

    def _append(self, frame: int, time: float, faces: Sequence[Face]) -> None:
        for face in faces:
            r = face_record(face)
            values = [v for (x, y), s in zip(r["points"], r["std"], strict=True) for v in (x, y, s)]
            known = [r["id"], r["reset"], r["score"]]  # csv writes None as an empty cell
            pose = [""] * len(HeadPose._fields) if r["pose"] is None else list(r["pose"].values())
            openings = [r["openings"][name] for name in self._openings]
            self._rows.writerow([frame, round(time, 6), *known, *r["box"], *values, *pose, *openings])


def landmarks_partial(path: Path) -> Path:
    """Where landmarks are until their file is whole; a device is written to as it is."""
    if is_special(path):
        return path
    target = followed(path)
    return target.with_name(f"{target.name}.partial")


def face_record(face: Face) -> dict[str, Any]:
    """A face of a video as plain numbers: as in a picture, with its number and why it was started anew."""
    known = label_files.face_record(face)
    return {"id": face.id, **{k: known[k] for k in ("box", "points", "std", "deviation")}, "reset": face.reset} | {
        k: known[k] for k in ("score", "pose", "openings")
    }
