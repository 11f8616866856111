"""Faces as training samples: crop, variation and labels in unit coordinates, reproducible sample by sample."""

from __future__ import annotations

import math
from itertools import islice
from typing import Any, Literal

import cv2
import numpy as np
import torch
from torch.utils.data import Dataset, get_worker_info

from ldeq.data.augment import Augmentation
from ldeq.data.crop import (
    CropRule,
    SquareBox,
    compose,
    crop_box,
    crop_matrix,
    invert,
    reduce_region,
    transform_points,
    warp,
)
from ldeq.data.errors import FaceError, ImageError, LabelError
from ldeq.data.labels import label_fault
from ldeq.data.records import FaceRecord, Faces

from ..errors import ArgumentError

# Region pixels per crop pixel that are kept at least, where a picture is much finer than the crop.
_OVERSAMPLING = 2

# Faces among which one is sought whose labels the crop rule can be tried on.
_TRIED = 100

# Pixels, map from their index to index in the picture, map from index in the picture to index in the plain crop.
_Region = tuple[np.ndarray, np.ndarray, np.ndarray]


class LandmarkDataset(Dataset[dict[str, Any]]):
    """Crops with landmarks from a set of faces.

    An item is a dict:

    - ``image``: `(3, S, S)` uint8 RGB tensor;
    - ``landmarks``: `(K, 2)` float32, unit crop coordinates (index / S), never clipped, so they may leave 0..1;
    - ``matrix``: `(2, 3)` float64, from index in the source picture to index in the crop, mirror included;
    - ``points``: `(K, 2)` float32, the labels in pixels of the source picture, in the source's order (not mirrored);
    - ``index``: the face that was asked for;
    - ``source``: the face that is shown, another one only where ``skipped``;
    - ``flipped``: whether the crop is mirrored;
    - ``skipped``: whether face ``index`` could not be read.

    The variation of a sample depends on (seed, epoch, index) alone: not on workers, order, batch size or a resume.

    Args:
        faces: the faces (see `ldeq.data.records.Faces`).
        size: side S of the crop in pixels.
        crop: crop rule: ``"landmarks"``, ``"hih"`` or ``"rect"``. Faces that are crops already are taken whole.
        crop_scale: side of the crop over the longer side of the extent.
        augmentation: variation, or None for none.
        seed: of the variation.
        cache: keep what was decoded in memory, as uint8: of every face the region that a sample can reach, at no more
            than a few times the crop's resolution. Each data-loader worker has a cache of its own; to share one, call
            `preload` before the workers start.
        cache_bytes: the most memory that a cache takes; faces beyond it are read each time.
        on_error: ``"raise"``, or ``"replace"`` to put the next usable face in the place of one whose picture cannot be read
            or whose labels cannot be used (for training: it is marked in the item and listed in `skipped`).

    Raises:
        ValueError: for a bad argument, and where the crop rule needs what the faces do not carry.
        FaceError: from an item, where a face cannot be used and `on_error` is ``"raise"``, or none can: `ImageError` for the
            picture, `LabelError` for the labels.
    """

    def __init__(
        self,
        faces: Faces,
        size: int,
        crop: CropRule = "landmarks",
        crop_scale: float = 1.2,
        augmentation: Augmentation | None = None,
        seed: int = 0,
        cache: bool = False,
        cache_bytes: int = 2 << 30,
        on_error: Literal["raise", "replace"] = "raise",
    ) -> None:
        if len(faces) == 0:
            raise ArgumentError(f"{faces.name} holds no face.")
        if size < 8:
            raise ArgumentError(f"the crop's side must be at least 8 pixels, not {size}.")
        if seed < 0:
            raise ArgumentError(f"the seed must not be negative, but is {seed}.")
        if on_error not in ("raise", "replace"):
            raise ArgumentError(f"on_error must be 'raise' or 'replace', not {on_error!r}.")
        if crop == "box":
            raise ArgumentError("crop rule 'box' is for boxes that a caller gives: choose 'landmarks', 'hih' or 'rect'.")
        self.faces = faces
        self.layout = faces.layout
        self.size = size
        self.crop: CropRule = crop
        self.crop_scale = crop_scale
        self.augmentation = augmentation if augmentation is not None else Augmentation.none()
        self.seed = seed
        self._axis = float(getattr(faces, "axis", 0.0))
        self.on_error = on_error
        self.skipped: list[tuple[str, str]] = []
        self._unreadable: set[int] = set()
        self._varies = self.augmentation != Augmentation.none()
        self._cache: dict[int, _Region] | None = {} if cache else None
        self._cache_left = cache_bytes
        # Shared memory, so that workers that outlive an epoch see the next one.
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()
        self._threads_set = False
        # A rule that the faces cannot serve is found here and not in a worker.
        first = (faces.record(i) for i in range(min(len(faces), _TRIED)))
        usable = (record for record in first if label_fault(record.points, self.layout, record.rect) is None)
        for record in islice(usable, 1):
            self._square(record, (2, 2))

    @property
    def epoch(self) -> int:
        """The epoch that the variation is drawn for."""
        return int(self._epoch)

    def set_epoch(self, epoch: int) -> None:
        """Draw other variations from now on, in running workers as well."""
        self._epoch.fill_(epoch)

    def __len__(self) -> int:
        return len(self.faces)

    def __getitem__(self, index: int) -> dict[str, Any]:
        if not -len(self) <= index < len(self):
            raise IndexError(f"face {index} of {len(self)}.")
        index %= len(self)
        if not self._threads_set:
            # The workers are the parallelism; OpenCV's own threads would fight over the same cores.
            if get_worker_info() is not None:
                cv2.setNumThreads(0)
            self._threads_set = True
        source, (image, to_image, to_crop) = self._open(index)
        record = self.faces.record(source)
        points = np.asarray(record.points, dtype=np.float32)
        plain = transform_points(to_crop, points.astype(np.float64))
        flipped, landmarks = False, plain
        if self._varies:
            drawn = self.augmentation.sample(np.random.default_rng((self.seed, self.epoch, index)), self.size)
            matrix = compose(drawn.matrix, to_crop)
            crop = drawn.photometric(warp(image, compose(matrix, to_image), self.size))
            flipped = drawn.flip
            landmarks = drawn.points(plain, self.layout, self._axis * float(np.ptp(plain, axis=0).max()))
        else:
            matrix = to_crop
            crop = warp(image, compose(matrix, to_image), self.size)
        return {
            "image": torch.from_numpy(crop).permute(2, 0, 1).contiguous(),
            "landmarks": torch.from_numpy((landmarks / self.size).astype(np.float32)),
            "matrix": torch.from_numpy(matrix),
            "points": torch.from_numpy(points.copy()),
            "index": index,
            "source": source,
            "flipped": flipped,
            "skipped": source != index,
        }

    def describe(self, index: int) -> str:
        """The file of face `index`, or its number where there is no file."""
        path = self.faces.record(index).image
        return str(path) if path is not None else f"{self.faces.name} #{index}"

    def fault(self, index: int) -> str:
        """Why face `index` cannot be used, or an empty string where it can: its picture is read again."""
        try:
            self._region(index)
        except FaceError as error:
            return error.reason
        return ""

    def preload(self) -> int:
        """Fill the cache now, up to its limit, so that workers started later share it.

        Returns:
            The number of faces in the cache. Unreadable ones are listed in `skipped`.
        """
        if self._cache is None:
            raise ArgumentError("this data set has no cache: pass cache=True.")
        for index in range(len(self)):
            if self._cache_left <= 0:
                break
            try:
                self._region(index)
            except FaceError as error:
                self._note(index, error)
        return len(self._cache)

    def _open(self, index: int) -> tuple[int, _Region]:
        """The first readable face from `index` on: its number and its region."""
        failure: FaceError | None = None
        for step in range(len(self)):
            source = (index + step) % len(self)
            if source in self._unreadable and self.on_error == "replace":
                continue
            try:
                return source, self._region(source)
            except FaceError as error:
                self._note(source, error)
                if self.on_error == "raise":
                    raise
                failure = error
        raise failure or ImageError(self.describe(index), "no picture of the set can be read")

    def _note(self, index: int, error: FaceError) -> None:
        if index not in self._unreadable:
            self._unreadable.add(index)
            self.skipped.append((str(error.path), error.reason))

    def _square(self, record: FaceRecord, shape: tuple[int, ...]) -> SquareBox:
        if record.precropped:
            return SquareBox(0.0, 0.0, float(max(shape[:2])))
        return crop_box(self.crop, points=record.points, rect=record.rect, scale=self.crop_scale)

    def _region(self, index: int) -> _Region:
        """What a sample of face `index` can reach."""
        if self._cache is not None and index in self._cache:
            return self._cache[index]
        image, record = self.faces.read(index), self.faces.record(index)
        needs_rect = self.crop in ("hih", "rect") and not record.precropped
        fault = label_fault(record.points, self.layout, record.rect if needs_rect else None, image.shape[:2])
        if fault is None and needs_rect and record.rect is None:
            fault = f"it has no rectangle, which the crop rule {self.crop!r} needs"
        if fault is not None:
            raise LabelError(self.describe(index), fault)
        square = self._square(record, image.shape)
        to_crop = crop_matrix(square, self.size)
        # Whether or not it is kept, a sample is made from the region: a cache must not change a pixel.
        factor = max(1, int(square.side / self.size / _OVERSAMPLING))
        half = self.augmentation.reach * square.side / 2
        margin = 4 * math.ceil(square.side / self.size) + 2
        x0, y0 = math.floor(square.cx - half) - margin, math.floor(square.cy - half) - margin
        x1, y1 = math.ceil(square.cx + half) + margin, math.ceil(square.cy + half) + margin
        reduced = reduce_region(image, x0, y0, x1, y1, factor)
        if reduced is None:
            # The labels lie outside the picture altogether; the crop is black.
            reduced = np.zeros((1, 1, 3), dtype=np.uint8), crop_matrix(SquareBox(x0, y0, 1.0), 1)
        region, to_region = reduced
        result = region, invert(to_region), to_crop
        if self._cache is not None:
            # A view would keep the whole picture alive.
            region = region.copy() if region.base is not None else region
            if region.nbytes <= self._cache_left:
                self._cache_left -= region.nbytes
                self._cache[index] = result = region, result[1], to_crop
        return result
