"""Faces and samples of one layout as those of another, for the landmarks that mean the same in both."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from ldeq.data.clips.sequences import SequenceDataset
from ldeq.data.dataset import LandmarkDataset
from ldeq.data.layouts import Layout, landmarks_between, shared_indices
from ldeq.data.records import FaceRecord, Faces

from ..errors import ArgumentError


def in_layout(faces: Faces, layout: Layout) -> Faces:
    """The faces with the landmarks of `layout`, if each of those means the same as one of theirs; else the faces as they are.

    So a model of 300-W's 68 landmarks can be judged on WFLW's 98, which hold them all.
    """
    shared = shared_indices(faces.layout, layout)
    if faces.layout == layout or shared is None or len(shared[1]) < layout.count:
        return faces
    order = np.argsort(shared[1])
    return _FacesInLayout(faces, layout, np.asarray(shared[0])[order])


class _FacesInLayout:
    def __init__(self, faces: Faces, layout: Layout, indices: np.ndarray) -> None:
        self.faces, self.layout, self.indices = faces, layout, indices
        self.name = f"{faces.name} ({layout.count} of {faces.layout.count} landmarks)"

    def __len__(self) -> int:
        return len(self.faces)

    def read(self, index: int) -> np.ndarray:
        return self.faces.read(index)

    def record(self, index: int) -> FaceRecord:
        record = self.faces.record(index)
        return replace(record, points=record.points[self.indices])


class SharedLandmarks(Dataset[dict[str, Any]]):
    """A data set whose labels are given in another layout; landmarks that it does not have are NaN.

    Those that lie midway between landmarks that it has are taken from these (`ldeq.data.layouts.landmarks_between`).

    An item is that of the data set, with ``landmarks`` of shape `(..., K, 2)` for the K landmarks of `layout`, and ``points``
    too where it has them. Of every item the same landmarks are known.

    Args:
        dataset: the samples.
        layout: of the labels that are handed out.

    Raises:
        ValueError: where the two layouts are not known to share a landmark.
    """

    def __init__(self, dataset: LandmarkDataset | SequenceDataset, layout: Layout) -> None:
        shared = shared_indices(dataset.layout, layout)
        if shared is None:
            raise ArgumentError(f"the layouts {dataset.layout.name!r} and {layout.name!r} are not known to share landmarks.")
        self.dataset, self.layout, self.faces = dataset, layout, dataset.faces
        self._from, self._to = (torch.tensor(side) for side in shared)
        self._between = landmarks_between(dataset.layout, layout)

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> dict[str, Any]:
        item = self.dataset[index]
        return {**item, **{name: self._moved(item[name]) for name in ("landmarks", "points") if name in item}}

    def _moved(self, points: Tensor) -> Tensor:
        moved = points.new_full((*points.shape[:-2], self.layout.count, 2), torch.nan)
        moved[..., self._to, :] = points[..., self._from, :]
        for index, parts in self._between:
            moved[..., index, :] = sum(weight * moved[..., part, :] for part, weight in parts)
        return moved

    def set_epoch(self, epoch: int) -> None:
        """Draw other variations from now on, in running workers as well."""
        self.dataset.set_epoch(epoch)

    def describe(self, index: int) -> str:
        """The file of face `index`, or its number where there is no file."""
        return self.dataset.describe(index)
