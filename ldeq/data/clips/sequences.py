"""Short sequences made from labelled stills, for training a model on what a video will ask of it without any video.

Each sample is a window of a made clip (`Clip`): a photographed face that turns, speaks and blinks under a camera that moves,
cropped once, as a tracker with a slack crops a face for a few frames.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import torch
from torch.utils.data import Dataset, get_worker_info

from ldeq.data.augment import Augmentation
from ldeq.data.clips.clip import TEXTURES, Clip, movable
from ldeq.data.clips.motion import DIFFICULTIES
from ldeq.data.crop import compose, crop_box, crop_matrix, transform_points, warp
from ldeq.data.errors import DataError
from ldeq.data.records import Faces

from ...errors import ArgumentError

# Frames of the clips that windows are cut from: about five seconds, as in `make_clips`.
_CLIP = 130


class SequenceDataset(Dataset[dict[str, Any]]):
    """Sequences of crops with landmarks, made from stills.

    An item is a dict:

    - ``image``: `(T, 3, S, S)` uint8 RGB tensor, consecutive frames;
    - ``landmarks``: `(T, K, 2)` float32, unit crop coordinates (index / S);
    - ``index``: the sample that was asked for;
    - ``source``: the photo that it is made from; faces that touch the edge of theirs are left out, and before those that are
      seen from the side the camera alone moves;
    - ``skipped``: False, for a batch to be like those of `LandmarkDataset`.

    What is drawn depends on (seed, epoch, index) alone.

    Args:
        faces: labelled photos.
        size: side S of the crop in pixels.
        frames: T, at least 2.
        crop_scale: side of the crop over the longer side of the landmarks' extent in the first frame.
        augmentation: variation of a whole sequence: one turn, shift, mirror and table of colours for all its frames.
        seed: of everything that is drawn.

    Raises:
        ValueError: for a bad argument.
        DataError: where no photo can be set in motion.
    """

    def __init__(
        self,
        faces: Faces,
        size: int,
        frames: int = 4,
        crop_scale: float = 1.2,
        augmentation: Augmentation | None = None,
        seed: int = 0,
    ) -> None:
        if frames < 2:
            raise ArgumentError(f"a sequence has at least 2 frames, not {frames}.")
        self.faces, self.layout, self.size, self.frames, self.crop_scale = faces, faces.layout, size, frames, crop_scale
        self.augmentation = augmentation or Augmentation.none()
        self.seed = seed
        self._movable = [i for i in range(len(faces)) if movable(faces, i, rigid=True)]
        if not self._movable:
            raise DataError(f"none of the photos of {faces.name} can be moved: whole faces with room about them are.")
        self._textures = [faces.read(i) for i in self._movable[:TEXTURES]]
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()

    def set_epoch(self, epoch: int) -> None:
        """Draw other sequences from now on, in running workers as well."""
        self._epoch.fill_(epoch)

    def __len__(self) -> int:
        return len(self._movable)

    def describe(self, index: int) -> str:
        """The file of sample `index`, or its number where there is no file."""
        source = self._movable[index]
        path = self.faces.record(source).image
        return str(path) if path is not None else f"{self.faces.name} #{source}"

    def __getitem__(self, index: int) -> dict[str, Any]:
        if get_worker_info() is not None:
            cv2.setNumThreads(0)
        key = (self.seed, int(self._epoch), index)
        rng = np.random.default_rng([*key, 0])
        source = self._movable[index]
        difficulty = list(DIFFICULTIES)[int(rng.integers(len(DIFFICULTIES)))]
        first = int(rng.integers(_CLIP - self.frames))
        clip = Clip(
            self.faces.read(source), self.faces.record(source).points, self.layout, difficulty, [*key, 1], self._textures,
            frames=_CLIP, window=(first, self.frames), rigid=True,
        )  # fmt: skip
        square = crop_box("landmarks", points=clip.landmarks[0], scale=self.crop_scale)
        drawn = self.augmentation.sample(rng, self.size)
        matrix = compose(drawn.matrix, crop_matrix(square, self.size))
        images = np.stack([drawn.photometric(warp(frame, matrix, self.size)) for frame in clip.frames()])
        plain = transform_points(crop_matrix(square, self.size), clip.landmarks.astype(np.float64))
        axis = float(getattr(self.faces, "axis", 0.0)) * float(np.ptp(plain[0], axis=0).max())
        points = drawn.points(plain, self.layout, axis) / self.size
        return {
            "image": torch.from_numpy(images).permute(0, 3, 1, 2).contiguous(),
            "landmarks": torch.from_numpy(points.astype(np.float32)),
            "index": index,
            "source": source,
            "skipped": False,
        }
