"""What a training run reads: its sources, and the order in which one process sees their faces."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import torch
from torch.utils.data import ConcatDataset

from ..data import CropRule, LandmarkDataset, Layout, open_faces
from ..data.clips import SequenceDataset
from ..data.layouts import shared_indices
from ..data.shared import SharedLandmarks
from .loading import load_batches
from .settings import SettingsError, TrainSettings


class TrainingData:
    """Training and validation sets of a run, and the share of one process.

    Args:
        settings: the run.
        rank, world: which process this is, of how many.

    Raises:
        SettingsError: if sources do not fit each other, the model or the batch.
        DataError: if a source cannot be opened.
    """

    def __init__(self, settings: TrainSettings, rank: int = 0, world: int = 1) -> None:
        self.settings, self.rank, self.world = settings, rank, world
        data, run = settings.data, settings.run
        if not data.train:
            raise SettingsError("data.train is empty; name a source, for example data.train: ['synthetic:2000']")
        opened = [self._open_train(spec) for spec in data.train]
        self.val_sets = [self._open_val(spec) for spec in data.val]
        self.layout = self._common_layout(opened)
        # Sources of another layout teach the landmarks that it shares with the model's.
        self.train_sets = [d if d.layout == self.layout else SharedLandmarks(d, self.layout) for d in opened]
        self.joined: ConcatDataset[dict[str, Any]] = ConcatDataset(self.train_sets)
        self.steps_per_epoch = len(self.joined) // (run.batch * world)
        if self.steps_per_epoch == 0:
            raise SettingsError(
                f"run.batch {run.batch} x {world} processes exceeds the {len(self.joined)} training faces; lower it"
            )

    def preload(self) -> None:
        """Fills the caches that were asked for, before loader processes start and would each fill their own."""
        if self.settings.data.cache:
            for dataset in self.train_sets:
                inner = dataset.dataset if isinstance(dataset, SharedLandmarks) else dataset
                if isinstance(inner, LandmarkDataset):
                    inner.preload()

    def batches(self, epoch: int, first: int, *, pin: bool = False) -> Iterator[dict[str, Any]]:
        """This process's batches of an epoch from number `first` on; the order comes from (seed, epoch) alone."""
        for dataset in self.train_sets:
            dataset.set_epoch(epoch)
        run = self.settings.run
        generator = torch.Generator().manual_seed(run.seed * 1_000_003 + epoch)
        order = torch.randperm(len(self.joined), generator=generator)
        mine = order[: self.steps_per_epoch * run.batch * self.world][self.rank :: self.world].tolist()
        batches = [mine[i : i + run.batch] for i in range(0, len(mine), run.batch)][first:]
        yield from load_batches(
            self.joined,
            workers=self.settings.data.workers,
            batch_sampler=batches,
            pin_memory=pin,
            # A loader draws a seed whenever it starts; from the global generator a resume in mid-epoch would draw once more.
            generator=generator,
        )

    def describe(self, index: int) -> str:
        """The file of a face, by its number in its source."""
        if len(self.train_sets) == 1:
            return self.train_sets[0].describe(index)
        # A batch does not say which of several sources a number belongs to.
        return f"face {index} of one of {len(self.train_sets)} sources"

    def fault(self, index: int) -> str:
        """Why a face that was skipped cannot be used."""
        first = self.train_sets[0]
        known = len(self.train_sets) == 1 and isinstance(first, LandmarkDataset)
        return (known and cast(LandmarkDataset, first).fault(index)) or "it cannot be used; run: ldeq data check"

    def _open_train(self, spec: str) -> LandmarkDataset | SequenceDataset:
        data, size, seed = self.settings.data, self.settings.model.image_size, self.settings.run.seed
        faces = open_faces(spec, "train")
        if data.sequence:
            return SequenceDataset(faces, size, data.sequence, data.crop_scale, data.augmentation, seed)
        rule = cast(CropRule, data.crop)
        return LandmarkDataset(faces, size, rule, data.crop_scale, data.augmentation, seed, data.cache, on_error="replace")

    def _open_val(self, spec: str) -> LandmarkDataset:
        data, size, seed = self.settings.data, self.settings.model.image_size, self.settings.run.seed
        rule = cast(CropRule, data.crop)
        return LandmarkDataset(open_faces(spec, "test"), size, rule, data.crop_scale, seed=seed, on_error="replace")

    def _common_layout(self, opened: list[LandmarkDataset | SequenceDataset]) -> Layout:
        """The model's layout: that of the validation sets, else of the source with as many landmarks."""
        sets: list[LandmarkDataset | SequenceDataset] = [*self.val_sets, *opened]
        count = self.settings.model.landmarks
        layout = next((d.layout for d in sets if d.layout.count == count), sets[0].layout)
        others = [d.layout for d in self.val_sets if d.layout != layout]
        others += [d.layout for d in opened if d.layout != layout and shared_indices(d.layout, layout) is None]
        if others:
            names = ", ".join(sorted({d.layout.name for d in sets}))
            raise SettingsError(f"data sources have different layouts ({names}); train on one of them")
        if layout.count != count:
            raise SettingsError(
                f"model.landmarks is {count} and the data has {layout.count}; set model.landmarks: {layout.count}"
            )
        return layout
