"""Samples of one layout as samples of another, for the landmarks that mean the same in both."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from ldeq.data.clips.sequences import SequenceDataset
from ldeq.data.dataset import LandmarkDataset
from ldeq.data.layouts import Layout, shared_indices

from ..errors import ArgumentError


class SharedLandmarks(Dataset[dict[str, Any]]):
    """A data set whose labels are given in another layout; landmarks that it does not have are NaN.

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

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> dict[str, Any]:
        item = self.dataset[index]
        return {**item, **{name: self._moved(item[name]) for name in ("landmarks", "points") if name in item}}

    def _moved(self, points: Tensor) -> Tensor:
        moved = points.new_full((*points.shape[:-2], self.layout.count, 2), torch.nan)
        moved[..., self._to, :] = points[..., self._from, :]
        return moved

    def set_epoch(self, epoch: int) -> None:
        """Draw other variations from now on, in running workers as well."""
        self.dataset.set_epoch(epoch)

    def describe(self, index: int) -> str:
        """The file of face `index`, or its number where there is no file."""
        return self.dataset.describe(index)
