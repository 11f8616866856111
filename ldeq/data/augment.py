"""Random variation of training crops: one affine map for the geometry, a few table-driven steps for the colours.

Everything is a pure function of a ``numpy.random.Generator``: the same generator state gives the same picture.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from functools import lru_cache
from typing import Any

import cv2
import numpy as np

from ldeq.brief import brief_repr
from ldeq.data.crop import transform_points
from ldeq.data.layouts import Layout

from ..errors import ArgumentError
from ..spelling import did_you_mean

REFERENCE_SIZE = 256
"""Crop side in pixels at which blur radii are stated."""

_SCALE_LIMIT = 2.5
_LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)


@dataclass(frozen=True)
class Augmentation:
    """How training crops vary. Every ``*_p`` is a probability per sample; a zero strength switches a step off.

    Attributes:
        shift: largest shift in x and in y, as a fraction of the crop's side.
        shift_p: probability of a shift.
        rotation: largest rotation in degrees, about the crop's centre.
        rotation_p: probability of a rotation.
        scale: standard deviation of the size factor, which is drawn from N(1, scale) and held within 2.5 deviations.
        scale_p: probability of a change of size.
        flip_p: probability of a horizontal mirror; left and right labels are swapped with it.
        gamma: the exponent is drawn log-uniformly from 1 / (1 + gamma) to 1 + gamma.
        brightness: largest offset, as a fraction of the full range.
        contrast: largest relative change of contrast about mid-grey.
        colour: largest relative change of each colour channel.
        saturation: largest relative change of saturation.
        jitter_p: probability of the five above, together.
        gray_p: probability of a grey picture.
        noise: largest standard deviation of Gaussian noise, as a fraction of the full range.
        noise_p: probability of noise.
        blur: largest standard deviation of the Gaussian blur, in pixels of a 256-pixel crop; it shrinks and grows with
            the crop.
        blur_p: probability of a blur.
        occlusion: largest width and height of one rectangle of a random colour, as a fraction of the crop's side.
        occlusion_p: probability of that rectangle.

    Raises:
        ValueError: for a probability outside 0..1 or a strength that makes no sense.
    """

    shift: float = 0.0
    shift_p: float = 0.0
    rotation: float = 0.0
    rotation_p: float = 0.0
    scale: float = 0.0
    scale_p: float = 0.0
    flip_p: float = 0.0
    gamma: float = 0.0
    brightness: float = 0.0
    contrast: float = 0.0
    colour: float = 0.0
    saturation: float = 0.0
    jitter_p: float = 0.0
    gray_p: float = 0.0
    noise: float = 0.0
    noise_p: float = 0.0
    blur: float = 0.0
    blur_p: float = 0.0
    occlusion: float = 0.0
    occlusion_p: float = 0.0

    def __post_init__(self) -> None:
        for item in fields(self):
            value = getattr(self, item.name)
            if not math.isfinite(value) or value < 0:
                raise ArgumentError(f"augmentation {item.name} must be a finite number of at least 0, not {value}.")
            if item.name.endswith("_p") and value > 1:
                raise ArgumentError(f"augmentation {item.name} is a probability: choose 0 to 1, not {value}.")
        if self.scale * _SCALE_LIMIT >= 0.9:
            raise ArgumentError(f"augmentation scale is a standard deviation below 0.36, not {self.scale}.")
        for name in ("contrast", "colour", "saturation", "occlusion"):
            if getattr(self, name) > 1:
                raise ArgumentError(f"augmentation {name} is a fraction: choose 0 to 1, not {getattr(self, name)}.")

    @classmethod
    def none(cls) -> Augmentation:
        """No variation at all."""
        return cls()

    @classmethod
    def light(cls) -> Augmentation:
        """Small shifts, turns and changes of light: for short runs and small models."""
        return cls(
            shift=0.06, shift_p=0.8, rotation=20, rotation_p=0.6, scale=0.05, scale_p=0.8, flip_p=0.5,
            gamma=0.2, brightness=0.1, contrast=0.2, colour=0.1, saturation=0.3, jitter_p=0.5,
        )  # fmt: skip

    @classmethod
    def paper(cls) -> Augmentation:
        """What is known to work on WFLW: shift by 30 of 256 pixels, mirror, turn by 30 degrees, blur, occlude."""
        return cls(
            shift=30 / REFERENCE_SIZE, shift_p=0.5, flip_p=0.5, rotation=30, rotation_p=0.5, blur=5, blur_p=0.3,
            occlusion=0.4, occlusion_p=0.5,
        )  # fmt: skip

    @classmethod
    def strong(cls) -> Augmentation:
        """`paper` with changes of size, light, colour and noise on top."""
        return cls(
            shift=30 / REFERENCE_SIZE, shift_p=0.7, flip_p=0.5, rotation=30, rotation_p=0.7, scale=0.1, scale_p=0.8,
            gamma=0.5, brightness=0.15, contrast=0.3, colour=0.15, saturation=0.5, jitter_p=0.7, gray_p=0.1,
            noise=0.06, noise_p=0.25, blur=5, blur_p=0.3, occlusion=0.4, occlusion_p=0.5,
        )  # fmt: skip

    @classmethod
    def preset(cls, name: str) -> Augmentation:
        """The preset of a name: ``"none"``, ``"light"``, ``"paper"`` or ``"strong"``.

        Raises:
            ValueError: for an unknown name.
        """
        presets = {"none": cls.none, "light": cls.light, "paper": cls.paper, "strong": cls.strong}
        if name not in presets:
            raise ArgumentError(
                f"unknown augmentation {name!r}{did_you_mean(name, presets)}: choose one of {', '.join(map(repr, presets))}."
            )
        return presets[name]()

    @property
    def reach(self) -> float:
        """Side of the region that a sample may read, over the side of the plain crop (at least 1)."""
        shift = self.shift if self.shift_p else 0.0
        angle = math.radians(min(self.rotation, 45.0)) if self.rotation_p else 0.0
        smallest = 1.0 - _SCALE_LIMIT * self.scale if self.scale_p else 1.0
        return (1.0 + 2.0 * shift) * (math.cos(angle) + math.sin(angle)) / smallest

    def sample(self, rng: np.random.Generator, size: int) -> AugmentationSample:
        """Draw one variation for a crop of `size` x `size` pixels."""

        def happens(probability: float) -> bool:
            return probability > 0 and rng.random() < probability

        def spread(limit: float) -> float:
            return limit * (2.0 * rng.random() - 1.0)

        angle, factor, dx, dy = 0.0, 1.0, 0.0, 0.0
        if happens(self.rotation_p):
            angle = math.radians(spread(self.rotation))
        if happens(self.scale_p):
            factor = 1.0 + self.scale * min(max(rng.standard_normal(), -_SCALE_LIMIT), _SCALE_LIMIT)
        if happens(self.shift_p):
            dx, dy = spread(self.shift) * size, spread(self.shift) * size
        flip = happens(self.flip_p)
        drawn: dict[str, Any] = {}
        if happens(self.jitter_p):
            exponent = (1.0 + self.gamma) ** spread(1.0)
            gains = [1.0 + spread(self.colour) for _ in range(3)]
            drawn["lut"] = _table(exponent, spread(self.brightness), 1.0 + spread(self.contrast), gains)
            drawn["saturation"] = 1.0 + spread(self.saturation)
        if happens(self.gray_p):
            drawn["saturation"] = 0.0
        if happens(self.blur_p):
            drawn["blur"] = rng.random() * self.blur * size / REFERENCE_SIZE
        if happens(self.noise_p):
            drawn["noise"] = 255.0 * self.noise * rng.random()
            drawn["noise_offset"] = int(rng.integers(1 << 31))
        if happens(self.occlusion_p):
            width, height = (max(1, round(self.occlusion * rng.random() * size)) for _ in range(2))
            x, y = int(rng.integers(size - width + 1)), int(rng.integers(size - height + 1))
            drawn["occluder"] = (x, y, x + width, y + height)
            drawn["occluder_colour"] = tuple(int(v) for v in rng.integers(0, 256, 3))
        return AugmentationSample(size, _similarity(size, angle, factor, dx, dy, flip), flip, **drawn)


@dataclass(frozen=True, eq=False)
class AugmentationSample:
    """One drawn variation.

    Attributes:
        size: side of the crop in pixels.
        matrix: `(2, 3)` float64, from index in the plain crop to index in the varied crop, the mirror included.
        flip: whether `matrix` mirrors, so that left and right landmarks have to be swapped.
        lut: `(1, 256, 3)` uint8 table for the colours, or None.
        saturation: 1 leaves colours, 0 makes them grey.
        blur: standard deviation in pixels.
        noise: standard deviation in grey levels.
        noise_offset: which noise.
        occluder: (x1, y1, x2, y2) in pixels, x2 and y2 exclusive, or None.
        occluder_colour: its RGB colour.
    """

    size: int
    matrix: np.ndarray
    flip: bool
    lut: np.ndarray | None = None
    saturation: float = 1.0
    blur: float = 0.0
    noise: float = 0.0
    noise_offset: int = 0
    occluder: tuple[int, int, int, int] | None = None
    occluder_colour: tuple[int, int, int] = (0, 0, 0)

    __repr__ = brief_repr

    def points(self, points: np.ndarray, layout: Layout, axis: float = 0.0) -> np.ndarray:
        """Labels of the varied crop from those of the plain crop: `(..., K, 2)` crop pixels to the same.

        Args:
            points: labels of the plain crop.
            layout: what they mean.
            axis: how far they lie to the right of the pictures' mirror axis, in pixels of the plain crop. The mirrored labels
                then lie as far to the right of it, and not to the left.
        """
        if not self.flip:
            return transform_points(self.matrix, points)
        other_side = np.asarray(points, np.float64) - (2.0 * axis, 0.0)
        return transform_points(self.matrix, other_side)[..., layout.mirror_index, :]

    def photometric(self, image: np.ndarray) -> np.ndarray:
        """Colours, blur, noise and occlusion of a warped crop: `(S, S, 3)` RGB uint8 to the same; the input is kept."""
        result = image
        if self.lut is not None:
            result = cv2.LUT(result, self.lut)
        if self.saturation == 0.0:
            result = cv2.cvtColor(cv2.cvtColor(result, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
        elif self.saturation != 1.0:
            mix = self.saturation * np.eye(3, dtype=np.float32) + (1.0 - self.saturation) * _LUMA
            result = cv2.transform(result, mix)
        # Below a third of a pixel a blur changes nothing that eight bits can show.
        if self.blur > 0.3:
            result = cv2.GaussianBlur(result, (0, 0), self.blur)
        if self.noise > 0:
            field = _noise_field()
            start = self.noise_offset % (field.size - result.size) if field.size > result.size else 0
            noise = np.resize(field[start : start + result.size], result.shape)
            result = cv2.addWeighted(result.astype(np.float32), 1.0, noise, self.noise, 0.0, dtype=cv2.CV_8U)
        if self.occluder is not None:
            x1, y1, x2, y2 = self.occluder
            result = result.copy() if result is image else result
            result[y1:y2, x1:x2] = self.occluder_colour
        return result


def _similarity(size: int, angle: float, factor: float, dx: float, dy: float, flip: bool) -> np.ndarray:
    """Turn and resize about the crop's centre, shift, then mirror."""
    centre = (size - 1) / 2
    cosine, sine = factor * math.cos(angle), factor * math.sin(angle)
    matrix = np.array([[cosine, -sine, 0.0], [sine, cosine, 0.0]])
    matrix[0, 2] = centre + dx - (cosine - sine) * centre
    matrix[1, 2] = centre + dy - (sine + cosine) * centre
    if flip:
        matrix[0] *= -1.0
        matrix[0, 2] += size - 1
    return matrix


def _table(exponent: float, brightness: float, contrast: float, gains: list[float]) -> np.ndarray:
    level = np.linspace(0.0, 1.0, 256, dtype=np.float32) ** np.float32(exponent)
    level = (level - 0.5) * np.float32(contrast) + np.float32(0.5 + brightness)
    table = level[:, None] * np.asarray(gains, dtype=np.float32) * 255.0 + 0.5
    return np.clip(table, 0.0, 255.0).astype(np.uint8)[None]


@lru_cache(maxsize=1)
def _noise_field() -> np.ndarray:
    # A fixed field read from a random place costs a tenth of drawing fresh normals, and stays a function of the draw.
    return np.random.default_rng(98).standard_normal(1 << 20, dtype=np.float32)
