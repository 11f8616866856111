"""A folder of made clips in the layout of WFLW-V."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ldeq.data.clips.clip import TEXTURES, Clip, movable
from ldeq.data.errors import DataError
from ldeq.data.records import Faces
from ldeq.data.wflw_v import write_wflw_v
from ldeq.files import user_path, write_atomically
from ldeq.spelling import did_you_mean

PARTS: tuple[str, ...] = ("tune", "test", "all")
_TUNE_SHARE = 0.25


def photos_of(faces: Faces, part: str) -> list[int]:
    """Numbers of the photos that a part may use.

    Filters are tuned on other people than those that judge them: ``"tune"`` is the first quarter of the faces in the data
    set's order, ``"test"`` the rest. In that order photos of one person stand together.

    Raises:
        DataError: for an unknown part.
    """
    if part not in PARTS:
        raise DataError(f"unknown part {part!r}{did_you_mean(part, PARTS)}: choose one of {', '.join(PARTS)}.")
    cut = round(_TUNE_SHARE * len(faces))
    return list({"tune": range(cut), "test": range(cut, len(faces)), "all": range(len(faces))}[part])


def make_clips(
    faces: Faces,
    root: str | os.PathLike[str],
    easy: int = 50,
    hard: int = 50,
    seed: int = 0,
    part: str = "test",
    frames: int | None = None,
    noise: bool = True,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Moves labelled photos and writes the clips with their ground truth.

    Every clip shows another photo, as long as there are enough. Frames, labels and files depend on the photos, the seed and
    the arguments only.

    Args:
        faces: labelled photos.
        root: the folder; it must be new or empty.
        easy, hard: numbers of clips.
        seed: of everything that is drawn.
        part: which photos, see `photos_of`.
        frames: frames of every clip; 110 to 150 where None.
        noise: of the sensor; without it the clips are otherwise the same, which tells flicker by noise from all other flicker.
        progress: called with (done, total) clips.

    Returns:
        ``clips.json``: seed, source photo and settings of every clip.

    Raises:
        DataError: where no photo can be used, the folder holds something, or a clip cannot be written.
        FileError: if a list cannot be written.
    """
    base = user_path(root)
    if base.exists() and any(base.iterdir()):
        raise DataError(f"{base} is not empty; choose a new folder.")
    if easy < 0 or hard < 0 or easy + hard == 0:
        raise DataError("there is no clip to make: pass a number of easy or of hard clips.")
    rng = np.random.default_rng([seed, PARTS.index(part)])
    chosen, left_out = [], 0
    for index in rng.permutation(photos_of(faces, part)).tolist():
        if movable(faces, index):
            chosen.append(index)
            if len(chosen) == easy + hard:
                break
        else:
            left_out += 1
    if not chosen:
        raise DataError(f"none of the {left_out} photos of {faces.name} can be moved: whole faces seen from the front are.")
    textures = [faces.read(i) for i in chosen[:TEXTURES]]
    clips: dict[str, Any] = {}
    lists: dict[str, list[str]] = {"easy": [], "hard": []}
    for number in range(easy + hard):
        difficulty = "easy" if number < easy else "hard"
        index = chosen[number % len(chosen)]
        name = f"{difficulty}-{len(lists[difficulty]):03d}"
        record = faces.record(index)
        clip = Clip(
            faces.read(index),
            record.points,
            faces.layout,
            difficulty,
            [seed, PARTS.index(part), number],
            textures,
            frames,
            noise=noise,
        )
        s = clip.settings
        write_wflw_v(base, name, clip.frames(), clip.landmarks, clip.boxes, s.fps, (s.height, s.width))
        lists[difficulty].append(name)
        source = f"{record.image.parent.name}/{record.image.name}" if record.image is not None else f"#{index}"
        clips[name] = {"photo": source, **clip.describe()}
        if progress is not None:
            progress(number + 1, easy + hard)
    about = {"source": faces.name, "layout": faces.layout.name, "seed": seed, "part": part, "clips": clips}
    for difficulty, names in lists.items():
        write_atomically(base / f"{difficulty}.txt", "".join(f"{name}\n" for name in names))
    return write_atomically(base / "clips.json", json.dumps(about, indent=1) + "\n")
