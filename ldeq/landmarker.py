"""Landmarks for people: load a model, give it a picture, get points in the picture's pixels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from .data import Layout, SquareBox, crop_box, crop_matrix, invert, normalise, read_image, transform_points, warp
from .detection import detect_faces
from .engine.device import resolve_device
from .engine.weights import Pretrained, load_pretrained

Image = str | Path | NDArray[np.uint8]


@dataclass(frozen=True)
class Face:
    """One face.

    Attributes:
        points: `(K, 2)` float32, x and y in pixels of the picture; the centre of the first pixel is (0, 0).
        std: `(K,)` float32, the model's own standard deviation of each point, in the same pixels.
        box: (x1, y1, x2, y2), tight around the points, in pixels.
        layout: the landmarks' names, pairs and parts.
    """

    points: NDArray[np.float32]
    std: NDArray[np.float32]
    box: tuple[float, float, float, float]
    layout: Layout


class Landmarker:
    """Finds faces and their landmarks.

    ```python
    lm = Landmarker.load("small-68")
    for face in lm("face.jpg"):
        face.points         # (68, 2)
    ```
    """

    def __init__(self, pretrained: Pretrained) -> None:
        self.pretrained = pretrained
        self.model = pretrained.model
        self.layout = pretrained.layout

    @classmethod
    def load(cls, name: str | Path = "small-68", device: str = "auto") -> Landmarker:
        """
        Args:
            name: a shipped model, or the path of a ``.safetensors`` file written by ldeq.
            device: ``"auto"`` takes a GPU where there is one, else ``"cpu"``, ``"cuda"``, ``"cuda:1"``.

        Raises:
            CheckpointError: if there is no such model or the file is damaged.
            SettingsError: if the device does not exist.
        """
        return cls(load_pretrained(name, resolve_device(device)))

    def __call__(
        self, image: Image, boxes: ArrayLike | None = None, *, cropped: bool = False, refine: int | None = None
    ) -> list[Face]:
        """Landmarks of every face.

        Args:
            image: a path, or an RGB picture `(H, W, 3)` uint8.
            boxes: `(N, 4)`, x1 y1 x2 y2 in pixels, tight around the landmarks (jaw to brows); no detector runs then.
            cropped: the picture is one face, cropped as for training; no detector runs then.
            refine: how often the crop is taken anew around the landmarks found. By default twice behind the detector, whose
                boxes are coarse, and not at all for boxes and crops that were given.

        Returns:
            One `Face` a box, in the order of the boxes; detected faces largest first. Empty if none is found.

        Raises:
            ImageError: if the file cannot be read.
            ValueError: for a picture or boxes of another shape.
        """
        pixels = _pixels(image)
        if boxes is not None and cropped:
            raise ValueError("give boxes or cropped=True, not both")
        if cropped:
            height, width = pixels.shape[:2]
            side = float(max(height, width))
            squares = [SquareBox.about((width - 1) / 2, (height - 1) / 2, side)]
        else:
            tight = detect_faces(pixels) if boxes is None else _checked_boxes(boxes)
            squares = [crop_box("box", box=b, scale=self.pretrained.crop_scale) for b in tight]
        if not squares:
            return []
        if refine is None:
            refine = 2 if boxes is None and not cropped else 0
        for _ in range(refine):
            points, _ = self._predict(pixels, squares)
            squares = [crop_box("landmarks", points=p, scale=self.pretrained.crop_scale) for p in points]
        points, std = self._predict(pixels, squares)
        return [self._face(p, s) for p, s in zip(points, std, strict=True)]

    @torch.no_grad()
    def _predict(
        self, image: NDArray[np.uint8], squares: Sequence[SquareBox]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Points `(N, K, 2)` and deviations `(N, K)` in pixels of the picture."""
        size = self.model.config.image_size
        device = next(self.model.parameters()).device
        matrices = [crop_matrix(square, size) for square in squares]
        crops = np.stack([warp(image, matrix, size) for matrix in matrices])
        out = self.model(normalise(torch.from_numpy(crops).permute(0, 3, 1, 2).to(device)))
        unit = out.landmarks.cpu().numpy() * size
        points = np.stack([transform_points(invert(m), p) for m, p in zip(matrices, unit, strict=True)])
        scales = np.array([square.side for square in squares], np.float32)
        return points.astype(np.float32), out.std.cpu().numpy() * scales[:, None]

    def _face(self, points: NDArray[np.float32], std: NDArray[np.float32]) -> Face:
        (x1, y1), (x2, y2) = points.min(0).tolist(), points.max(0).tolist()
        return Face(points, std, (x1, y1, x2, y2), self.layout)


def _pixels(image: Image) -> NDArray[np.uint8]:
    if isinstance(image, str | Path):
        return read_image(image, exif=True)
    if not isinstance(image, np.ndarray) or image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        what = f"{image.dtype} {image.shape}" if isinstance(image, np.ndarray) else type(image).__name__
        raise ValueError(f"image must be a path or an RGB uint8 array (H, W, 3), got {what}")
    return image


def _checked_boxes(boxes: ArrayLike) -> NDArray[np.float64]:
    array = np.asarray(boxes, np.float64)
    if array.ndim != 2 or array.shape[1] != 4:
        raise ValueError(f"boxes must have shape (N, 4), x1 y1 x2 y2 in pixels, got {array.shape}")
    if len(array) and not ((array[:, 2] > array[:, 0]) & (array[:, 3] > array[:, 1])).all():
        raise ValueError("boxes must be x1, y1, x2, y2 with x1 < x2 and y1 < y2")
    return array
